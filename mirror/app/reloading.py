"""A new configuration while the mirror goes on: at SIGHUP, and when its file has changed."""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mirror import config
from mirror.app.following import NeedsRestartError
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.certificates import CertificateError
from mirror.runtime.files import Identity, identity
from mirror.runtime.pools import Pool
from mirror.settings import Settings

LOOK_EVERY_SECONDS: Final = 2.0
_log = get_logger("app")


class Reloading:
    """Reads the configuration again and gives it to whoever follows it."""

    def __init__(
        self,
        source: Path | None,
        apply: Callable[[Settings], list[str]],
        pool: Pool,
        metrics: Metrics,
        *,
        named: Callable[[], Sequence[Path]] = tuple,
        look_every_seconds: float = LOOK_EVERY_SECONDS,
    ) -> None:
        """Set up.

        Args:
            source: The file, if there is one.
            apply: Goes over to new settings; returns what needs a restart.
            pool: The threads in which the file is read.
            metrics: Where reloads are counted.
            named: Returns the files that the configuration names and that count as part of it.
            look_every_seconds: How often the file is looked at.
        """
        self._source = source
        self._apply = apply
        self._pool = pool
        self._metrics = metrics
        self._named = named
        self._look_every_seconds = look_every_seconds
        self._wanted = asyncio.Event()

    def request(self) -> None:
        """Reload soon: what SIGHUP does."""
        self._wanted.set()

    async def watch(self) -> None:
        """Reload whenever that is requested or a file has changed, for ever.

        The file is looked at and not watched: a ConfigMap is swapped by a symbolic link
        two directories up, which each file system tells in its own way, and some in none.
        """
        known = await self._look()
        while True:
            try:
                async with asyncio.timeout(self._look_every_seconds):
                    await self._wanted.wait()
            except TimeoutError:
                found = await self._look()
                if found == known or self._source not in found:
                    continue  # a file that is gone for a moment is being replaced
            self._wanted.clear()
            known = await self._look()
            await self.reload()
            # Other files may be named now; what has changed meanwhile is met by the next look.
            known = {path: known.get(path, now) for path, now in (await self._look()).items()}

    async def reload(self) -> None:
        """Read the configuration and go over to it; one with mistakes changes nothing."""
        try:
            loaded = await self._pool.run(config.load, self._source, os.environ)
            restart = self._apply(loaded.settings)
        except (config.ConfigError, CertificateError, NeedsRestartError) as error:
            self._metrics.config_reloads.labels("refused").inc()
            _log.error("the configuration cannot be used; the old one stays", problems=str(error))
            return
        except Exception:  # noqa: BLE001 -- the next one may be right
            self._metrics.config_reloads.labels("refused").inc()
            _log.exception("the configuration could not be applied")
            return
        self._metrics.config_reloads.labels("applied").inc()
        _log.info("the configuration was read again", source=str(loaded.source or "built-in"))
        if restart:
            _log.warning("some of it needs a restart", keys=restart)

    async def _look(self) -> dict[Path, Identity]:
        files = () if self._source is None else (self._source, *self._named())
        found = await self._pool.run(lambda: {path: identity(path) for path in files})
        return {path: each for path, each in found.items() if each is not None}
