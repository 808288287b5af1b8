"""How often Python looks for garbage in cycles: seldom, and not among what stays for ever."""

import gc
from typing import Final

_NEW_OBJECTS: Final = 10_000
"""Between two looks. By default it is 700, which a few requests make: each look costs as much."""


def settle() -> None:
    """Leave alone what is there after the start; nearly all else is freed without a look."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)
