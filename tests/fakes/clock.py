"""A clock that moves when a test says so."""


class FakeClock:
    """Called like ``time.monotonic``; stands still between calls of ``advance``."""

    def __init__(self, seconds: float = 1_000_000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
