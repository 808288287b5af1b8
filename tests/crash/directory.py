"""The cache directory, looked at from outside."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import msgspec

from mirror.store.rows import ObjectRow, Totals

Identity = tuple[int, int]
_OBJECT_PREFIX: Final = "o:"


class Directory:
    """What stands in a cache directory, whether or not a mirror runs on it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def objects(self) -> dict[str, int]:
        """Return digests and sizes of the files in ``blobs/``."""
        return {
            f"{path.parent.parent.name}:{path.name}": size_bytes
            for path, _, size_bytes in _files(self.root / "blobs")
        }

    def partials(self) -> dict[str, int]:
        """Return digests and lengths of what is on its way in and has a sidecar."""
        found = {path.name: size for path, _, size in _files(self.root / "partial")}
        return {
            ":".join(name.rsplit("-", 2)[1:]): size_bytes
            for name, size_bytes in found.items()
            if f"{name}.json" in found
        }

    def path(self, digest: str) -> Path:
        """Return where an object stands if it is here."""
        algorithm, _, value = digest.partition(":")
        return self.root / "blobs" / algorithm / value[:2] / value

    def identity(self, digest: str) -> Identity | None:
        """Return what tells a file from another that has its name later."""
        try:
            facts = self.path(digest).stat()
        except FileNotFoundError:
            return None
        return facts.st_ino, facts.st_mtime_ns

    def tag(self, repository: str, tag: str) -> str | None:
        """Return what a tag means by the file that outlasts the index."""
        path = self.root / "refs" / repository / "_tags" / tag
        if not path.exists():
            return None
        return str(json.loads(path.read_bytes())["digest"])

    def has_manifest(self, repository: str, digest: str) -> bool:
        """Return whether a repository has a manifest, by the file that outlasts the index."""
        named = self.root / "refs" / repository / "_manifests" / digest
        return named.exists() and self.path(digest).exists()

    def has_brought(self, repository: str, digest: str) -> bool:
        """Return whether a repository has fetched a blob, by the file that outlasts the index."""
        path = self.root / "refs" / repository / "_blobs" / digest
        return path.exists() and bool(json.loads(path.read_bytes())["fetched"])

    def used_bytes(self) -> int:
        """Return what objects and partials take, a file that moves meanwhile once."""
        seen = {
            inode: size_bytes
            for place in ("partial", "blobs")
            for path, inode, size_bytes in _files(self.root / place)
            if not path.name.startswith("~") and path.suffix != ".json"
        }
        return sum(seen.values())

    def rows(self) -> tuple[dict[str, int], Totals]:
        """Return the objects that the index knows, with their sizes, and its totals."""
        with closing(sqlite3.connect(self.root / "index" / "cache.db")) as database:
            rows = database.execute("SELECT key, value FROM Cache WHERE key LIKE 'o:%'").fetchall()
            totals = database.execute("SELECT value FROM Cache WHERE key = 'totals'").fetchone()
        objects = {
            key.removeprefix(_OBJECT_PREFIX): msgspec.msgpack.decode(value, type=ObjectRow)
            for key, value in rows
        }
        sizes = {digest: row.size_bytes for digest, row in objects.items()}
        known = Totals() if totals is None else msgspec.msgpack.decode(totals[0], type=Totals)
        return sizes, known

    def intents(self) -> list[str]:
        """Return what the index began and has not noted as done: nothing after a start."""
        with closing(sqlite3.connect(self.root / "index" / "cache.db")) as database:
            found = database.execute(
                "SELECT key FROM Cache WHERE key LIKE 'adding-%' OR key LIKE 'removing-%'"
            ).fetchall()
        return [key for (key,) in found]

    def complaints(self) -> list[str]:
        """Return what does not fit together while no download is running; ideally nothing."""
        files = self.objects()
        rows, totals = self.rows()
        found = [f"a file without a row: {one}" for one in files.keys() - rows.keys()]
        found += [f"a row without a file: {one}" for one in rows.keys() - files.keys()]
        for one in files.keys() & rows.keys():
            if files[one] != rows[one]:
                found.append(f"{one} has {files[one]} bytes, its row says {rows[one]}")
        if totals.size_bytes != sum(files.values()):
            found.append(f"the total is {totals.size_bytes}, the files have {sum(files.values())}")
        return found + self._left_over()

    def wrong_objects(self) -> list[str]:
        """Return the objects whose content is not what their name says; reads everything."""
        return [one for one in self.objects() if _digest(self.path(one)) != one]

    def _left_over(self) -> list[str]:
        names = {path.name for path, _, _ in _files(self.root / "partial")}
        scratch = {one for one in names if one.startswith("~")}
        sidecars = {one.removesuffix(".json") for one in names if one.endswith(".json")}
        data = {one for one in names - scratch if not one.endswith(".json")}
        return [
            *(f"a scratch file is left: {one}" for one in scratch),
            *(f"a sidecar without its partial: {one}" for one in sidecars - data),
            *(f"a partial without a sidecar: {one}" for one in data - sidecars),
        ]


class Watch:
    """Samples in a thread how much the directory holds, and remembers what was too much."""

    def __init__(
        self, directory: Directory, *, every_seconds: float = 0.05, limit_bytes: int = 0
    ) -> None:
        """Begin; the bound may be changed on the way."""
        self.peak_bytes = 0
        self.samples = 0
        self.excesses: list[str] = []
        self.limit_bytes = limit_bytes
        self._directory = directory
        self._every_seconds = every_seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk usage", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop sampling."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._every_seconds):
            limit_bytes, used_bytes = self.limit_bytes, self._directory.used_bytes()
            # A walk is no snapshot: it may see a file before it goes and one that comes after.
            for _ in range(3):
                if used_bytes <= limit_bytes:
                    break
                used_bytes = min(used_bytes, self._directory.used_bytes())
            self.samples += 1
            self.peak_bytes = max(self.peak_bytes, used_bytes)
            if limit_bytes == self.limit_bytes and used_bytes > limit_bytes:
                self.excesses.append(f"{used_bytes} bytes on disk, the bound is {limit_bytes}")


def _files(top: Path) -> Iterator[tuple[Path, int, int]]:
    """Yield path, inode and size of all files below *top*; what goes meanwhile is left out."""
    for parent, _, names in os.walk(top):
        for name in names:
            path = Path(parent, name)
            with suppress(FileNotFoundError):
                facts = path.stat()
                yield path, facts.st_ino, facts.st_size


def _digest(path: Path) -> str:
    algorithm = path.parent.parent.name
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
