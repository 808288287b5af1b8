"""Structured logs: one line for one event, facts beside a constant text, no secret.

JSON for machines, or ``console`` for people; both through structlog, also for what the
libraries log by the standard library.
"""

import asyncio
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog

from mirror.settings import Log

Format = Literal["json", "console"]

_SECRET_KEYS: Final = re.compile(
    r"authorization|password|passwd|secret|token|credential|cookie|api_?key", re.IGNORECASE
)
_NOT_SECRET_KEYS: Final = frozenset({"credential_name", "token_endpoint"})
_HINT: Final = re.compile(r"[\s=?\"']|//")
"""A text without one of these has no secret; most have none, and this is fast to find."""
_URL: Final = re.compile(r"""(://)([^/?#\s"'<>]*@)?([^?\s"'<>]*)(\?[^\s"'<>]*)?""")
_SECRET_TEXT: Final = re.compile(
    r"""
    \b(?:basic|bearer)\s+[a-z0-9._~+/=-]{4,}                               # a header
    | (?<=\?)[^\s"'<>]*(?:sig|token|verify|credential|password)[^\s"'<>]*  # a signed query
    | (?P<quoted>(?:password|passwd|secret|token)["']?\s*[=:]\s*["'])[^"']*  # JSON or a repr
    | (?P<field>(?:password|passwd|secret|token)=)[^\s"'&,;<>]+              # a form
    """,
    re.IGNORECASE | re.VERBOSE,
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CONTROL_BUT_NEWLINE: Final = re.compile(r"(?!\n)" + _CONTROL.pattern)
_EXCEPTION: Final = "exception"
_QUIET: Final = ("aiocache", "asyncio", "aiohttp.access")
"""Libraries whose debug lines tell nothing, or the keys of what they keep."""

REDACTED: Final = "********"

EventDict = MutableMapping[str, Any]


def redact_text(text: str) -> str:
    """Return *text* without what looks like a credential, user information or a signed query."""
    if _HINT.search(text) is None:
        return text
    return _SECRET_TEXT.sub(_without_secret, _URL.sub(_without_query, text))


def _without_query(url: re.Match[str]) -> str:
    user, query = url[2] and f"{REDACTED}@", url[4] and f"?{REDACTED}"
    return f"{url[1]}{user or ''}{url[3]}{query or ''}"


def _without_secret(match: re.Match[str]) -> str:
    kept = match.lastgroup and match[match.lastgroup]
    return f"{kept or ''}{REDACTED}"


def _redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if not key.startswith("_"):  # structlog's own, which never gets to a line
            event[key] = _redacted(key, value)
    return event


def _redacted(key: str, value: object) -> object:
    """Return what may stand in a line for *value*, however deep it is nested."""
    if _is_secret(key):
        return REDACTED
    if isinstance(value, str):
        return _clean(key, value)
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, int) and value.bit_length() < 64:  # beyond that, msgspec fails
        return value
    if isinstance(value, Mapping):
        return {_line(str(inner)): _redacted(str(inner), item) for inner, item in value.items()}
    return _redacted_rest(key, value)


def _redacted_rest(key: str, value: object) -> object:
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", item) for item in value]
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return _clean(key, text)


@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return key not in _NOT_SECRET_KEYS and _SECRET_KEYS.search(key) is not None


def _clean(key: str, text: str) -> str:
    # A traceback has its lines, which JSON escapes and a person wants to see.
    return _line(redact_text(text), _CONTROL_BUT_NEWLINE if key == _EXCEPTION else _CONTROL)


def _line(text: str, forbidden: re.Pattern[str] = _CONTROL) -> str:
    """Return *text* with escapes for what could begin a line of its own or drive a terminal."""
    if text.isprintable():
        return text
    return forbidden.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def clean(text: str) -> str:
    """Return free text as it may stand in a line: no secret, no escape sequence."""
    return _clean("", text)


class _Lines:
    """Writes whole lines for ``line``, those of one turn of the event loop at once."""

    def __init__(self, handler: "logging.StreamHandler[TextIO]", level: int) -> None:
        self._handler = handler
        self._level = level
        self._waiting: list[str] = []

    def add(self, level: int, event: dict[str, object]) -> None:
        if level < self._level:
            return
        self._waiting.append(msgspec.json.encode(event).decode())
        if len(self._waiting) == 1:
            try:
                asyncio.get_running_loop().call_soon(self._write)
            except RuntimeError:  # no loop, no turns
                self._write()

    def _write(self) -> None:
        lines, self._waiting = self._waiting, []
        self._handler.acquire()
        try:
            self._handler.stream.write("\n".join(lines) + "\n")
            self._handler.stream.flush()
        except (OSError, ValueError):
            pass  # as logging does: who reads the log has gone, which is no reason to stop
        finally:
            self._handler.release()


_lines: _Lines | None = None
"""Set while the format is JSON; people at a console do not have that many requests."""


def line(room: str, level: int, event: str, fields: dict[str, object]) -> None:
    """Log one line whose *fields* are clean already, for what is logged at every request.

    The result is that of structlog, which needs as long for it as the rest of a request does.
    """
    if _lines is None:
        get_logger(room).log(level, event, **fields)
        return
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    name = logging.getLevelName(level).lower()
    _lines.add(level, {**fields, "event": event, "level": name, "timestamp": at})


def _encode(event: object, **_options: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def chosen(log: Log) -> tuple[Format, str]:
    """Return format and level; where no format is configured, a terminal gets that for people."""
    if "format" not in log.model_fields_set and sys.stderr.isatty():
        return "console", log.level
    return log.format, log.level


def configure(log_format: Format, level: str, stream: TextIO | None = None) -> None:
    """Send all logs, ours and the libraries', to *stream* (standard error by default)."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(serializer=_encode)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=(stream or sys.stderr).isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the other one shows variables
        )
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    global _lines  # noqa: PLW0603 -- as structlog's own configuration, it is the process's
    handler = logging.StreamHandler(stream or sys.stderr)
    _lines = _Lines(handler, logging.getLevelName(level.upper())) if log_format == "json" else None
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for library in _QUIET:
        logging.getLogger(library).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(root.level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def get_logger(room: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a room of the house."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(f"mirror.{room}")
    return logger
