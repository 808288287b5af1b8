"""What an operator is told when a wish cannot be met."""

from collections.abc import Iterable
from enum import StrEnum

from mirror.domain.walking import is_platform


class RefusalCode(StrEnum):
    """Why something was not done."""

    INVALID = "invalid_reference"
    NOT_FOUND = "not_found"
    BUSY = "busy"
    FULL = "full"
    UNFIT = "unfit_bundle"


class RefusedError(Exception):
    """A wish that cannot be met; ``hint`` says what to do."""

    def __init__(self, code: RefusalCode, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def check_platforms(platforms: Iterable[str]) -> None:
    """Raise RefusedError unless all of them can be platforms."""
    for each in platforms:
        if not is_platform(each):
            raise RefusedError(
                RefusalCode.INVALID,
                f"{each[:64]!r} is not a platform",
                "a platform is os/architecture or os/architecture/variant: linux/arm64",
            )
