"""Writing the files of a client, and taking them back as if they had never been written.

What was there is kept, by a hard link where that can be, in a directory beside it: taking back
is then a rename of the very same file, with its owner, times and attributes. ``ledger.json`` says
what was written where. It is written before the file that it speaks of, so that a crash at any
moment leaves something that can be taken back.

Where a file is written by force that somebody has changed, what he made of it is kept, too: it is
what later merges begin with, and what is put back; only by force again is it what was there first.
"""

import errno
import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from mirror.clients.plan import CannotMergeError, Plan

_LEDGER: Final = "ledger.json"
_TEMPORARY: Final = ".mirror-new"
_FILE_MODE: Final = 0o644
_DIRECTORY_MODE: Final = 0o755
_ELSEWHERE: Final = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


class ChangedSinceError(Exception):
    """Files that were written here were changed by somebody else.

    Attributes:
        paths: which ones.
    """

    def __init__(self, paths: list[str]) -> None:
        super().__init__(f"changed since they were written: {', '.join(paths)}")
        self.paths = paths


@dataclass(slots=True)
class _Entry:
    """A file that is, or is about to be, ours."""

    backup: str | None
    """Name in the ledger's directory of what was there; None if nothing was."""
    written: list[str] = field(default_factory=list)
    """Digests of what was written, the one that may not have got there last."""
    edited: str | None = None
    """Name of what somebody had made of it when it was written by force; None if nobody had."""
    returned: str | None = None
    """Digest of that, if it has been put back: it is no change that we do not know of."""


class Installation:
    """The files of one client on one machine."""

    def __init__(self, root: Path, ledger: str) -> None:
        """Speak of the files below *root*; OSError tells of what cannot be read."""
        self._root = root.absolute()
        self._directory = self._real(ledger)
        self._entries: dict[str, _Entry] = {}
        self._made: list[str] = []
        self._load()

    def read(self, path: str) -> str | None:
        """Return the text of a file as it is, or was, without us."""
        content = self._original(path)
        try:
            return None if content is None else content.decode()
        except UnicodeDecodeError:
            raise CannotMergeError(path, "is not UTF-8 text") from None

    def names(self, directory: str) -> list[str]:
        """Return what a directory holds, or held, without us."""
        try:
            found = sorted(self._real(directory).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [each.name for each in found if self._is_without_us(each)]

    def wanted(self, plan: Plan) -> dict[str, bytes | None]:
        """Return what each file is to hold, of those that a plan is about; None: no file."""
        wanted = {path: text.encode() for path, text in plan.files.items()}
        stale = {
            path: self._original(path)
            for path in self._entries
            if path not in wanted and (plan.owned is None or path.startswith(f"{plan.owned}/"))
        }
        return {**wanted, **stale}

    def before(self, *, force: bool = False) -> dict[str, bytes | None]:
        """Return what each file of ours would hold after an undo."""
        return {
            path: self._kept(path) if force and self._is_whole(entry) else self._original(path)
            for path, entry in self._entries.items()
        }

    def changed(self) -> list[str]:
        """Return which files of ours hold something of somebody else's: undo leaves it there."""
        return [
            path
            for path, entry in self._entries.items()
            if self._is_changed(path) or (entry.edited is not None and self._is_ours(path))
        ]

    def current(self, path: str) -> bytes | None:
        """Return what a file holds now."""
        return _content(self._real(path))

    def install(self, plan: Plan, *, force: bool = False) -> list[str]:
        """Write what differs, and return the paths; raise ChangedSinceError after the rest."""
        wanted = self.wanted(plan)
        changed = [path for path in wanted if not force and self._is_unknown(path)]
        done = []
        for path, content in wanted.items():
            if content == self.current(path) or path in changed:
                continue
            done.append(path)
            if content is None or (path in self._entries and content == self._original(path)):
                self._withdraw(path)
            else:
                self._write(path, content)
        self._tidy()
        if changed:
            raise ChangedSinceError(changed)
        return done

    def undo(self, *, force: bool = False) -> list[str]:
        """Put everything back and return the paths; raise ChangedSinceError after the rest.

        What somebody has changed stays as he has left it, unless by *force*.
        """
        changed = [] if force else self.changed()
        restored = [path for path in self._entries if path not in changed]
        for path in restored:
            self._restore(path)
        for path in changed:
            if self._is_ours(path):
                self._withdraw(path)
        self._tidy()
        if changed:
            raise ChangedSinceError(changed)
        return restored

    def _real(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _is_without_us(self, real: Path) -> bool:
        path = f"/{real.relative_to(self._root)}"
        if path in self._entries:
            return self._original(path) is not None
        # A directory that was made here is there without us once somebody puts something into it.
        return real != self._directory and (path not in self._made or bool(self.names(path)))

    def _load(self) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            told: dict[str, Any] = json.loads((self._directory / _LEDGER).read_bytes())
            self._made = list(told["made"])
            self._entries = {path: _Entry(**entry) for path, entry in told["files"].items()}

    def _save(self) -> None:
        files = {path: asdict(entry) for path, entry in self._entries.items()}
        text = json.dumps({"files": files, "made": self._made}, indent=1)
        _replace(self._directory / _LEDGER, text.encode())

    def _original(self, path: str) -> bytes | None:
        entry, current = self._entries.get(path), self.current(path)
        if entry is None or not self._is_ours(path):
            return current
        if self._keeps(entry.edited):
            return self._kept(path, entry.edited)
        return self._kept(path) if self._is_whole(entry) else current

    def _is_ours(self, path: str) -> bool:
        """Return whether a file holds what was written here, and nothing else."""
        entry, current = self._entries.get(path), self.current(path)
        return entry is not None and current is not None and _digest(current) in entry.written

    def _is_whole(self, entry: _Entry) -> bool:
        """Return whether what was there is known: not if it has been put back already."""
        return entry.backup is None or self._keeps(entry.backup)

    def _keeps(self, name: str | None) -> bool:
        """Return whether a file is still kept here."""
        return name is not None and os.path.lexists(self._directory / name)

    def _kept(self, path: str, name: str | None = None) -> bytes | None:
        """Return what a file held before; None: nothing, or a link that led nowhere."""
        name = name or self._entries[path].backup
        if name is None:
            return None
        kept = self._directory / name
        # What a link says counts from where it was, not from where it is kept.
        return _content(self._real(path).parent / kept.readlink() if kept.is_symlink() else kept)

    def _is_changed(self, path: str) -> bool:
        entry = self._entries.get(path)
        if entry is None or self._is_ours(path):
            return False
        # What was announced may not have been written, and what was begun may have been undone.
        return self.current(path) != self._kept(path) and self._is_whole(entry)

    def _is_unknown(self, path: str) -> bool:
        """Return whether a file was changed since we wrote it, or put it back."""
        entry, current = self._entries.get(path), self.current(path)
        is_returned = entry and current is not None and entry.returned == _digest(current)
        return self._is_changed(path) and not is_returned

    def _write(self, path: str, content: bytes) -> None:
        target = self._real(path)
        missing = [*_missing(self._directory)[:-1], *_missing(target.parent)]
        self._directory.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        made = [f"/{each.relative_to(self._root)}" for each in missing]
        self._made += [each for each in made if each not in self._made]
        if path not in self._entries:
            self._entries[path] = _Entry(self._keep(target))
        elif self._is_changed(path):
            self._entries[path].edited = self._keep(target)
        self._entries[path].written.append(_digest(content))
        self._save()
        target.parent.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        _replace(target, content)
        self._entries[path].written = [_digest(content)]
        self._save()

    def _keep(self, target: Path) -> str | None:
        if not os.path.lexists(target):
            return None
        taken = {name for each in self._entries.values() for name in (each.backup, each.edited)}
        name = next(name for number in range(len(taken) + 1) if (name := str(number)) not in taken)
        kept = self._directory / name
        kept.unlink(missing_ok=True)
        try:
            os.link(target, kept, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _ELSEWHERE:
                raise
            _copy(target, kept)
        return name

    def _withdraw(self, path: str) -> None:
        """Take back what was written last: by force, over what somebody had made of it, or ever."""
        entry = self._entries[path]
        if entry.edited is None:
            self._restore(path)
            return
        kept = self._kept(path, entry.edited)
        # Two may be doing this at once, as below.
        with suppress(FileNotFoundError):
            _move(self._directory / entry.edited, self._real(path))
        entry.edited, entry.returned = None, None if kept is None else _digest(kept)
        self._save()

    def _restore(self, path: str) -> None:
        entry, target = self._entries[path], self._real(path)
        # Two may be doing this at once: a node agent that ends, and the one that cleans up.
        with suppress(FileNotFoundError):
            target.with_name(f"{target.name}{_TEMPORARY}").unlink(missing_ok=True)
            if entry.backup is None:
                target.unlink()
            else:
                _move(self._directory / entry.backup, target)
        del self._entries[path]
        if self._directory.exists():
            self._save()
            if entry.edited is not None:
                (self._directory / entry.edited).unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Remove the directories that were made for files that are gone, and in the end ours."""
        self._remove_made()
        if self._directory.exists():
            if self._entries:
                self._save()
                return
            shutil.rmtree(self._directory)
        self._remove_made()

    def _remove_made(self) -> None:
        for path in sorted(self._made, key=len, reverse=True):
            # One that still holds something is needed, by us or by somebody else.
            with suppress(OSError):
                self._real(path).rmdir()
        self._made = [path for path in self._made if self._real(path).exists()]


def _missing(directory: Path) -> list[Path]:
    """Return which directories have to be made for this one, the outermost first."""
    return [each for each in (directory, *directory.parents) if not each.exists()][::-1]


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _replace(target: Path, content: bytes) -> None:
    """Let *target* be the old file or the new one, at every moment, also after a power cut."""
    new = target.with_name(f"{target.name}{_TEMPORARY}")
    try:
        new.unlink(missing_ok=True)
        with _private(new) as file:
            file.write(content)
        _like(target, new)
        _sync(new)
        new.replace(target)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def _private(new: Path) -> BinaryIO:
    """Make a file that nobody else may read until it has the mode of the one that it replaces."""
    return os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _like(old: Path, new: Path) -> None:
    """Give a new file the mode and the owner of the one that it replaces."""
    try:
        facts = old.stat()
    except FileNotFoundError:
        new.chmod(_FILE_MODE)
        return
    new.chmod(facts.st_mode & 0o7777)
    with suppress(PermissionError):
        os.chown(new, facts.st_uid, facts.st_gid)


def _copy(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(source.readlink())
    else:
        with source.open("rb") as old, _private(target) as new:
            shutil.copyfileobj(old, new)
    shutil.copystat(source, target, follow_symlinks=False)
    facts = source.lstat()
    with suppress(PermissionError):
        os.chown(target, facts.st_uid, facts.st_gid, follow_symlinks=False)


def _move(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        new = target.with_name(f"{target.name}{_TEMPORARY}")
        new.unlink(missing_ok=True)
        _copy(source, new)
        new.replace(target)
        source.unlink()
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
