"""What the tests of this room share."""

from mirror.settings import Policy, Timeouts
from tests.harness import Mirror

PATIENT = Policy(timeouts=Timeouts(response_seconds=15, idle_seconds=15))
REPOSITORY = "library/alpine"
OTHER = "library/other"


def path(digest: str, repository: str = REPOSITORY) -> str:
    return f"/v2/{repository}/blobs/{digest}"


async def boarded(mirror: Mirror, count: int) -> None:
    """Wait until so many clients read from fills in progress."""
    await mirror.becomes("mirror_fill_readers", count)
