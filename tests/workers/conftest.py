"""What the tests of a mirror with workers share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.upstream.pulling import Guarded, guarded
from tests.workers.processes import MirrorProcess, mirror_process


@pytest.fixture
async def site() -> AsyncIterator[Guarded]:
    """Return a registry that asks for tokens, with an image."""
    async with guarded() as site:
        yield site


@pytest.fixture
async def mirror(tmp_path: Path, site: Guarded) -> AsyncIterator[MirrorProcess]:
    """Return a mirror with four workers."""
    async with mirror_process(tmp_path, upstream_of(site)) as running:
        yield running


def upstream_of(site: Guarded) -> dict[str, object]:
    """Return the settings of a registry that asks for tokens."""
    return {"endpoints": [site.registry.url], "realms": [site.tokens.host]}
