"""Runs checks: at once where they do not need each other, each within its time and all in theirs.

What blocks belongs in threads that the end of the process does not wait for: a look-up or a
network file system that hangs is a finding, and must not hold up the report.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final

from mirror.cli.doctor.finding import Check, Finding, State, Verdict, left_out, wrong
from mirror.observe.logs import redact_text

TOTAL_SECONDS: Final = 14.0
"""A person waits, and a probe of Kubernetes does not wait longer."""
NOT_TRIED: Final = "not tried"
_UNMET: Final = frozenset({State.FAILED, State.SKIPPED})


async def examine(checks: Sequence[Check], total_seconds: float = TOTAL_SECONDS) -> list[Finding]:
    """Return a finding for each check, in their order, in *total_seconds* at most."""
    ends_at = asyncio.get_running_loop().time() + total_seconds
    tasks: list[asyncio.Task[Finding]] = []
    by_key: dict[str, asyncio.Task[Finding]] = {}
    for check in checks:  # those that are needed come first in the list
        task = asyncio.create_task(_examined(check, dict(by_key), ends_at))
        by_key[check.key] = task
        tasks.append(task)
    return list(await asyncio.gather(*tasks))


async def _examined(
    check: Check, others: Mapping[str, "asyncio.Task[Finding]"], ends_at: float
) -> Finding:
    for key in (*check.after, *check.needs):
        if key in others:
            await asyncio.wait([others[key]])
    started = time.monotonic()
    needed = [others[key].result() for key in check.needs if key in others]
    unmet = [each.name for each in needed if each.state in _UNMET]
    verdict = (
        left_out(f"{NOT_TRIED}: see {', '.join(unmet)}")
        if unmet
        else await _verdict(check, min(check.limit_seconds, ends_at - _now()))
    )
    return Finding(
        check.group,
        check.name,
        verdict.state,
        redact_text(verdict.found),
        redact_text(verdict.remedy),
        round(time.monotonic() - started, 3),
    )


async def _verdict(check: Check, limit_seconds: float) -> Verdict:
    try:
        async with asyncio.timeout(max(0.0, limit_seconds)):
            return await check.examine()
    except TimeoutError:
        return wrong(
            f"no result within {max(0.0, limit_seconds):.0f} s",
            "what hangs here would hang in the mirror, too: look at the network or the disk "
            "that it needs",
        )
    except Exception as error:  # noqa: BLE001 -- one check that breaks must not hide the others
        return wrong(
            f"the check itself broke: {type(error).__name__}: {error}",
            "please report this as a mistake in Mirror",
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
