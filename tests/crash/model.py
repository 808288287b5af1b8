"""Lives of a mirror, each ended by SIGKILL, and what is checked in between.

A life: start, look at the directory, resume what was on its way in, serve what was committed,
then random operations until a moment that is drawn from ``Moment``. Now and then upstream is
away from before the start to the end, the index is lost or damaged, or the cache is so small
that it evicts all the time.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Final

from tests.crash.directory import Directory, Watch
from tests.crash.facts import Facts
from tests.crash.operations import Operations
from tests.crash.pins import Pins
from tests.crash.world import REPOSITORIES, TAGS, Upstream, build
from tests.e2e.mirror_process import Mirror
from tests.fakes.content import Image, Index
from tests.fakes.wire import Ended

_WORKERS: Final = 6
_ROOMY_BYTES: Final = 1 << 30
_TIGHT_SHARE: Final = 0.4
_PATIENCE_SECONDS: Final = 10
_POLL_SECONDS: Final = 0.001
_DAMAGE_SHARE: Final = 0.08
_PIN_SHARE: Final = 0.3 if importlib.util.find_spec("mirror.cli.cache_command") else 0.0
_TAG_TTL: Final = "300ms"


class Moment(StrEnum):
    """When the mirror is killed."""

    ANY = "while clients pull"
    LAST_BYTE = "upstream has sent the last byte of a blob"
    PUBLISHED = "a partial has become an object"
    STARTING = "while it starts"
    OFFLINE = "while upstream is away"
    AT_REST = "at rest"


class Room(StrEnum):
    """How much of what is asked for may stay."""

    ALL = "room for everything"
    TIGHT = "room for a part"
    BRIEF = "room for a part, and not for long"


_ROOMS: Final = (Room.ALL, Room.TIGHT, Room.ALL, Room.BRIEF)
_LIVES_IN_A_ROOM: Final = 8
_EXPIRE_AFTER: Final = "3s"
_WEIGHTS: Final = {
    Moment.ANY: 8,
    Moment.LAST_BYTE: 5,
    Moment.PUBLISHED: 5,
    Moment.STARTING: 2,
    Moment.OFFLINE: 3,
    Moment.AT_REST: 1,
}


class Model:
    """One mirror, its upstream, and what is known of both."""

    def __init__(self, work: Path, seed: int, *, images: int) -> None:
        self._dice = random.Random(seed)
        world = build(self._dice, images)
        self.kills: Counter[Moment] = Counter()
        self._upstream = Upstream(world)
        self._mirror = Mirror(work, {"docker.io": {"endpoints": [self._upstream.url]}})
        self._tight_bytes = int(world.size_bytes * _TIGHT_SHARE)
        self._damage = ""
        self._has_evicted = False
        self._room = Room.ALL
        self._rooms_since_look = {Room.ALL}
        self._limit_bytes = 0
        self._held_bytes = 0
        self._directory = Directory(self._mirror.cache)
        self.facts = Facts(world, self._directory)
        self._watch = Watch(self._directory)
        self._operations = Operations(
            self._mirror.port, self._upstream, self.facts, self._dice.randrange(1 << 32)
        )
        self._pins = Pins(self._mirror, self.facts, self._tight_bytes // 4)

    def close(self) -> None:
        """End the mirror and its upstream."""
        self._mirror.kill()
        self._watch.close()
        self._upstream.close()

    def run(self, kills: int) -> None:
        """Live and die *kills* times, and once more to its end."""
        while self.facts.figures.kills < kills:
            number = self.facts.figures.kills + 1
            moment = self._dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
            self._resize(_ROOMS[number // _LIVES_IN_A_ROOM % len(_ROOMS)])
            self.facts.moment = f"life {number} ({moment}, {self._room}{self._damage})"
            self._live(moment)
            self._meter()
            self.facts.stop_if_hopeless()
        self._last_life()

    # --- lives ---------------------------------------------------------------------------------

    def _live(self, moment: Moment) -> None:
        before = self._directory.partials()
        if moment is Moment.STARTING:
            self._mirror.spawn()
            time.sleep(self._dice.uniform(0, 1.2))
            self._kill(moment)
        elif moment is Moment.OFFLINE:
            self._upstream.go_down()
            self._begin()
            self._serve_committed(all_of_it=True)
            self._kill(moment)
            self._upstream.come_up()
        else:
            self._begin()
            self._resume(before)
            self._serve_committed(all_of_it=False)
            self._work_until(moment)

    def _last_life(self) -> None:
        """Stop in order, look at every byte that is left, and start without upstream."""
        self.facts.moment = "the last life"
        before = self._directory.partials()
        self._begin()
        self._resume(before)
        self._mirror.stop()
        self._look()
        for digest in self._directory.wrong_objects():
            self.facts.complain(f"{digest} has the wrong content on disk")
        self._upstream.go_down()
        self._begin()
        self._serve_committed(all_of_it=True)
        self._mirror.stop()

    def _begin(self) -> None:
        self.facts.is_dying = False
        self._mirror.start()
        self.facts.figures.offline_starts += self._upstream.is_down
        self._look()

    def _work_until(self, moment: Moment) -> None:
        with ThreadPoolExecutor(_WORKERS) as pool:
            busy = self._dice.randrange(10, 60)
            running = [pool.submit(self._operations.choose()) for _ in range(busy)]
            if self._dice.random() < _PIN_SHARE:
                running.insert(busy // 2, pool.submit(self._pins.change, self._dice.random()))
            self._await(moment, running)
            self._kill(moment)
            for future in running:
                future.cancel()
        for future in running:
            if not future.cancelled():
                future.result()

    def _kill(self, moment: Moment) -> None:
        self.facts.is_dying = True
        self._mirror.kill()
        self.kills[moment] += 1
        self.facts.figures.kills += 1
        self._damage = ""
        if self._dice.random() < _DAMAGE_SHARE:
            self._damage = ", after the index was damaged"
            self._damage_index()

    def _damage_index(self) -> None:
        if self._has_evicted:
            # What only the link of an evicted manifest told is not known from now on.
            self.facts.keep()
        index = self._mirror.cache / "index"
        self.facts.figures.rebuilt += 1
        if self._dice.random() < 0.5:
            shutil.rmtree(index, ignore_errors=True)
        elif (index / "cache.db").exists():
            os.truncate(index / "cache.db", 100)

    # --- moments -------------------------------------------------------------------------------

    def _await(self, moment: Moment, running: list[Future[None]]) -> None:
        """Wait for the moment, or until all clients are content."""
        match moment:
            case Moment.AT_REST:
                self._until(lambda: False, running, seconds=60)
            case Moment.LAST_BYTE:
                skipped = self._dice.randrange(1, 12)
                self._until(lambda: self._completed() >= skipped, running)
                time.sleep(self._dice.uniform(0, 0.03))
            case Moment.PUBLISHED:
                skipped = self._dice.randrange(1, 12)
                first = len(self._directory.objects())
                self._until(lambda: len(self._directory.objects()) >= first + skipped, running)
                time.sleep(self._dice.uniform(0, 0.01))
            case _:
                self._until(lambda: False, running, seconds=self._dice.uniform(0.05, 2))

    def _completed(self) -> int:
        return sum(one.ended is Ended.COMPLETE for one in self._upstream.blob_gets())

    @staticmethod
    def _until(
        happened: Callable[[], bool], running: list[Future[None]], *, seconds: float = 5
    ) -> None:
        deadline = time.monotonic() + seconds
        while not happened() and time.monotonic() < deadline:
            if all(future.done() for future in running):
                return
            time.sleep(_POLL_SECONDS)

    # --- checks --------------------------------------------------------------------------------

    def _look(self) -> None:
        """Compare files, rows and totals; nothing is on its way in at this moment."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while complaints := self._complaints():
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        for complaint in complaints:
            self.facts.complain(complaint)
        present = set(self._directory.objects())
        if not self._may_have_evicted():
            lost = {digest for _, digest in self.facts.committed} - present
            for digest in lost:
                self.facts.complain(f"committed, not evicted, and gone: {digest}")
        for (repository, digest), needed in self.facts.pinned.items():
            for missing in needed - present:
                self.facts.complain(f"{repository}@{digest} is pinned, {missing} is gone")
        if self._may_have_evicted():
            self.facts.keep()
        self._rooms_since_look = {self._room}
        here = present | self._directory.partials().keys()
        self.facts.asked = here & self.facts.world.contents.keys()
        for excess in self._watch.excesses:
            self.facts.complain(excess)
        self._watch.excesses.clear()

    def _complaints(self) -> list[str]:
        found = self._directory.complaints()
        found += [f"an intent is left: {one}" for one in self._directory.intents()]
        used_bytes = self._directory.used_bytes()
        if used_bytes > self._limit_bytes:
            found.append(f"{used_bytes} bytes at rest, the bound is {self._limit_bytes}")
        return found

    def _may_have_evicted(self) -> bool:
        """Whether all that was asked for since the last look may have been too much."""
        if Room.BRIEF in self._rooms_since_look:
            return True
        limit_bytes = _ROOMY_BYTES if self._rooms_since_look == {Room.ALL} else self._tight_bytes
        contents = self.facts.world.contents
        wanted = self.facts.asked | self._directory.objects().keys()
        wanted_bytes = sum(len(contents.get(digest, b"")) for digest in wanted)
        return 1.1 * wanted_bytes > limit_bytes

    def _resume(self, before: dict[str, int]) -> None:
        """Pull what was on its way in when the mirror was killed: it goes on where it was."""
        left = self._directory.partials()
        for digest, length_bytes in before.items():
            if digest in left:
                self._resume_one(digest, length_bytes)
            elif self._room is Room.ALL and digest not in self._directory.objects():
                self.facts.complain(f"{length_bytes} bytes of {digest} were thrown away")

    def _resume_one(self, digest: str, length_bytes: int) -> None:
        repository = self.facts.world.home(digest)
        asked = len(self._upstream.blob_gets(digest))
        self._operations.blob(repository, digest)
        gets = self._upstream.blob_gets(digest)[asked:]
        starts = [_start(one.header("Range")) for one in gets]
        is_anew = bool(length_bytes) and 0 in starts
        self.facts.figures.resumed += bool(length_bytes) and not is_anew
        self.facts.figures.begun_anew += is_anew
        # Partials are the first to go where room is short; else they must be of use.
        is_lost = is_anew and self._room is Room.ALL
        if is_lost or any(start > length_bytes for start in starts):
            self.facts.complain(
                f"{digest} had {length_bytes} bytes, and was asked for from {starts}"
            )

    def _serve_committed(self, *, all_of_it: bool) -> None:
        """Get what is committed; without upstream that shows that it is really here."""
        if self._room is Room.BRIEF and self._upstream.is_down:
            return  # what is here now may be gone in a moment, by right
        if self._may_have_evicted():
            self.facts.keep()
        known = sorted(self.facts.committed)
        chosen = known if all_of_it else self._dice.sample(known, min(8, len(known)))
        for repository, digest in chosen:
            if digest in self.facts.world.blobs(repository):
                self._operations.blob(repository, digest)
            elif not self._upstream.is_down or self._is_complete(repository, digest):
                self._operations.manifest(repository, digest)
        self.facts.figures.checked += len(chosen)
        if self._upstream.is_down:
            self._serve_tags()

    def _serve_tags(self) -> None:
        for repository in REPOSITORIES:
            for tag in TAGS:
                # Upstream may have told of a move that no client has heard of yet.
                digest = self._directory.tag(f"docker.io/{repository}", tag)
                if digest is not None and self._is_complete(repository, digest):
                    self._operations.resolve(repository, tag)
                elif digest is None and (repository, tag) in self.facts.acknowledged:
                    self.facts.complain(f"{repository}:{tag} was told, and is not on disk")

    def _is_complete(self, repository: str, digest: str) -> bool:
        """Whether the mirror must serve a manifest of its own accord (invariant 17)."""
        if (repository, digest) not in self.facts.committed:
            return False
        manifest = self.facts.world.manifest(repository, digest)
        if isinstance(manifest, Index):
            return any(self._is_complete(repository, one.digest) for one in manifest.manifests)
        assert isinstance(manifest, Image)
        return all((repository, blob.digest) in self.facts.committed for blob in manifest.blobs)

    # --- figures -------------------------------------------------------------------------------

    def _resize(self, room: Room) -> None:
        """Set the bounds of the next life."""
        self._room = room
        self._has_evicted |= room is not Room.ALL
        self._rooms_since_look.add(room)
        self._limit_bytes = _ROOMY_BYTES if room is Room.ALL else self._tight_bytes
        cache = {
            "directory": str(self._mirror.cache),
            "max_size": self._limit_bytes,
            "min_free": "0B",
        }
        expiry = {"expire_after": _EXPIRE_AFTER} if room is Room.BRIEF else {}
        self._mirror.configure(cache=cache, policy={"tag_ttl": _TAG_TTL, **expiry})
        # A bound that was lowered holds once the mirror has started and made room.
        self._held_bytes = self._directory.used_bytes()
        self._watch.limit_bytes = max(self._limit_bytes, self._held_bytes)

    def _meter(self) -> None:
        figures = self.facts.figures
        if self._room is Room.ALL:
            figures.upstream_bytes += sum(one.sent_bytes for one in self._upstream.blob_gets())
            figures.gained_bytes += self._directory.used_bytes() - self._held_bytes
        else:
            share = self._watch.peak_bytes / self._watch.limit_bytes
            figures.peak_share = max(figures.peak_share, share)
        self._watch.peak_bytes = 0
        self._upstream.registry.clear()


def _start(header: str | None) -> int:
    return 0 if header is None else int(header.removeprefix("bytes=").partition("-")[0])
