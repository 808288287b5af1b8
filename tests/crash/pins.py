"""Images that an operator pins by ``mirror cache pin``, and unpins again."""

from __future__ import annotations

import subprocess
from typing import Final

from tests.crash.directory import Directory
from tests.crash.facts import Facts
from tests.crash.world import REPOSITORIES
from tests.e2e.mirror_process import Mirror
from tests.fakes.content import Image

_TIMEOUT_SECONDS: Final = 60


class Pins:
    """Pins whole images, never more than *limit_bytes* of them.

    An image counts as pinned once the command has ended well; while it is being unpinned,
    it counts no more, whatever becomes of the command.
    """

    def __init__(self, mirror: Mirror, facts: Facts, limit_bytes: int) -> None:
        self._mirror = mirror
        self._facts = facts
        self._limit_bytes = limit_bytes
        self._directory = Directory(mirror.cache)

    def change(self, chance: float) -> None:
        """Pin an image, or unpin one of those that are."""
        pinned = self._facts.pinned
        if pinned and chance < 0.4:
            repository, digest = next(iter(pinned))
            del pinned[repository, digest]
            self._run("unpin", repository, digest)
            return
        found = self._candidate()
        if found is None:
            return
        repository, image = found
        if self._run("pin", repository, image.digest):
            present = self._directory.objects().keys()
            self._facts.figures.pins += 1
            pinned[repository, image.digest] = _parts(image) & present

    def _candidate(self) -> tuple[str, Image] | None:
        """Return an image that is here, and that there is room for among the pinned."""
        present = self._directory.objects().keys()
        contents = self._facts.world.contents
        held = set().union(*self._facts.pinned.values())
        for repository in REPOSITORIES:
            for image in self._facts.world.images[repository]:
                parts = _parts(image)
                size_bytes = sum(len(contents[one]) for one in held | parts)
                is_new = (repository, image.digest) not in self._facts.pinned
                if is_new and parts <= present and size_bytes <= self._limit_bytes:
                    return repository, image
        return None

    def _run(self, verb: str, repository: str, digest: str) -> bool:
        reference = f"docker.io/{repository}@{digest}"
        command = [*self._mirror.command, "cache", verb, reference]
        done = subprocess.run(  # noqa: S603 -- our own program
            [*command, "--config", str(self._mirror.config)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode != 0 and not self._facts.is_dying:
            self._facts.complain(f"cache {verb} {reference}: {done.stdout}{done.stderr}")
        return done.returncode == 0


def _parts(image: Image) -> set[str]:
    return {image.digest, *(blob.digest for blob in image.blobs)}
