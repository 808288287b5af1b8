"""What an operator is told when a wish cannot be met."""

from enum import StrEnum


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
