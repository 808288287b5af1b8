"""The two clocks, as values that a test can replace."""

import time
from collections.abc import Callable
from dataclasses import dataclass

Seconds = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Clock:
    """Wall time for what is kept over a restart, monotonic time for what is measured."""

    wall: Seconds = time.time
    """Seconds since the epoch."""

    monotonic: Seconds = time.monotonic
