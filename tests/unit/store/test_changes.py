"""Changes while the configuration, the index or the disk is not as it was."""

import asyncio
import io
from pathlib import Path

import pytest

from mirror.domain.names import ANONYMOUS_SCOPE, Digest
from mirror.settings import Cache, Policy
from mirror.store import store as store_module
from mirror.store.database import Row
from mirror.store.index import Index, IndexBrokenError, object_key
from mirror.store.sweep import Sweep
from tests.fakes.clock import FakeClock
from tests.fakes.content import blob
from tests.unit.store.test_store import commit, files, is_here, store_of

# --- the house ---------------------------------------------------------------------------------


async def test_a_reload_while_objects_expire_does_no_harm(tmp_path: Path) -> None:
    expiring = Policy(expire_after_seconds=3600)
    policies = {"ghcr.io": expiring, "docker.io": expiring}
    clock = FakeClock(1e9)
    async with store_of(tmp_path, clock=clock, policies=policies) as store:
        await commit(store, blob(1000))
        clock.advance(4000)

        async def reload() -> None:
            store.reload(Cache(directory=tmp_path), {"docker.io": expiring})

        store.changes._write_uses = reload  # awaited before each upstream
        await store.changes.expire()

        assert not await is_here(store, blob(1000))


async def test_the_house_is_kept_on_after_whatever_went_wrong(
    tmp_path: Path, log_lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_FLUSH_EVERY_SECONDS", 0)
    async with store_of(tmp_path) as store:
        has_gone_on, rounds = asyncio.Event(), 0

        async def expire() -> None:
            nonlocal rounds
            rounds += 1
            if rounds == 1:
                raise RuntimeError("a defect of ours")
            has_gone_on.set()

        monkeypatch.setattr(store.changes, "expire", expire)
        keeping = asyncio.create_task(store.keep_house())
        try:
            async with asyncio.timeout(5):
                await has_gone_on.wait()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
    assert "the house could not be kept" in log_lines.getvalue()
    assert "Traceback" in log_lines.getvalue()


# --- an index that does not answer -------------------------------------------------------------


def break_index(index: Index, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Have a row neither read nor written."""
    read = index.row

    def row(asked: str, kind: type[Row]) -> Row | None:
        if asked == key:
            raise IndexBrokenError("it is locked, or cannot be written")
        return read(asked, kind)

    monkeypatch.setattr(index, "row", row)


@pytest.mark.parametrize("is_here", [True, False])
async def test_a_file_stays_while_nobody_can_tell_whether_it_has_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_here: bool
) -> None:
    pushed = blob(1000)
    async with store_of(tmp_path) as store:
        if is_here:
            await commit(store, pushed)
        break_index(store.parts.index, monkeypatch, object_key(pushed.digest))
        with pytest.raises(IndexBrokenError):
            await commit(store, pushed)
        monkeypatch.undo()

        assert files(tmp_path) == {pushed.digest: 1000}
        assert store.space.stored_bytes == (1000 if is_here else 0)
    async with store_of(tmp_path) as store:  # which finds it in the journal
        stored = await store.content(Digest.parse(pushed.digest), ANONYMOUS_SCOPE)
        assert stored == pushed.content
        assert store.space.stored_bytes == 1000


async def test_a_file_that_has_no_row_and_gets_none_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = blob(1000)
    async with store_of(tmp_path) as store:

        def full(*_: object) -> None:
            raise IndexBrokenError("the disk is full", is_full=True)

        monkeypatch.setattr(store.parts.index, "_add", full)
        with pytest.raises(IndexBrokenError):
            await commit(store, pushed)
        assert files(tmp_path) == {}
        await store.changes.settle()
        assert store.parts.index.pending_commit() is None


async def test_a_sweep_removes_nothing_while_the_index_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = blob(1000)
    async with store_of(tmp_path) as store:
        await commit(store, pushed)
        break_index(store.parts.index, monkeypatch, object_key(pushed.digest))
        with pytest.raises(IndexBrokenError):
            await Sweep(store, lambda *_: 3600).run()
        assert files(tmp_path) == {pushed.digest: 1000}
