"""Writes docs/freshness.md from the table of decisions.

python -m tests.tools.freshness_reference > docs/freshness.md
"""

import sys
from collections.abc import Iterable
from enum import StrEnum

from mirror.domain.decisions import TABLE, Row

HEAD = """\
# What is served, and how fresh it is

<!-- Made by `python -m tests.tools.freshness_reference > docs/freshness.md`; do not edit. -->

Blobs and manifests asked for by digest never change, so they have no age. Tags, tags lists and
referrers lists do. What happens with one of them is decided by this table: the first row that
fits counts. A request is looked up before upstream is asked and, if it was, with what upstream
has said.

| here | age | upstream | what is done | why |
|---|---|---|---|---|
"""

FOOT = """
**Age.** *Fresh*: confirmed by upstream less than `policy.tag_ttl` ago, or as a rule of
`policy.tag_rules` says; `immutable: true` is fresh for ever. *Soon not fresh*: within
`policy.refresh_ahead` of that end (never more than the second half of the time). *Stale*: past
it, for up to `policy.stale_if_error` more. *Too old*: past that, too.

**A part.** A manifest is served only if what it refers to can be had: it is here, or upstream has
answered within the last 30 seconds. Of an index, one whole platform is enough.

**Known not to answer.** Each endpoint of an upstream has a circuit breaker: after three requests
in a row without the head of an answer nothing is asked for 1 s, then 2 s, up to 15 s; one request
at a time then tries. A 429 pauses the account that got it for as long as `Retry-After` says (60 s
without one); if it came for a manifest or a list, blobs are still asked for. A download that is
under way is not stopped by either.

**The pull budget.** Upstreams that send `ratelimit-limit` and `ratelimit-remaining` (Docker Hub)
have a budget for each account; `mirror ratelimit` shows it. While less than
`policy.rate_limit.low_water` is left, tags are believed `policy.rate_limit.stretch` times longer,
except those of repositories in `policy.rate_limit.reserve`; if that names any, manifests of all
other repositories that are not here yet are refused (503, `TOOMANYREQUESTS`), so that the rest is
kept for those.

**Marks.** A stale answer has `Cache-Status: mirror; hit; ttl=-N; detail=<why>` and a `Warning`, is
counted as `result="stale"`, and the log says why. `mirror explain` says for any image what the
next pull would do.
"""


def reference() -> str:
    """Return the page."""
    return HEAD + "".join(_line(row) for row in TABLE) + FOOT


def _line(row: Row) -> str:
    upstream = _any_of(row.upstream)
    if row.gone is not None:
        upstream += f", and `on_upstream_gone` is `{_any_of(row.gone)}` or it is pinned"
    cells = (_any_of(row.have), _any_of(row.age), upstream, row.action, row.why)
    return f"| {' | '.join(cells)} |\n"


def _any_of(values: Iterable[StrEnum] | None) -> str:
    return "any" if values is None else " or ".join(values)


if __name__ == "__main__":
    sys.stdout.write(reference())
