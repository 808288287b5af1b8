"""A sweep looks once more at what it removes: what has come meanwhile stays."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mirror.domain.names import Digest, Tag
from mirror.store.refs import TagRef
from mirror.store.rows import TagRow
from mirror.store.store import Store
from mirror.store.sweep import Leftover, Sweep
from tests.fakes.clock import FakeClock
from tests.unit.store.test_store import REPOSITORY, store_of

V1 = Tag("v1")
LOST = str(Digest.of(b"long gone"))
OLD, NOW = 1e9, 2e9
HISTORY = ((str(Digest.of(b"before")), 5e8),)


async def confirm(store: Store) -> None:
    await store.keep_tag(REPOSITORY, V1, TagRow(LOST, OLD, NOW, HISTORY))


async def begin_to_confirm(store: Store) -> None:
    """Do what comes first when a tag is confirmed: its row is still as it was."""
    store.refs.put_tag(REPOSITORY, V1, TagRef(LOST, OLD, NOW, HISTORY))


async def pin(store: Store) -> None:
    await store.pin(REPOSITORY, V1)


async def do_nothing(_store: Store) -> None:
    pass


@pytest.mark.parametrize(
    ("meanwhile", "stays"),
    [(confirm, True), (begin_to_confirm, True), (pin, True), (do_nothing, False)],
)
async def test_a_tag_is_looked_at_again_before_it_goes(
    tmp_path: Path, meanwhile: Callable[[Store], Awaitable[None]], *, stays: bool
) -> None:
    async with store_of(tmp_path, clock=FakeClock(NOW)) as store:
        await store.keep_tag(REPOSITORY, V1, TagRow(LOST, OLD, OLD, HISTORY))
        tags = 0
        async for found, remove in Sweep(store, lambda *_: 3600)._all():
            if found.kind is Leftover.TAG:
                tags += 1
                await meanwhile(store)
                assert await remove() is not stays

        row, ref = await store.facts.tag(REPOSITORY, V1), store.refs.tag(REPOSITORY, V1)
        assert (row is not None, ref is not None) == (stays, stays)
        assert tags == 1
        if row is not None:
            assert row.history == HISTORY
