"""Who may go on reading when a download is begun anew."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.domain.errors import ContentMismatchError
from mirror.domain.names import Digest, Repository
from mirror.store.layout import Layout
from mirror.store.partial import Partial
from mirror.transfer.bodies import FillBody
from mirror.transfer.fill import HOLD_BACK_BYTES, Fill
from tests.fakes.content import blob
from tests.unit.transfer.scripted import SOURCE, Rig, rig_of

PUSHED = blob(HOLD_BACK_BYTES + 1000)
WRONG = b"x" + PUSHED.content[1:]
DIGEST = Digest.parse(PUSHED.digest)
READ_BYTES = 500


@pytest.fixture
def partials(tmp_path: Path) -> Iterator[list[Partial]]:
    """What is wrong, and what is right; each of them written in part."""
    layout, found = Layout(tmp_path), []
    layout.partials.mkdir(parents=True)
    for name in ("wrong", "right"):
        path, target = layout.partials / name, layout.blob(DIGEST)
        found.append(Partial(DIGEST, path, target, layout.replace_file))
    yield found
    for partial in found:
        partial.close()


async def begun_anew(partials: list[Partial], content: bytes) -> Fill:
    """Return a fill that was wrong, and that goes on with *content* from the first byte."""
    wrong, right = partials
    fill = Fill(DIGEST, "_", Repository("docker.io", "library/a"), None)
    wrong.write([WRONG])
    fill.begin(wrong, PUSHED.size_bytes)
    fill.show(wrong.length_bytes)
    assert await fill.beyond(0, 1) == 1000
    fill.start_over(right)
    right.write([content])
    fill.show(right.length_bytes)
    return fill


async def test_a_reader_of_what_was_wrong_is_cut_off(partials: list[Partial]) -> None:
    fill = await begun_anew(partials, PUSHED.content)
    with pytest.raises(ContentMismatchError, match="was wrong from byte 0 on"):
        await fill.beyond(READ_BYTES, 1, 0)


async def test_a_reader_of_what_was_right_so_far_goes_on(partials: list[Partial]) -> None:
    fill = await begun_anew(partials, WRONG)  # as it was before, so all of it agrees
    assert await fill.beyond(READ_BYTES, 1, 0) == 1000


async def test_who_has_come_since_has_read_nothing_wrong(partials: list[Partial]) -> None:
    fill = await begun_anew(partials, PUSHED.content)
    assert await fill.beyond(0, 1, None) == 1000
    assert await fill.beyond(READ_BYTES, 1, fill.beginnings) == 1000


async def test_who_has_no_byte_yet_cannot_have_a_wrong_one(partials: list[Partial]) -> None:
    """A range of the middle that waited for its first byte meanwhile."""
    fill = await begun_anew(partials, PUSHED.content)
    assert await fill.beyond(READ_BYTES, 1, None) == 1000


def test_what_was_here_before_says_nothing_of_the_pace(tmp_path: Path) -> None:
    async def look(rig: Rig) -> list[bool]:
        fill = Fill(DIGEST, "_", SOURCE, None)
        fill.resumed_bytes, fill.received_bytes = 5000, 5010
        fill.first_byte_at = asyncio.get_running_loop().time() - 10  # a byte a second
        body = FillBody(fill, SOURCE, rig.direct, 60)
        found = [body._is_far(offset) for offset in (5060, 5100)]
        await body.close()
        return found

    with rig_of(tmp_path) as (runner, rig):
        assert runner.run(look(rig)) == [False, True]
