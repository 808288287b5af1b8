"""What clients do, in random order and several at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.crash.client import ACCEPT, Got, ask
from tests.crash.facts import Facts
from tests.crash.world import REPOSITORIES, TAGS, Upstream
from tests.fakes.content import Image, Index, Manifest

_CROWD: Final = 6


class Operations:
    """The clients of one mirror; each method is one operation and may run in any thread."""

    def __init__(self, port: int, upstream: Upstream, facts: Facts, seed: int) -> None:
        self._port = port
        self._upstream = upstream
        self._world = upstream.world
        self._facts = facts
        self._dice = random.Random(seed)
        self._all: dict[Callable[[], None], int] = {
            self.pull_tag: 5,
            self.pull_digest: 3,
            self.pull_blob: 3,
            self.read_range: 3,
            self.crowd: 2,
            self.leave_early: 2,
            self.move_tag: 2,
            self.confirm: 2,
            self.list_tags: 1,
        }

    def choose(self) -> Callable[[], None]:
        """Return one of the operations, by their weights."""
        return self._dice.choices(list(self._all), list(self._all.values()))[0]

    # --- operations ----------------------------------------------------------------------------

    def pull_tag(self) -> None:
        """Pull what a tag means, as a node does."""
        repository = self._dice.choice(REPOSITORIES)
        digest = self.resolve(repository, self._dice.choice(TAGS))
        if digest is not None:
            self._pull(repository, self._world.manifest(repository, digest))

    def pull_digest(self) -> None:
        """Pull an image or an index by its digest."""
        repository = self._dice.choice(REPOSITORIES)
        self._pull(repository, self._dice.choice(self._world.manifests(repository)))

    def pull_blob(self) -> None:
        """Download one blob, without asking for a manifest first."""
        repository, digest = self._any_blob()
        self.blob(repository, digest)

    def read_range(self) -> None:
        """Read a piece of a blob, or all from somewhere on."""
        repository, digest = self._any_blob()
        size_bytes = len(self._world.contents[digest])
        start = self._dice.randrange(size_bytes)
        last = "" if self._dice.random() < 0.5 else self._dice.randrange(start, size_bytes)
        self._facts.asked.add(digest)
        path = f"/v2/{repository}/blobs/{digest}"
        got = ask(self._port, path, {"Range": f"bytes={start}-{last}"})
        self._facts.judge(digest, got, start)
        self._facts.expect_whole(f"bytes {start}-{last} of {path}", got)

    def crowd(self) -> None:
        """Download one blob several times at once."""
        repository, digest = self._any_blob()
        with ThreadPoolExecutor(_CROWD) as pool:
            for _ in range(_CROWD):
                pool.submit(self.blob, repository, digest)

    def leave_early(self) -> None:
        """Begin a download and hang up in the middle of it."""
        repository, digest = self._any_blob()
        limit_bytes = 1 + self._dice.randrange(len(self._world.contents[digest]))
        self._facts.asked.add(digest)
        got = ask(self._port, f"/v2/{repository}/blobs/{digest}", limit_bytes=limit_bytes)
        self._facts.judge(digest, got)

    def move_tag(self) -> None:
        """Let a tag of upstream mean something else."""
        repository, tag = self._dice.choice(REPOSITORIES), self._dice.choice(TAGS)
        manifests = self._world.manifests(repository)
        self._upstream.move_tag(repository, tag, self._dice.choice(manifests).digest)

    def confirm(self) -> None:
        """Learn which blobs of a repository the mirror has: a HEAD never begins a download."""
        repository = self._dice.choice(REPOSITORIES)
        for digest in self._world.blobs(repository):
            if digest in self._facts.asked and self._dice.random() < 0.5:
                got = ask(self._port, f"/v2/{repository}/blobs/{digest}", method="HEAD")
                if got.status == 200 and got.is_hit:
                    self._facts.commit(repository, digest)

    def list_tags(self) -> None:
        """List the tags of a repository."""
        repository = self._dice.choice(REPOSITORIES)
        got = ask(self._port, f"/v2/{repository}/tags/list")
        self._facts.expect_whole(f"the tags of {repository}", got)

    # --- steps, for the checks, too ------------------------------------------------------------

    def resolve(self, repository: str, tag: str) -> str | None:
        """Ask what a tag means; it must not be older than what was told before."""
        floor = self._facts.floor(repository, tag)
        path = f"/v2/{repository}/manifests/{tag}"
        got = ask(self._port, path, {"Accept": ACCEPT})
        digest = got.headers.get("docker-content-digest", "")
        if not self._facts.expect_whole(path, got):
            return None
        self._facts.judge(digest, got)
        self._facts.asked.add(digest)
        if not self._facts.acknowledge(repository, tag, digest, floor):
            self._facts.complain(f"{path} is {digest} again, which was superseded: {got}")
        self._facts.commit(repository, digest)
        return digest

    def manifest(self, repository: str, digest: str) -> Got:
        """Get a manifest by its digest."""
        self._facts.asked.add(digest)
        path = f"/v2/{repository}/manifests/{digest}"
        got = ask(self._port, path, {"Accept": ACCEPT})
        self._facts.judge(digest, got)
        if self._facts.expect_whole(path, got, digest):
            self._facts.commit(repository, digest)
        return got

    def blob(self, repository: str, digest: str) -> Got:
        """Get a blob."""
        self._facts.asked.add(digest)
        path = f"/v2/{repository}/blobs/{digest}"
        got = ask(self._port, path)
        self._facts.judge(digest, got)
        if self._facts.expect_whole(path, got, digest) and got.is_hit:
            self._facts.commit(repository, digest)
        return got

    # --- inside --------------------------------------------------------------------------------

    def _any_blob(self) -> tuple[str, str]:
        repository = self._dice.choice(REPOSITORIES)
        return repository, self._dice.choice(self._world.blobs(repository))

    def _pull(self, repository: str, manifest: Manifest) -> None:
        if not self.manifest(repository, manifest.digest).is_whole:
            return
        if isinstance(manifest, Index):
            self._pull(repository, self._dice.choice(manifest.manifests))
        elif isinstance(manifest, Image):
            for blob in manifest.blobs:
                self.blob(repository, blob.digest)
