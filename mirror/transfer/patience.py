"""Whether a broken download goes on: progress is the measure."""

import asyncio
import random
from typing import Final

from mirror.domain.backoff import delay_seconds
from mirror.domain.errors import TroubleError
from mirror.observe.metrics import Metrics

_TRIES_WITHOUT_PROGRESS: Final = 5
_BACKOFF_BASE_SECONDS: Final = 0.2
_BACKOFF_CAP_SECONDS: Final = 5.0


class Retries:
    """Makes progress the measure: a download that gains bytes goes on without end."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._fruitless = 0

    async def after(self, error: TroubleError, gained_bytes: int) -> None:
        """Wait before the next try, or raise *error* if it was the last."""
        self._fruitless = 0 if gained_bytes else self._fruitless + 1
        if self._fruitless >= _TRIES_WITHOUT_PROGRESS:
            raise error
        self._metrics.fill_resumes.labels(type(error).__name__.removesuffix("Error")).inc()
        await asyncio.sleep(
            delay_seconds(
                self._fruitless + 1,
                base=_BACKOFF_BASE_SECONDS,
                cap=_BACKOFF_CAP_SECONDS,
                jitter=random.random,
            )
        )
