"""Processes that the tests start, and nothing else, are stopped here again."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

POLL_SECONDS = 0.02


class Patience:
    """How long a command of a client may take."""

    seconds: float = 120


def free_port() -> int:
    """Return a loopback port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether somebody accepts connections on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def eventually(condition: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
    """Wait until a condition of another process holds, or fail the test."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(POLL_SECONDS)


def assert_throughout(condition: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Fail the test if a condition of another process does not hold all this time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), what
        time.sleep(POLL_SECONDS)


def plain_environment() -> dict[str, str]:
    """Return the environment without HTTP proxies: everything here is on loopback."""
    return {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}


class Daemon:
    """One process with a log file, known to the failure report while it runs."""

    running: ClassVar[list[Daemon]] = []

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        directory: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=plain_environment(),
                cwd=directory,
            )
        self.running.append(self)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool], *, seconds: float = 30) -> None:
        """Wait for the process to be of use; its early death is a failure with its log."""

        def ready_or_dead() -> bool:
            return self._process.poll() is not None or ready()

        try:
            eventually(ready_or_dead, f"{self.name} is ready", seconds=seconds)
        finally:
            code = self._process.poll()
        if code is not None:
            self.running.remove(self)
            pytest.fail(f"{self.name} ended with {code}:\n{self.tail()}")

    def stop(self, *, seconds: float = 30) -> int:
        """Ask the process to end (SIGTERM) and return its exit code."""
        if self in self.running:
            self.running.remove(self)
        self._process.terminate()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            pytest.fail(f"{self.name} ignored SIGTERM for {seconds} s:\n{self.tail()}")

    def kill(self) -> None:
        """End the process as a power cut would; one that has ended by itself is fine, too."""
        if self in self.running:
            self.running.remove(self)
        self._process.kill()
        self._process.wait()

    def tail(self, lines: int = 40) -> str:
        """Return the end of the log."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def run(
    *command: str | Path, environment: dict[str, str] | None = None, seconds: float | None = None
) -> str:
    """Run a command to its end and return its output; raise ``CommandError`` if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=Patience.seconds if seconds is None else seconds,
        check=False,
        env=plain_environment() | (environment or {}),
    )
    if done.returncode != 0:
        raise CommandError(command, done.stdout + done.stderr)
    return done.stdout


class CommandError(Exception):
    """A client said no; its output is the message."""

    def __init__(self, command: Sequence[str | Path], output: str) -> None:
        super().__init__(f"{' '.join(str(part) for part in command)}\n{output}")
