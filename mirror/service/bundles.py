"""Carrying images from one cache to another: what is exported, and what an import refuses."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime

import msgspec

from mirror.domain.bundles import VERSION, BundleInvalidError, StoredInventory
from mirror.domain.errors import MirrorError
from mirror.domain.images import image_name, is_pattern
from mirror.domain.manifests import is_index
from mirror.domain.names import ANONYMOUS_SCOPE, Digest, Reference, Repository, Tag
from mirror.observe.logs import get_logger
from mirror.runtime.steps import in_steps
from mirror.service.refusals import RefusalCode, RefusedError, check_platforms
from mirror.store.exporting import ChangedError, IncompleteError, Packing, PrivateError, packed
from mirror.store.importing import Imported, imported
from mirror.store.index import object_key
from mirror.store.rows import ObjectRow
from mirror.store.space import NoSpaceError
from mirror.store.store import Store
from mirror.store.stored import is_whole
from mirror.store.unpacking import BundleMissingError

_OBJECTS = object_key("")
_log = get_logger("bundles")

Chosen = tuple[Repository, Reference]


class ExportWish(msgspec.Struct, frozen=True):
    """What is to be carried: images by name or glob, or all of them.

    ``since`` is a date (``2026-11-01``, or with a time): only what was first seen, or came in,
    not before it. Without ``platforms``: all that are whole here. ``private`` is also what came
    with credentials.
    """

    images: tuple[str, ...] = ()
    everything: bool = False
    since: str | None = None
    platforms: tuple[str, ...] = ()
    private: bool = False


class LeftOut(msgspec.Struct, frozen=True):
    """How many images that globs meant are not in a bundle.

    Those of ``private`` came with credentials; ``incomplete`` ones are not whole here. ``lists``
    are lists of referrers, of which a page is not here, and their images are in it.
    """

    private: int
    incomplete: int
    lists: int = 0


class Bundles:
    """Makes and takes bundles of one store."""

    def __init__(
        self,
        store: Store,
        named: Callable[[str], Chosen],
        matching: Callable[[list[str]], Awaitable[Iterable[Chosen]]],
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        """Set up.

        Args:
            store: Whose images.
            named: Reads the name of an image; raises RefusedError.
            matching: Returns the tags here that globs mean.
            settle: Waits until no other process goes by what was before.
        """
        self._store = store
        self._named = named
        self._matching = matching
        self._settle = settle
        self._is_importing = False

    # --- out -------------------------------------------------------------------------------

    async def inventory(self) -> StoredInventory:
        """Return what is here that anybody may see, for an export that leaves it out."""
        parts = self._store.parts

        def public(keys: Iterable[str]) -> Iterable[str]:
            for key in keys:
                row = parts.index.get(key, ObjectRow) if key.startswith(_OBJECTS) else None
                if row is None or ANONYMOUS_SCOPE not in row.scopes:
                    continue
                text = key.removeprefix(_OBJECTS)
                if is_whole(parts.layout.blob(Digest.parse(text)), row.size_bytes):
                    yield text

        keys = in_steps(parts.pools.inspect, public(parts.index.all_keys()), 500)
        found = [each async for each in keys]
        return StoredInventory(VERSION, tuple(sorted(found)))

    async def export(
        self, wish: ExportWish, present: frozenset[str] = frozenset()
    ) -> tuple[LeftOut, AsyncGenerator[bytes, None]]:
        """Gather what is meant, and return what is not in it, and the bundle piece by piece.

        Raises:
            RefusedError: it cannot be; before the first piece, or when an object goes meanwhile.
        """
        packing = await self._packing(wish, present)
        left_out = LeftOut(packing.private, packing.incomplete, packing.torn_lists)
        return left_out, self._pieces(packing)

    async def _pieces(self, packing: Packing) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in packed(self._store, packing):
                yield piece
        except ChangedError as error:
            raise RefusedError(RefusalCode.BUSY, str(error), "export again") from None

    async def _packing(self, wish: ExportWish, present: frozenset[str]) -> Packing:
        check_platforms(wish.platforms)
        since = _seconds(wish.since)
        packing = Packing(self._store, wish.platforms, present, with_private=wish.private)
        await self._store.flush()
        everything = wish.everything or (not wish.images and wish.since is not None)
        if not wish.images and not everything:
            raise RefusedError(
                RefusalCode.INVALID,
                "nothing says which images are meant",
                "name them, or say --all, --since or --missing-in",
            )
        for text in wish.images:
            if not is_pattern(text):
                await self._add_named(packing, text, since)
        globs = [each for each in wish.images if is_pattern(each)]
        chosen = await self._matching(globs) if globs or everything else ()
        await self._add_some(packing, chosen, since)
        if everything:
            pool = self._store.parts.pools.inspect
            loose = [each async for each in in_steps(pool, self._untagged(packing))]
            await self._add_some(packing, loose, since, is_counted=False)
        return packing

    async def _add_named(self, packing: Packing, text: str, since: float) -> None:
        repository, reference = self._named(text)
        name = image_name(repository, reference)
        pool = self._store.parts.pools.inspect
        try:
            if await pool.run(packing.add, repository, reference, since) or since:
                return
        except PrivateError:
            raise RefusedError(
                RefusalCode.INVALID,
                f"{name} came with credentials: it is not for everybody",
                "--with-private carries it all the same; keep the bundle as you keep a password",
            ) from None
        except IncompleteError:
            raise RefusedError(
                RefusalCode.NOT_FOUND,
                f"{name} is not whole here, for a platform that is wanted",
                f"`mirror prefetch {name}` fetches it",
            ) from None
        raise RefusedError(
            RefusalCode.NOT_FOUND, f"{name} is not here", f"`mirror prefetch {name}` fetches it"
        )

    async def _add_some(
        self, packing: Packing, chosen: Iterable[Chosen], since: float, *, is_counted: bool = True
    ) -> None:
        """Take what may be carried of some images; how many were left out is counted."""
        for repository, reference in chosen:
            try:
                await self._store.parts.pools.inspect.run(packing.add, repository, reference, since)
            except PrivateError:
                packing.private += is_counted
            except IncompleteError:
                packing.incomplete += is_counted

    def _untagged(self, packing: Packing) -> Iterable[Chosen]:
        """Yield the manifests that no image so far has led to, indexes first.

        Nothing has led to the images that an index has for other platforms, either: those are
        left out, and not taken for images of their own.
        """
        refs = self._store.refs
        for repository in refs.repositories():
            unchosen = packing.unchosen(repository)
            found = sorted(
                refs.all_manifests(repository), key=lambda one: not is_index(one[1].media_type)
            )
            for digest, _ in found:
                if digest not in unchosen and not packing.has(repository, digest):
                    yield repository, digest

    # --- in --------------------------------------------------------------------------------

    async def take(self, source: AsyncIterator[bytes]) -> Imported:
        """Import a bundle: all of it or, if something is wrong with it, nothing.

        Raises:
            RefusedError: it is not taken; the message says why.
        """
        if self._is_importing:
            raise RefusedError(
                RefusalCode.BUSY, "a bundle is being imported already", "wait until that has ended"
            )
        self._is_importing = True
        try:
            done = await self._taken(source)
        finally:
            self._is_importing = False
        await self._settle()
        _log.info("a bundle was imported", objects=done.objects, new_bytes=done.new_bytes)
        return done

    async def _taken(self, source: AsyncIterator[bytes]) -> Imported:
        try:
            return await imported(self._store, source)
        except BundleInvalidError as error:
            raise RefusedError(
                RefusalCode.UNFIT,
                f"the bundle is refused, nothing of it was entered: {error}",
                "carry it over again, and compare the files",
            ) from None
        except BundleMissingError as error:
            raise RefusedError(
                RefusalCode.UNFIT,
                f"the bundle is refused, nothing of it was entered: {error}, for example "
                f"{error.digests[0]}",
                "export anew with --missing-in an inventory of now, or without it",
            ) from None
        except NoSpaceError as error:
            raise RefusedError(
                RefusalCode.FULL, str(error), "raise cache.max_size, or carry fewer images"
            ) from None
        except (ChangedError, MirrorError) as error:
            raise RefusedError(RefusalCode.BUSY, str(error), "import it again") from None


def _seconds(text: str | None) -> float:
    """Return a date as seconds since 1970; without a zone it is UTC. Raises RefusedError."""
    if text is None:
        return 0
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise RefusedError(
            RefusalCode.INVALID,
            f"{text[:64]!r} is not a date",
            "write 2026-11-01, or 2026-11-01T12:00",
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def chosen_of(repository: str, tag: str | None, digest: str) -> Chosen:
    """Return an image of the inventory as values."""
    upstream, _, name = repository.partition("/")
    return Repository(upstream, name), Tag(tag) if tag else Digest.parse(digest)
