"""Structured logs: one line for one event, facts beside a constant text, no secret.

JSON for machines, or ``console`` for people; both through structlog, also for what the
libraries log by the standard library.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog

Format = Literal["json", "console"]

_SECRET_KEYS: Final = re.compile(
    r"authorization|password|passwd|secret|token|credential|cookie|api_?key", re.IGNORECASE
)
_NOT_SECRET_KEYS: Final = frozenset({"credential_name", "token_endpoint"})
_SECRET_TEXT: Final = re.compile(
    r"(?i)\b(basic|bearer)\s+[a-z0-9._~+/=-]{6,}|(?<=://)[^/\s@]+@|\?[^\s\"'<>]*(?:sig|token|verify"
    r"|credential|password)[^\s\"'<>]*"
)
_QUIET: Final = ("aiocache", "asyncio", "aiohttp.access")
"""Libraries whose debug lines tell nothing, or the keys of what they keep."""

REDACTED: Final = "********"

EventDict = MutableMapping[str, Any]


def redact_text(text: str) -> str:
    """Return *text* without what looks like a credential, user information or a signed query."""
    return _SECRET_TEXT.sub(REDACTED, text)


def _redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        event[key] = _redacted(key, value)
    return event


def _redacted(key: str, value: object) -> object:
    if key not in _NOT_SECRET_KEYS and _SECRET_KEYS.search(key):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {inner: _redacted(str(inner), item) for inner, item in value.items()}
    return value


def _encode(event: object, **_options: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


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
    handler = logging.StreamHandler(stream or sys.stderr)
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
