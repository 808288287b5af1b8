"""What decoders raise at bytes that are not what they should be."""

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""Of msgspec: its own errors, text that is not UTF-8, and what is nested too deeply. A disk that
lost its power, an upstream or a client can make all three."""
