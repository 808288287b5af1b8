"""Images that are never evicted, in one small file beside the cache.

A pin is of a tag or a digest of a repository; what it covers is worked out anew when one is
set, and when a tag or a manifest of such a repository comes in.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mirror.domain.errors import MirrorError
from mirror.domain.manifests import LinkKind, Manifest, read_manifest
from mirror.domain.names import Digest, Reference, Repository, Tag, parse_reference
from mirror.domain.walking import Walk
from mirror.observe.logs import get_logger
from mirror.runtime.unreadable import UNREADABLE
from mirror.store.layout import Layout
from mirror.store.refs import Refs

_log = get_logger("store")


class Pin(msgspec.Struct, frozen=True):
    """An image that stays; without ``platforms``, all of its platforms do.

    ``digest`` holds a tag: whatever upstream says, it means this here.
    """

    upstream: str
    repository: str
    reference: str
    platforms: tuple[str, ...] = ()
    pinned_at: float = 0.0
    digest: str | None = None

    def names(self, repository: Repository, reference: Reference) -> bool:
        """Tell whether this is the pin of an image."""
        same = (self.upstream, self.repository) == (repository.upstream, repository.name)
        return same and self.reference == str(reference)


class Pins:
    """All pins; calls are synchronous, but ``digests`` may be read anywhere.

    Whoever changes something does so alone, from what the one before has left.
    """

    def __init__(self, layout: Layout, refs: Refs) -> None:
        self._layout = layout
        self._refs = refs
        self._changing = threading.RLock()
        self._kept = _read(self._path)
        self._declared: tuple[Pin, ...] = ()
        self.digests: frozenset[str] = frozenset()
        self.look()

    @property
    def all(self) -> tuple[Pin, ...]:
        """All pins; one of the configuration counts before another of the same image."""
        others = [
            pin for pin in self._kept if not any(_is_same(pin, each) for each in self._declared)
        ]
        return (*self._declared, *others)

    def declare(self, pins: tuple[Pin, ...]) -> None:
        """Set the pins of the configuration, which no command takes away."""
        with self._changing:
            self._declared = pins
            self.look()

    def is_declared(self, repository: Repository, reference: Reference) -> bool:
        """Tell whether there is a pin of an image in the configuration."""
        return any(pin.names(repository, reference) for pin in self._declared)

    def put(self, pin: Pin) -> None:
        """Set a pin, in place of one of the same image."""
        with self._changing:
            others = (each for each in self._kept if not _is_same(each, pin))
            self._write((*others, pin))

    def drop(self, repository: Repository, reference: Reference) -> bool:
        """Take a pin away; returns whether there was one."""
        with self._changing:
            left = tuple(each for each in self._kept if not each.names(repository, reference))
            if len(left) == len(self._kept):
                return False
            self._write(left)
            return True

    def concern(self, repository: Repository) -> bool:
        """Tell whether what comes in for a repository may be pinned."""
        return any(
            (pin.upstream, pin.repository) == (repository.upstream, repository.name)
            for pin in self.all
        )

    def has(self, repository: Repository, reference: Reference) -> bool:
        """Tell whether there is a pin of an image."""
        return any(pin.names(repository, reference) for pin in self.all)

    def held_at(self, repository: Repository, tag: Tag) -> Digest | None:
        """Return what a tag is held at, if it is."""
        digests = (pin.digest for pin in self.all if pin.names(repository, tag))
        digest = next(digests, None)
        return None if digest is None else Digest.parse(digest)

    def look(self) -> None:
        """Work out what the pins cover, as far as it is here."""
        with self._changing:
            self.digests = frozenset(digest for pin in self.all for digest in self._covered(pin))

    @property
    def _path(self) -> Path:
        return self._layout.root / "pins.json"

    def _write(self, pins: tuple[Pin, ...]) -> None:
        self._layout.replace_file(self._path, msgspec.json.encode(pins))
        self._kept = pins
        self.look()

    def _covered(self, pin: Pin) -> Iterator[str]:
        try:
            repository = Repository(pin.upstream, pin.repository)
            reference = parse_reference(pin.reference)
            held_at = None if pin.digest is None else Digest.parse(pin.digest)
            digest = held_at or self._meant(repository, reference)
        except MirrorError:
            return
        if digest is not None:
            yield from self._below(digest, Walk(pin.platforms))

    def _meant(self, repository: Repository, reference: Reference) -> Digest | None:
        if isinstance(reference, Digest):
            return reference
        ref = self._refs.tag(repository, Tag(reference.name))
        return Digest.parse(ref.digest) if ref is not None else None

    def _below(self, digest: Digest, walk: Walk) -> Iterator[str]:
        yield str(digest)
        manifest = self._manifest(digest)
        for link in walk.enter(manifest) if manifest is not None else ():
            if link.kind is LinkKind.BLOB:
                yield str(link.digest)
            else:
                yield from self._below(link.digest, walk)

    def _manifest(self, digest: Digest) -> Manifest | None:
        try:
            return read_manifest(self._layout.blob(digest).read_bytes(), None, digest)
        except (OSError, MirrorError):
            return None


def _is_same(one: Pin, other: Pin) -> bool:
    key = ("upstream", "repository", "reference")
    return all(getattr(one, name) == getattr(other, name) for name in key)


def _read(path: Path) -> tuple[Pin, ...]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[Pin, ...])
    except FileNotFoundError:
        return ()
    except UNREADABLE:
        # Not to start would be worse than to have no pins; whoever set them may still read it.
        aside = path.with_suffix(".unreadable")
        path.replace(aside)
        _log.exception("the pins cannot be read: set them anew", set_aside=str(aside))
        return ()
