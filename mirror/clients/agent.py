"""The node agent: clients are told of the mirror only while it answers.

It does what `mirror client-config --install` and `--undo` do, as often as the mirror comes and
goes. There is one thread, since there is one thing to do.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror.clients.installing import ChangedSinceError, Installation
from mirror.clients.plan import CannotMergeError, Files, Plan
from mirror.clients.watch import Watch
from mirror.observe.logs import get_logger

AGAIN_SECONDS: Final = 30.0
"""How often what was written is looked at again: k3s, for one, writes its directory anew."""

_log = get_logger("clients")


@dataclass(frozen=True, slots=True)
class Told:
    """One client of this node."""

    name: str
    ledger: Callable[[Files], str]
    plan: Callable[[Files], Plan]


class NodeAgent:
    """Writes the files of some clients, and puts them back."""

    def __init__(self, root: Path, clients: Sequence[Told]) -> None:
        """Act on the clients of the machine below *root*."""
        self._root = root
        self._clients = clients
        self._told: bool | None = None
        self._looked_at = float("-inf")
        self._said: dict[str, str] = {}
        self.left: list[str] = []
        """The files that the last attempt has left to whoever changed them."""

    def run(
        self,
        look: Callable[[], str | None],
        stop: threading.Event,
        *,
        every_seconds: float,
        always: bool = False,
    ) -> None:
        """Look at the mirror until *stop*; *look* returns why it is of no use.

        Args:
            look: nothing else happens while it looks.
            stop: ends the loop, not what was written.
            every_seconds: between the end of a look and the next.
            always: tell the clients whether it answers or not: nobody else could help them.
        """
        watch = Watch()
        while True:
            failure = look()
            tell = watch.judge(answers=failure is None)
            self.settle(tell=tell or always, why=failure or "")
            if stop.wait(every_seconds):
                return

    def settle(self, *, tell: bool, why: str = "") -> None:
        """Let the files be as they should; what does not succeed is tried again."""
        if tell is self._told and not (tell and self._is_time()):
            return
        self._looked_at = time.monotonic()
        done = self._install() if tell else self.undo()
        if done and tell is not self._told:
            event = "clients are told of the mirror" if tell else "clients are told of no mirror"
            _log.info(event, clients=[client.name for client in self._clients], why=why)
        self._told = tell if done else None

    def undo(self) -> bool:
        """Put everything back as it was; return whether that was possible.

        What somebody has changed is left to him, and named in ``left``.
        """
        self.left = []
        # Backwards: a directory that one made may hold another's.
        done = [self._try(client, lambda there, _: there.undo()) for client in self._clients[::-1]]
        return all(done)

    def _install(self) -> bool:
        self.left = []
        done = [self._try(client, self._write) for client in self._clients]
        return all(done)

    def _write(self, there: Installation, client: Told) -> None:
        plan = client.plan(there)
        there.install(plan)
        for note in plan.notes:
            self._say(note, client.name)
        if plan.activate and not plan.activate_for:
            self._say(f"{client.name} reads its files only after: {plan.activate}", client.name)

    def _try(self, client: Told, act: Callable[[Installation, Told], object]) -> bool:
        try:
            plain = Installation(self._root, "/nonexistent")
            act(Installation(self._root, client.ledger(plain)), client)
        except ChangedSinceError as error:
            # Whoever changed it is responsible for it now: it is neither ours nor to be waited for.
            self.left += error.paths
            self._say(f"left alone: {error}", client.name)
        except (CannotMergeError, OSError, ValueError, KeyError, TypeError) as error:
            self._say(f"{type(error).__name__}: {error}", client.name)
            return False
        return True

    def _say(self, text: str, client: str) -> None:
        """Log once what would be said every second."""
        if self._said.get(text) != client:
            self._said[text] = client
            _log.warning("a client needs attention", client=client, problem=text)

    def _is_time(self) -> bool:
        return time.monotonic() - self._looked_at >= AGAIN_SECONDS
