"""What the clients of a mirror may rely on, learnt from the answers that they got."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from tests.crash.client import Got
from tests.crash.directory import Directory, Identity
from tests.crash.world import World

_COMPLAINTS_MAX = 20


class Found(Exception):  # noqa: N818 -- not an error of the program: it is what the run looks for
    """So much is wrong that looking further would not tell more."""


@dataclass
class Figures:
    """What a run came to."""

    kills: int = 0
    operations: int = 0
    bytes_served: int = 0
    bad_bytes: int = 0
    refused: int = 0
    broken: int = 0
    checked: int = 0
    resumed: int = 0
    begun_anew: int = 0
    pins: int = 0
    rebuilt: int = 0
    offline_starts: int = 0
    upstream_bytes: int = 0
    gained_bytes: int = 0
    peak_share: float = 0.0

    @property
    def upstream_ratio(self) -> float:
        """What upstream sent for each byte that the cache gained while it had room for all."""
        return self.upstream_bytes / max(1, self.gained_bytes)


@dataclass
class Facts:
    """Committed objects, acknowledged tags, and everything that was found wrong.

    An object is committed once the mirror has called it a hit or sent a manifest; a tag is
    acknowledged once a client has got what it means.
    """

    world: World
    directory: Directory
    figures: Figures = field(default_factory=Figures)
    committed: dict[tuple[str, str], Identity] = field(default_factory=dict)
    acknowledged: dict[tuple[str, str], int] = field(default_factory=dict)
    pinned: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)
    moment: str = ""
    is_dying: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def complain(self, what: str) -> None:
        """Note that something is wrong."""
        with self._lock:
            self.complaints.append(f"{self.moment}: {what}")

    def stop_if_hopeless(self) -> None:
        """Raise Found once there are too many complaints to go on."""
        if len(self.complaints) >= _COMPLAINTS_MAX:
            raise Found

    def commit(self, repository: str, digest: str) -> None:
        """Note that *repository* serves an object from the cache."""
        identity = self.directory.identity(digest)
        if identity is not None:
            with self._lock:
                self.committed[repository, digest] = identity

    def keep(self) -> None:
        """Forget what had to make room, even if another repository has brought it back.

        That a repository has a blob may be known from a manifest only, and goes with it.
        """
        here = {
            (repository, digest): identity
            for (repository, digest), identity in self.committed.items()
            if self.directory.identity(digest) == identity
        }
        self.committed = {one: here[one] for one in here if self._is_known(*one)}

    def _is_known(self, repository: str, digest: str) -> bool:
        """Whether *repository* has an object by what outlasts the index (docs/design.md).

        A manifest that has been evicted, and that only another repository has brought back,
        does not speak for it.
        """
        return self.directory.has_brought(f"docker.io/{repository}", digest) or any(
            digest == manifest.digest or digest in self.world.parts(manifest)
            for manifest in self.world.manifests(repository)
            if self.directory.has_manifest(f"docker.io/{repository}", manifest.digest)
        )

    def floor(self, repository: str, tag: str) -> int:
        """Return the first meaning of a tag that may be served from now on."""
        return self.acknowledged.get((repository, tag), 0)

    def acknowledge(self, repository: str, tag: str, digest: str, floor: int) -> bool:
        """Note what a client was told; returns whether it is no older than *floor*."""
        meanings = self.world.tags[repository, tag]
        if digest not in meanings[floor:]:
            return False
        place = meanings.index(digest, floor)
        with self._lock:
            known = self.acknowledged.get((repository, tag), 0)
            self.acknowledged[repository, tag] = max(known, place)
        return True

    def judge(self, digest: str, got: Got, start: int = 0) -> None:
        """Check every byte of an answer, that of a broken one, too."""
        with self._lock:
            self.figures.operations += 1
            self.figures.bytes_served += len(got.body)
        if got.status not in {200, 206}:
            return
        truth = self.world.contents[digest][start:]
        is_all = got.is_whole and got.status == 200
        right = got.body == truth if is_all else truth.startswith(got.body)
        if not right:
            self.figures.bad_bytes += len(got.body)
            self.complain(f"WRONG BYTES of {digest} from {start}: {got}")

    def expect_whole(self, what: str, got: Got, digest: str = "") -> bool:
        """Check that a pull worked, unless the mirror is being killed."""
        if not got.is_whole and not self.is_dying:
            self.figures.broken += got.status in {200, 206}
            self.figures.refused += got.status not in {200, 206}
            here = digest and self.directory.identity(digest)
            self.complain(f"{what} failed{', but it is here' if here else ''}: {got}")
        return got.is_whole
