"""Credential helpers: programs that are asked for a login over standard input and output.

Source: docker/docker-credential-helpers, ``client/command.go`` and ``credentials/``.
Runs in a thread, since starting a program and waiting for it blocks.
"""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePath
from typing import Final

from mirror.domain.errors import CredentialUnavailableError
from mirror.domain.logins import HelperCall, Login, UnreadableError, read_helper_answer

LIMIT_SECONDS: Final = 10.0
_ANSWER_MAX_BYTES: Final = 64 * 1024
_NOT_FOUND: Final = b"credentials not found"
"""How the message of a helper begins that works, but has no login for the server."""


def ask_helper(
    call: HelperCall, environ: Mapping[str, str], limit_seconds: float = LIMIT_SECONDS
) -> Login:
    """Run a helper and return the login that it has.

    It gets our environment without what configures the mirror. What it writes may hold the
    secret, also when it fails: nothing of it is repeated.

    Raises:
        CredentialUnavailableError: it has none, fails, or takes too long.
    """
    name = PurePath(call.program).name
    code, output = _run(call, environ, limit_seconds, name)
    if code != 0 and output.startswith(_NOT_FOUND):
        raise CredentialUnavailableError(f"{name} has no login for this registry")
    if code != 0:
        raise CredentialUnavailableError(f"{name} ended with code {code}")
    try:
        return read_helper_answer(output.decode("utf-8", "replace"))
    except UnreadableError as error:
        raise CredentialUnavailableError(f"{name}: {error}") from None


def _run(
    call: HelperCall, environ: Mapping[str, str], limit_seconds: float, name: str
) -> tuple[int, bytes]:
    ends_at = time.monotonic() + limit_seconds
    try:
        process = subprocess.Popen(  # noqa: S603 -- the operator names the program
            [call.program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={key: value for key, value in environ.items() if not key.startswith("MIRROR_")},
            start_new_session=True,  # so that what it starts can be ended with it
        )
    except FileNotFoundError:
        raise CredentialUnavailableError(f"{name} is not there, or not on the PATH") from None
    except OSError as error:
        raise CredentialUnavailableError(f"{name} cannot be run: {error.strerror}") from None
    try:
        return _converse(process, call.server, ends_at, name)
    finally:
        if process.returncode is None:  # its group is surely still its own
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def _converse(
    process: "subprocess.Popen[bytes]", server: str, ends_at: float, name: str
) -> tuple[int, bytes]:
    assert process.stdin is not None  # noqa: S101 -- asked for above
    assert process.stdout is not None  # noqa: S101 -- likewise
    with suppress(BrokenPipeError):  # it may not read; a name fits into the pipe
        process.stdin.write(server.encode())
        process.stdin.close()
    output = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, ends_at - time.monotonic())):
            part = os.read(process.stdout.fileno(), _ANSWER_MAX_BYTES)
            output += part
            if len(output) > _ANSWER_MAX_BYTES:
                raise CredentialUnavailableError(f"{name} does not stop writing")
            if not part:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(max(0.0, ends_at - time.monotonic()))
                    return code, bytes(output)
                break
    raise CredentialUnavailableError(f"{name} did not answer in time")
