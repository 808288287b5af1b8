"""Pinned images are kept whole and fresh: what is missing is fetched without being asked for.

That is so for the pins of the configuration, and for those set by a command that name their
platforms; another one keeps what comes by pulls.
"""

import asyncio
from typing import Final

from mirror.domain.errors import MirrorError
from mirror.domain.images import image_name
from mirror.domain.names import Repository, parse_reference
from mirror.observe.logs import get_logger
from mirror.service.fetching import Fetching, Wish
from mirror.store.pins import Pin
from mirror.store.store import Store

EVERY_SECONDS: Final = 300.0
_log = get_logger("pins")


class Keeper:
    """Looks after the pins of one store."""

    def __init__(
        self, store: Store, fetching: Fetching, every_seconds: float = EVERY_SECONDS
    ) -> None:
        self._store = store
        self._fetching = fetching
        self._every_seconds = every_seconds
        self._wanted = asyncio.Event()

    def wake(self) -> None:
        """Look soon: the pins have changed."""
        self._wanted.set()

    async def run(self) -> None:
        """Fetch what is missing, now and every few minutes, for ever."""
        while True:
            self._wanted.clear()
            await self.look()
            try:
                async with asyncio.timeout(self._every_seconds):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Fetch what is missing of each pin; one that cannot be had does not stop the others."""
        for pin in self._store.pins.all:
            repository = Repository(pin.upstream, pin.repository)
            reference = parse_reference(pin.reference)
            if pin.platforms or self._store.pins.is_declared(repository, reference):
                await self._keep(repository, pin)

    async def _keep(self, repository: Repository, pin: Pin) -> None:
        reference = parse_reference(pin.reference)
        name = image_name(repository, reference)
        try:
            fetched = await self._fetching.image(
                repository, reference, Wish(platforms=pin.platforms)
            )
        except MirrorError as error:
            _log.warning("a pinned image is not whole", image=name, reason=str(error))
            return
        except OSError as error:
            _log.error("a pinned image could not be kept", image=name, reason=str(error))
            return
        except Exception:  # noqa: BLE001 -- the others are looked after all the same
            _log.exception("a pinned image failed unexpectedly", image=name)
            return
        if fetched.objects:
            _log.info(
                "a pinned image is whole",
                image=name,
                fetched_objects=fetched.objects,
                fetched_bytes=fetched.size_bytes,
            )
