"""What happens in a mirror and others may want to be told, as CloudEvents.

Source: CloudEvents 1.0.2, JSON event format.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum


class EventKind(StrEnum):
    """What can have happened."""

    CACHED = "object.cached"
    EVICTED = "object.evicted"
    MISMATCH = "digest.mismatch"
    DOWN = "upstream.down"
    UP = "upstream.up"
    RATE_LIMIT_LOW = "ratelimit.low"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened.

    ``subject`` is what it happened to: a digest, or an upstream. ``at`` is in seconds since
    the epoch.
    """

    kind: EventKind
    subject: str
    data: dict[str, object] = field(default_factory=dict)
    at: float = 0.0


def cloud_event(event: Event, event_id: str, source: str) -> dict[str, object]:
    """Return an event in the structured form of CloudEvents."""
    moment = datetime.fromtimestamp(event.at, UTC)
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": f"mirror.{event.kind}",
        "subject": event.subject,
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": event.data,
    }


def signature(secret: bytes, body: bytes) -> str:
    """Return what proves that a body comes from who knows the secret."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
