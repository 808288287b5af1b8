"""Pins are set from several threads at once: none is lost, and the newest look counts."""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from mirror.domain.names import Digest, Repository, Tag
from mirror.store.layout import Layout
from mirror.store.refs import TagRef
from tests.unit.store.test_store import REPOSITORY, store_of

OLD, NEW = str(Digest.of(b"old")), str(Digest.of(b"new"))
_OVERTAKEN_SECONDS: Final = 0.1
"""For how long a thread waits for another to overtake it, which a lock forbids."""


async def test_pins_that_are_set_at_once_are_all_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, write = threading.Barrier(2, timeout=_OVERTAKEN_SECONDS), Layout.replace_file

    def slowly(layout: Layout, path: Path, content: bytes) -> None:
        with suppress(threading.BrokenBarrierError):
            both.wait()  # both have read what was there before
        write(layout, path, content)

    tags = Tag("v1"), Tag("v2")
    async with store_of(tmp_path) as store:
        monkeypatch.setattr(Layout, "replace_file", slowly)
        await asyncio.gather(*(store.pin(REPOSITORY, tag) for tag in tags))
        monkeypatch.undo()
        assert [store.pins.has(REPOSITORY, tag) for tag in tags] == [True, True]
    async with store_of(tmp_path) as store:
        assert [store.pins.has(REPOSITORY, tag) for tag in tags] == [True, True]


async def test_a_slow_look_does_not_undo_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_of(tmp_path) as store:
        await store.pin(REPOSITORY, Tag("v1"))
        store.refs.put_tag(REPOSITORY, Tag("v1"), TagRef(OLD, 1, 1))
        has_read, is_newer, read = threading.Event(), threading.Event(), store.refs.tag

        def slowly(repository: Repository, tag: Tag) -> TagRef | None:
            ref = read(repository, tag)
            if not has_read.is_set():
                has_read.set()
                is_newer.wait(_OVERTAKEN_SECONDS)
            return ref

        def look_again() -> None:
            has_read.wait(5)
            store.refs.put_tag(REPOSITORY, Tag("v1"), TagRef(NEW, 2, 2))
            store.pins.look()
            is_newer.set()

        monkeypatch.setattr(store.refs, "tag", slowly)
        fill = store.parts.pools.fill
        await asyncio.gather(fill.run(store.pins.look), fill.run(look_again))
        assert store.pins.digests == {NEW}
