"""Where everything tells what has happened; nobody waits for who listens."""

import time
from collections.abc import Callable

from mirror.domain.events import Event, EventKind

Listener = Callable[[Event], None]


class Events:
    """Hands events to whoever listens; costs next to nothing while nobody does."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()

    def listen(self, listener: Listener) -> None:
        """Have a listener told of everything; it must return at once and not raise."""
        self._listeners = (*self._listeners, listener)

    def tell(self, kind: EventKind, subject: str, /, **data: object) -> None:
        """Tell what has happened; may be called on the event loop only."""
        if not self._listeners:
            return
        event = Event(kind, subject, data, time.time())
        for listener in self._listeners:
            listener(event)
