"""Reads a bundle as it comes: every byte is checked before anything is entered.

The objects wait in files of their own, in the place and with the room that a download would
have. The next start removes what a crash leaves of them.
"""

import hashlib
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from mirror.domain.bundles import (
    BLOCK_BYTES,
    CONTENTS,
    CONTENTS_MAX_BYTES,
    END,
    INDEX,
    LAYOUT,
    LAYOUT_CONTENT,
    SIGNATURE,
    SIGNATURE_BYTES,
    BundledObject,
    BundleInvalidError,
    Contents,
    header,
    object_path,
    padding,
    read_contents,
    read_size,
)
from mirror.domain.errors import ManifestInvalidError
from mirror.domain.manifests import Manifest, read_manifest
from mirror.domain.names import Digest
from mirror.store.exporting import ChangedError
from mirror.store.space import NoSpaceError, Reservation
from mirror.store.store import Store
from mirror.store.stored import is_whole

_PIECE_BYTES: Final = 1 << 20
_TRAILER_MAX_BYTES: Final = 1 << 20
_NUMBERS: Final = itertools.count()


class BundleMissingError(Exception):
    """Objects that a bundle does not carry are not here, either."""

    def __init__(self, digests: list[str]) -> None:
        super().__init__(f"{len(digests)} objects that it does not carry are not here")
        self.digests = digests


class Pieces:
    """Bytes that come in pieces of any length, taken in the lengths that are wanted."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self._rest = b""

    async def exactly(self, count: int) -> bytes:
        """Return so many bytes; raises BundleInvalidError: it ends before."""
        parts, missing = [], count
        while missing:
            piece = await self.some(missing)
            if not piece:
                raise BundleInvalidError("the bundle ends in the middle")
            parts.append(piece)
            missing -= len(piece)
        return b"".join(parts)

    async def some(self, count: int) -> bytes:
        """Return at most so many bytes, none at the end."""
        while not self._rest:
            piece = await anext(self._source, None)
            if piece is None:
                return b""
            self._rest = piece
        piece, self._rest = self._rest[:count], self._rest[count:]
        return piece


@dataclass(slots=True)
class Waiting:
    """An object that has come and is right; it has no name yet."""

    entry: BundledObject
    path: Path
    reservation: Reservation

    def drop(self) -> None:
        """Remove it, unless it has got its name."""
        self.path.unlink(missing_ok=True)
        self.reservation.release()


class Unpacking:
    """One bundle on its way in; ``close`` removes all of it that was not entered."""

    def __init__(self, store: Store, source: AsyncIterator[bytes]) -> None:
        self._store = store
        self._parts = store.parts
        self._pieces = Pieces(source)
        self.waiting: dict[str, Waiting] = {}
        self.received_bytes = 0

    async def read(self) -> Contents:
        """Read all of it to its end.

        Raises:
            BundleInvalidError: something is not as it should be.
            BundleMissingError: it needs what is not here.
            ChangedError: what was here has gone meanwhile.
            NoSpaceError: there is no room for it.
            OSError: the disk is full or broken.
        """
        first = await self._pieces.exactly(BLOCK_BYTES)
        content = await self._file(read_size(first, CONTENTS, CONTENTS_MAX_BYTES))
        contents: Contents = await self._parts.pools.inspect.run(read_contents, content)
        await self._check_what_is_here(contents)
        await self._read_head(contents)
        media_types = {
            each.digest: each.media_type
            for repository in contents.repositories
            for each in repository.manifests
        }
        for entry in contents.carried:
            await self._object(entry, media_types.get(entry.digest))
        await self._end()
        await self._look_again(contents)
        return contents

    async def content(self, digest: str) -> bytes | None:
        """Return the bytes of a manifest or list of the bundle, from it or from here."""
        waiting = self.waiting.get(digest)
        if waiting is not None:
            return await self._parts.pools.read.run(waiting.path.read_bytes)
        row = await self._store.facts.object(Digest.parse(digest))
        return (
            None if row is None else await self._store.content(Digest.parse(digest), row.scopes[0])
        )

    async def is_here(self, entry: BundledObject) -> bool:
        """Tell whether an object is here for all who may see it; a row may have lost its file."""
        digest = Digest.parse(entry.digest)
        row = await self._store.facts.object(digest)
        if row is None or row.size_bytes != entry.size_bytes:
            return False
        if not all(row.visible_in(scope) for scope in entry.scopes):
            return False
        path = self._parts.layout.blob(digest)
        return await self._parts.pools.read.run(is_whole, path, entry.size_bytes)

    async def close(self) -> None:
        """Remove what was not entered."""
        for each in self.waiting.values():
            each.reservation.release()
            with suppress(OSError):
                await self._parts.pools.fill.run(each.path.unlink, missing_ok=True)

    # --- inside ----------------------------------------------------------------------------

    async def _file(self, size_bytes: int) -> bytes:
        content = await self._pieces.exactly(size_bytes)
        await self._padding(size_bytes)
        return content

    async def _padding(self, size_bytes: int) -> None:
        expected = padding(size_bytes)
        if await self._pieces.exactly(len(expected)) != expected:
            raise BundleInvalidError("there is something between two files")

    async def _check_what_is_here(self, contents: Contents) -> None:
        """Raise unless all that is not carried is here, and there can be room for all at once.

        What is here already must stay: without room for both, the rest would drive it out.
        """
        missing = []
        for entry in contents.objects:
            if await self.is_here(entry):
                self._store.touch(Digest.parse(entry.digest))
            elif not entry.carried:
                missing.append(entry.digest)
        if missing:
            raise BundleMissingError(missing)
        needed_bytes = sum(each.size_bytes for each in contents.objects)
        if needed_bytes > self._store.space.limit_bytes:
            raise NoSpaceError(
                f"the bundle needs {needed_bytes} bytes, with what is here already: more than "
                "the cache holds"
            )

    async def _look_again(self, contents: Contents) -> None:
        """Raise unless what was not taken from the bundle is here still."""
        # The room for what is new may have been made of it.
        for entry in contents.objects:
            if entry.digest not in self.waiting and not await self.is_here(entry):
                raise ChangedError(f"{entry.digest} has gone while the bundle was read")

    async def _read_head(self, contents: Contents) -> None:
        """Read what stands before the objects."""
        block = await self._pieces.exactly(BLOCK_BYTES)
        if block == header(SIGNATURE, SIGNATURE_BYTES):  # for those who have the key
            await self._file(SIGNATURE_BYTES)
            block = await self._pieces.exactly(BLOCK_BYTES)
        size_bytes = read_size(block, LAYOUT, len(LAYOUT_CONTENT))
        if await self._file(size_bytes) != LAYOUT_CONTENT:
            raise BundleInvalidError(f"{LAYOUT} is another one")
        block = await self._pieces.exactly(BLOCK_BYTES)
        size_bytes = read_size(block, INDEX, CONTENTS_MAX_BYTES)
        index = await self._parts.pools.inspect.run(Digest.of, await self._file(size_bytes))
        if str(index) != contents.index:
            raise BundleInvalidError(f"{INDEX} is not the one that belongs to it")

    async def _object(self, entry: BundledObject, media_type: str | None) -> None:
        expected = header(object_path(entry.digest), entry.size_bytes)
        if await self._pieces.exactly(len(expected)) != expected:
            raise BundleInvalidError(f"the file of {entry.digest} is not where it should be")
        if await self.is_here(entry):
            await self._take(entry, None)
            return
        reservation = self._store.reservation("")
        path = self._parts.layout.partials / f"~import-{os.getpid()}-{next(_NUMBERS)}"
        self.waiting[entry.digest] = Waiting(entry, path, reservation)
        await reservation.grow(entry.size_bytes)
        file = await self._parts.pools.fill.run(path.open, "xb")
        with file:
            await self._take(entry, file)
            await self._parts.pools.fill.run(_finish, file)
        if media_type is not None:
            await self._parts.pools.read.run(_check_manifest, path, entry.digest, media_type)

    async def _take(self, entry: BundledObject, file: BinaryIO | None) -> None:
        """Read an object, write it if there is a file for it, and compare its digest."""
        digest = Digest.parse(entry.digest)
        seen, missing = digest.new_hash(), entry.size_bytes
        while missing:
            piece = await self._pieces.exactly(min(missing, _PIECE_BYTES))
            await self._parts.pools.fill.run(_write, piece, seen, file)
            missing -= len(piece)
            self.received_bytes += len(piece)
            if file is not None:
                self.waiting[entry.digest].reservation.written(entry.size_bytes - missing)
        if seen.hexdigest() != digest.hex:
            raise BundleInvalidError(f"{digest} is corrupt")
        await self._padding(entry.size_bytes)

    async def _end(self) -> None:
        if await self._pieces.exactly(len(END)) != END:
            raise BundleInvalidError("there is more in it than it should have")
        left = _TRAILER_MAX_BYTES  # other programs fill a tar up with zeros
        while piece := await self._pieces.some(_PIECE_BYTES):
            left -= len(piece)
            if left < 0 or any(piece):
                raise BundleInvalidError("there is something behind its end")


def _write(piece: bytes, seen: "hashlib._Hash", file: BinaryIO | None) -> None:
    seen.update(piece)
    if file is not None:
        file.write(piece)


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _check_manifest(path: Path, digest: str, media_type: str) -> Manifest:
    try:
        return read_manifest(path.read_bytes(), media_type, Digest.parse(digest))
    except ManifestInvalidError as error:
        raise BundleInvalidError(f"{digest} is not a manifest: {error}") from None
