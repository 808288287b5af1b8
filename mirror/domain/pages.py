"""Lists in pages: tags, referrers, catalogue.

Source: distribution-spec v1.1.1, "Content Discovery", and RFC 8288 for ``Link``.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from mirror.domain.errors import PageSizeInvalidError

PAGE_MAX_ENTRIES: Final = 10_000
_TARGET: Final = re.compile(r"[\s,]*<([^<>]*)>")
_PARAMETER: Final = re.compile(
    r"""\s*;\s*(?P<name>[\w!#$&+.^`|~-]+)\s*(?:=\s*(?:"(?P<quoted>[^"]*)"|(?P<token>[^\s",;]*)))?""",
    re.ASCII,
)

Query = tuple[tuple[str, str], ...]


def page_size(query: Query) -> int | None:
    """Return the ``n`` of a list request, at most ``PAGE_MAX_ENTRIES``; ``None``: not given.

    Raises:
        PageSizeInvalidError: it is not a number of entries.
    """
    text = dict(query).get("n")
    if text is None or not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise PageSizeInvalidError(text)
    return min(int(text.lstrip("0")[:9] or "0"), PAGE_MAX_ENTRIES)


def bounded(query: Query) -> Query:
    """Return a query with its ``n`` as it is read here: so it goes to upstream, and into keys.

    Raises:
        PageSizeInvalidError: it is not a number of entries.
    """
    size = page_size(query)
    others = tuple((key, value) for key, value in query if key != "n")
    return others if size is None else (("n", str(size)), *others)


def next_query(link: str | None) -> Query | None:
    """Return the query of the next page that a ``Link`` header names.

    Only the query counts: the page is asked for at our own path, and by us at upstream's,
    so the header cannot lead anywhere else (case S4).
    """
    target = next((url for url, relations in _links(link or "") if "next" in relations), None)
    if target is None:
        return None
    try:
        fields = parse_qsl(urlsplit(target).query, keep_blank_values=True, max_num_fields=32)
    except ValueError:
        return None
    return tuple((key, value) for key, value in fields if key != "ns") or None


def _links(header: str) -> Iterator[tuple[str, list[str]]]:
    """Read a Link header from left to right, as far as it is one: targets and relations."""
    place = 0
    while target := _TARGET.match(header, place):
        place, relations = target.end(), ""
        while parameter := _PARAMETER.match(header, place):
            place = parameter.end()
            if parameter["name"].lower() == "rel":
                relations = relations or parameter["quoted"] or parameter["token"] or ""
        yield target[1], relations.lower().split()


def cut(entries: Sequence[str], size: int | None, last: str | None) -> tuple[list[str], bool]:
    """Return one page of *entries* in ASCII order, and whether more follow."""
    behind = sorted(entry for entry in entries if last is None or entry > last)
    if size is None:
        return behind, False
    return behind[:size], len(behind) > size > 0


def ignored_paging(tags: Sequence[str], size: int | None, last: str | None) -> bool:
    """Return whether an upstream sent all tags though a page was asked for.

    distribution 2.x does. Others may sort differently, so a page that is not too long is
    left as it came.
    """
    too_long = size is not None and len(tags) > size
    return too_long or (last is not None and last in tags)
