"""What an operator may ask of the cache, in the names that people use.

The admin API and, while no mirror runs, the command line itself speak to this.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import msgspec

from mirror.domain.errors import MirrorError
from mirror.domain.images import image_matches, image_name, parse_image, parse_pin
from mirror.domain.names import Digest, Reference, Repository, Tag, parse_reference
from mirror.domain.routing import Table
from mirror.service.bundles import Bundles, Chosen, chosen_of
from mirror.service.refusals import RefusalCode, RefusedError, check_platforms
from mirror.store.checking import Check, Event
from mirror.store.inventory import ImageDetails, ImageFacts, Inventory
from mirror.store.pins import Pin
from mirror.store.referring import Referrer, Referring
from mirror.store.store import Store
from mirror.store.sweep import Sweep, Swept
from mirror.store.usage import Usage
from mirror.store.withdrawal import Removed, Withdrawal

__all__ = ["CacheAdmin", "PinFacts", "RefusalCode", "RefusedError", "parsed"]


class PinFacts(msgspec.Struct, frozen=True):
    """An image that is never evicted; no platforms means all.

    ``digest`` is what it means now, ``stored`` whether its manifest is here, ``held`` whether
    the tag stays at it whatever upstream says.
    """

    image: str
    platforms: tuple[str, ...]
    pinned_at: float
    digest: str | None
    stored: bool
    held: bool = False
    declared: bool = False
    """By the configuration, and not by a command."""


class CacheAdmin:
    """Looks after one store."""

    def __init__(
        self,
        store: Store,
        table: Callable[[], Table],
        sweep: Sweep,
        settled: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Set up; *settled* waits until no other process goes by what was before."""
        self._store = store
        self._table = table
        self._inventory = Inventory(store)
        self._referring = Referring(store)
        self._withdrawal = Withdrawal(store)
        self._sweep = sweep
        self._settled = settled
        self._is_checking = False
        self.bundles = Bundles(store, self._parsed, self._chosen, self._settle)
        self.hits: Callable[[str, str], int] | None = None
        """How often a repository's manifest was served by a tag or digest, while one counts."""
        self.on_pinned: Callable[[], None] = lambda: None

    # --- looking ---------------------------------------------------------------------------

    def totals(self) -> Usage:
        """Return how full the cache is."""
        return self._inventory.totals()

    async def usage(self) -> Usage:
        """Return how full the cache is, and what each repository has."""
        return await self._inventory.usage()

    async def images(
        self, patterns: Sequence[str] = (), *, untagged: bool = False
    ) -> list[ImageFacts]:
        """Return the images that one of the patterns means; without any, all."""
        images = await self._inventory.images(untagged=untagged)
        return [
            self._counted(each) for each in images if not patterns or self._is_meant(each, patterns)
        ]

    def _counted(self, image: ImageFacts) -> ImageFacts:
        if self.hits is None:
            return image
        hits = self.hits(image.repository, image.digest)
        hits += self.hits(image.repository, image.tag) if image.tag else 0
        return msgspec.structs.replace(image, hits=hits)

    def _is_meant(self, image: ImageFacts, patterns: Sequence[str]) -> bool:
        upstream, _, name = image.repository.partition("/")
        repository = Repository(upstream, name)
        tag = None if image.tag is None else Tag(image.tag)
        default = self._table().default
        return any(image_matches(each, repository, tag, image.digest, default) for each in patterns)

    async def _chosen(self, patterns: list[str]) -> list[Chosen]:
        images = await self.images(patterns)
        return [chosen_of(each.repository, each.tag, each.digest) for each in images]

    # --- removing --------------------------------------------------------------------------

    async def remove(self, references: Sequence[str], *, dry_run: bool) -> Removed:
        """Remove images and all that nothing else needs; raises RefusedError."""
        images = [self._parsed(each) for each in references]
        removed = await self._withdrawal.run(images, dry_run=dry_run)
        await self._settle()
        return removed

    async def _settle(self) -> None:
        if self._settled is not None:
            await self._settled()

    async def collect(self, *, dry_run: bool) -> Swept:
        """Remove what nothing needs."""
        return await self._sweep.run(dry_run=dry_run)

    async def verify(self, *, repair: bool) -> AsyncGenerator[Event, None]:
        """Read everything again and say what is wrong; raises RefusedError while one runs."""
        if self._is_checking:
            raise RefusedError(
                RefusalCode.BUSY,
                "the cache is being verified already",
                "wait until that has ended",
            )
        self._is_checking = True
        try:
            async for event in Check(self._store, repair=repair).run():
                yield event
        finally:
            self._is_checking = False

    # --- pins ------------------------------------------------------------------------------

    async def pins(self) -> list[PinFacts]:
        """Return all pins, in order."""
        pins = sorted(self._store.pins.all, key=lambda pin: (pin.upstream, pin.repository))
        return [await self._pin_facts(pin) for pin in pins]

    async def pin(self, text: str, platforms: Sequence[str] = ()) -> PinFacts:
        """Never evict an image, or those of its platforms; raises RefusedError."""
        self._parsed(text)
        check_platforms(platforms)
        repository, reference, held_at = parse_pin(text, self._table())
        await self._store.pin(repository, reference, tuple(platforms), held_at)
        await self._settle()
        self.on_pinned()
        name = image_name(repository, reference)
        for each in await self.pins():
            if each.image == name:
                return each
        raise RefusedError(
            RefusalCode.NOT_FOUND,
            f"{name} was unpinned again meanwhile",
            "pin it once more if it is to stay",
        )

    async def unpin(self, text: str) -> str:
        """Let an image go when its time comes; returns its name, raises RefusedError."""
        repository, reference = self._parsed(text)
        name = image_name(repository, reference)
        if self._store.pins.is_declared(repository, reference):
            raise RefusedError(
                RefusalCode.INVALID,
                f"{name} is pinned by the configuration",
                "take it out of `pins` there",
            )
        if not await self._store.unpin(repository, reference):
            raise RefusedError(
                RefusalCode.NOT_FOUND,
                f"{name} is not pinned",
                "`mirror cache pins` lists what is",
            )
        await self._settle()
        return name

    async def _pin_facts(self, pin: Pin) -> PinFacts:
        repository = Repository(pin.upstream, pin.repository)
        reference = parse_reference(pin.reference)
        digest = pin.digest or pin.reference
        if isinstance(reference, Tag) and pin.digest is None:
            row = await self._store.facts.tag(repository, reference)
            digest = row.digest if row else ""
        stored = digest and await self._store.facts.object(Digest.parse(digest))
        return PinFacts(
            image_name(repository, reference),
            pin.platforms,
            pin.pinned_at,
            digest or None,
            bool(stored),
            pin.digest is not None,
            self._store.pins.is_declared(repository, reference),
        )

    async def details(self, text: str) -> ImageDetails:
        """Return what is known of one image; raises RefusedError."""
        repository, reference = self._parsed(text)
        details = await self._inventory.details(repository, reference)
        if details is None:
            raise RefusedError(
                RefusalCode.NOT_FOUND,
                f"{image_name(repository, reference)} is not here",
                "`mirror cache ls` lists what is",
            )
        return msgspec.structs.replace(details, image=self._counted(details.image))

    async def referrers(self, text: str) -> list[Referrer]:
        """Return what is known to refer to an image; raises RefusedError."""
        digest = Digest.parse((await self.details(text)).image.digest)
        return await self._referring.to(self._parsed(text)[0], digest)

    def _parsed(self, text: str) -> tuple[Repository, Reference]:
        return parsed(text, self._table())


def parsed(text: str, table: Table) -> tuple[Repository, Reference]:
    """Read the name of an image; raises RefusedError."""
    try:
        return parse_image(text, table)
    except MirrorError as error:
        raise RefusedError(
            RefusalCode.INVALID,
            f"{text[:256]!r} does not name an image: {error}",
            "write for example alpine:3.20, ghcr.io/org/app:v1 or …@sha256:…",
        ) from None
