"""What shall stand in the files of a client: wishes, what is there, and the plan made of both."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from mirror.clients.address import MirrorAddress

DIAL_TIMEOUT: Final = "2s"
"""A mirror that is gone costs no more; containerd before 2.1 waits 30 s and ignores it."""


class Files(Protocol):
    """The files of the machine as they are without the mirror."""

    def read(self, path: str) -> str | None:
        """Return the text of a file; None if there is none."""

    def names(self, directory: str) -> list[str]:
        """Return what a directory holds, in order; nothing if there is none."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Which mirror serves which registries."""

    mirror: MirrorAddress
    registries: tuple[str, ...]
    servers: Mapping[str, str] = field(default_factory=dict)
    """The registry's own URL where it is not ``https://<name>``."""
    fallback: bool = True
    """Go on to the registry itself when the mirror does not help."""
    catch_all: bool = False
    """Also for registries that are not named (containerd's ``_default``)."""
    ca: str | None = None
    """File with the authority that signed the mirror's certificate."""
    home: str | None = None
    """Home directory of the user whose own files are meant; None means those of the system."""

    def server(self, registry: str) -> str:
        """Return where a registry itself is."""
        return self.servers.get(registry) or _SERVERS.get(registry) or f"https://{registry}"


# Where the name of a registry is not its host.
_SERVERS: Final = {"docker.io": "https://registry-1.docker.io"}


@dataclass(frozen=True, slots=True)
class Plan:
    """The files that tell a client of the mirror, and what else a person has to know."""

    files: Mapping[str, str]
    """The whole text of each file by its path."""
    notes: tuple[str, ...] = ()
    """What was left out, and why; what the client cannot do."""
    activate: str | None = None
    """The command that makes the client read them; None if it reads them at each pull."""
    activate_for: str = ""
    """The files for which that is needed; all by default."""
    owned: str | None = None
    """The directory whose earlier entries go if they are in this plan no more; all by default."""

    def activation(self, changed: list[str]) -> str | None:
        """Return the command that is needed when these files have changed."""
        return self.activate if any(self.activate_for in path for path in changed) else None


class CannotMergeError(Exception):
    """A file is there that cannot be changed without damage.

    Attributes:
        path: the file.
        reason: why not.
        wanted: what a person has to add.
    """

    def __init__(self, path: str, reason: str, wanted: str = "") -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.wanted = wanted


class NoFilesError(Exception):
    """This client has no files on the machine that could be written."""
