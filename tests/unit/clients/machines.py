"""A machine of values: what its files hold."""

from collections.abc import Mapping

from mirror.clients.address import MirrorAddress
from mirror.clients.plan import Wish

MIRROR = "http://mirror.example:5000"


class Machine:
    """Files that are there."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def read(self, path: str) -> str | None:
        return self._files.get(path)

    def names(self, directory: str) -> list[str]:
        below = [path for path in self._files if path.startswith(f"{directory}/")]
        return sorted({path[len(directory) + 1 :].partition("/")[0] for path in below})


def wish(
    *registries: str,
    mirror: str = MIRROR,
    servers: Mapping[str, str] | None = None,
    fallback: bool = True,
    catch_all: bool = False,
    ca: str | None = None,
    home: str | None = None,
) -> Wish:
    return Wish(
        MirrorAddress.parse(mirror),
        registries or ("ghcr.io", "docker.io"),
        servers or {},
        fallback,
        catch_all,
        ca,
        home,
    )
