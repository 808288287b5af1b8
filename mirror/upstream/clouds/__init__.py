"""The identity that this machine has at its cloud, turned into a login for a registry.

Each cloud's own ways, over its own addresses; its usual environment variables name others.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from mirror.settings import Upstream
from mirror.upstream.clouds import azure, ecr, gcp
from mirror.upstream.clouds.calls import Surroundings
from mirror.upstream.kept import Issued

Provider = Callable[[Surroundings, Upstream], Awaitable[Issued]]

PROVIDERS: Final[Mapping[str, Provider]] = {
    "azure": azure.login,
    "ecr": ecr.login,
    "gcp": gcp.login,
}
