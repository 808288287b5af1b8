"""Changes while the configuration, the index or the disk is not as it was."""

import asyncio
import io
from pathlib import Path

import pytest

from mirror.settings import Cache, Policy
from mirror.store import store as store_module
from tests.fakes.clock import FakeClock
from tests.fakes.content import blob
from tests.unit.store.test_store import commit, is_here, store_of

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
