"""Units as people write them: ``10m``, ``50GiB``, ``80%``, ``[::1]:5000``.

Each value has one reader and one writer, and what was written is read back as the same value.
"""

import ipaddress
import math
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final, Self

from mirror.domain.challenge import is_address

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

_UNIT_SECONDS: Final = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
    "w": Decimal(604800),
}
_DURATION_PART: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)(ms|[smhdw])")
_DURATION: Final = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_NUMBER: Final = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")
# Longer than any deadline or age, and short enough to be added to a clock without overflow.
_LONGEST_SECONDS: Final = 100 * 365 * 86400.0
_FEWEST_DAYS: Final = 2

_UNIT_BYTES: Final = {
    "PiB": 1024**5,
    "TiB": 1024**4,
    "GiB": GIB,
    "MiB": MIB,
    "KiB": KIB,
    "PB": 1000**5,
    "TB": 1000**4,
    "GB": 1000**3,
    "MB": 1000**2,
    "KB": 1000,
    "B": 1,
}
# Kubernetes writes 50Gi.
_SPELLINGS: Final = {name.lower(): factor for name, factor in _UNIT_BYTES.items()} | {
    name.lower().removesuffix("b"): factor
    for name, factor in _UNIT_BYTES.items()
    if name.endswith("iB")
}
_SIZE: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s?([A-Za-z]{1,3})")
# The index keeps sizes as signed 64-bit numbers.
_LARGEST_BYTES: Final = 2**63 - 1

_PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)\s?%")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_PORT_MAX: Final = 65535


def _plain_number(given: object) -> float | None:
    if isinstance(given, bool):
        return None
    if isinstance(given, float):
        return given
    if isinstance(given, int):
        # An int of 400 digits does not fit a float; infinity stands for "too much" below.
        return float(given) if abs(given) <= _LARGEST_BYTES else math.inf
    if isinstance(given, str) and _NUMBER.fullmatch(given.strip()):
        return float(given)
    return None


def parse_duration(given: object) -> float:
    """Return the seconds of ``90s``, ``1h30m``, ``500ms`` or of a plain number of seconds."""
    seconds = _plain_number(given)
    if seconds is None and isinstance(given, str) and _DURATION.fullmatch(given.strip()):
        parts = _DURATION_PART.findall(given)
        seconds = float(sum(Decimal(number) * _UNIT_SECONDS[unit] for number, unit in parts))
    if seconds is None or math.isnan(seconds):
        raise ValueError("not a duration; write for example 500ms, 90s, 10m, 6h or 7d")
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise ValueError("a duration is between 0 and 100 years")
    return seconds


def format_duration(seconds: float) -> str:
    """Write *seconds* with the largest unit that divides them."""
    exact = Decimal(repr(seconds))
    for unit in ("d", "h", "m", "s", "ms"):
        count = exact / _UNIT_SECONDS[unit]
        # People say 24h, not 1d.
        fewest = _FEWEST_DAYS if unit == "d" else 1
        if count >= fewest and count == count.to_integral_value():
            return f"{int(count)}{unit}"
    return f"{exact.normalize():f}s"


def parse_size(given: object) -> int:
    """Return the bytes of ``50GiB``, ``10GB``, ``64Mi`` or of a plain number of bytes."""
    count = _size_or_none(given)
    # Only a number that is not one differs from itself.
    if count is None or count != count:  # noqa: PLR0124 -- math.isnan() fails for a huge int
        raise ValueError("not a size; write for example 64MiB, 50GiB, 10GB or a number of bytes")
    if not 0 <= count <= _LARGEST_BYTES:
        raise ValueError("a size is between 0 and 8 EiB")
    if count != int(count):
        raise ValueError("a size is a whole number of bytes")
    return int(count)


def _size_or_none(given: object) -> Decimal | int | float | None:
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, str) and (match := _SIZE.fullmatch(given.strip())):
        factor = _SPELLINGS.get(match[2].lower())
        return None if factor is None else Decimal(match[1]) * factor
    if isinstance(given, str) and _NUMBER.fullmatch(given.strip()):
        return Decimal(given.strip())
    return _plain_number(given)


def format_size(size_bytes: int) -> str:
    """Write *size_bytes* with the unit that needs the fewest digits."""
    if not size_bytes:
        return "0B"
    exact = [(size_bytes // f, unit) for unit, f in _UNIT_BYTES.items() if size_bytes % f == 0]
    count, unit = min(exact, key=lambda choice: len(str(choice[0])))
    return f"{count}{unit}"


def parse_share(given: object) -> float:
    """Return ``20%`` as 0.2; a share is always written in per cent."""
    match = _PERCENT.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is None:
        raise ValueError("not a share; write for example 20%")
    share = float(Decimal(match[1]) / 100)
    if share > 1:
        raise ValueError("a share is between 0% and 100%")
    return share


def format_share(share: float) -> str:
    """Write 0.2 as ``20%``."""
    return f"{(Decimal(repr(share)) * 100).normalize():f}%"


@dataclass(frozen=True, slots=True)
class SizeOrShare:
    """A number of bytes, or a share of the file system, which is known only where it is used."""

    size_bytes: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if (self.size_bytes is None) == (self.share is None):
            raise ValueError("either a size or a share")

    @classmethod
    def parse(cls, given: object) -> Self:
        """Read ``50GiB`` or ``80%``."""
        if isinstance(given, cls):
            return given
        if isinstance(given, str) and given.rstrip().endswith("%"):
            return cls(share=parse_share(given))
        try:
            return cls(size_bytes=parse_size(given))
        except ValueError as error:
            raise ValueError(f"{error}; or a share such as 80%") from None

    def resolve(self, total_bytes: int) -> int:
        """Return the bytes meant on a file system of *total_bytes*."""
        if self.size_bytes is not None:
            return self.size_bytes
        return int(total_bytes * (self.share or 0.0))

    def __bool__(self) -> bool:
        return bool(self.size_bytes or self.share)

    def __str__(self) -> str:
        if self.size_bytes is not None:
            return format_size(self.size_bytes)
        return format_share(self.share or 0.0)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a listener binds; no host means every address of the machine."""

    host: str
    port: int

    @classmethod
    def parse(cls, given: object) -> Self:
        """Read ``0.0.0.0:5000``, ``[::1]:5000``, ``localhost:5000`` or ``:5000``."""
        if isinstance(given, cls):
            return given
        host, colon, port = given.strip().rpartition(":") if isinstance(given, str) else ("",) * 3
        if not colon or not _PORT.fullmatch(port) or int(port) > _PORT_MAX:
            raise ValueError(
                "not an address with a port; write for example 127.0.0.1:5000 or :5000"
            )
        return cls(_listen_host(host), int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the listener."""
        return self.host == "localhost" or (
            is_address(self.host) and ipaddress.ip_address(self.host).is_loopback
        )

    def local(self) -> Self:
        """Return the address by which this machine reaches a listener."""
        everywhere = self.host in {"", "0.0.0.0", "::"}  # noqa: S104 -- compared, not bound
        return replace(self, host="127.0.0.1") if everywhere else self

    def overlaps(self, other: Self) -> bool:
        """Whether the two cannot be bound at the same time."""
        if self.port != other.port or not self.port:
            return False
        everywhere = {"", "0.0.0.0", "::"}  # noqa: S104 -- recognised here, not bound
        return self.host == other.host or self.host in everywhere or other.host in everywhere

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _listen_host(text: str) -> str:
    if text.startswith("[") and text.endswith("]") and is_address(text[1:-1]):
        return text[1:-1]
    if ":" in text:
        raise ValueError("an IPv6 address stands in brackets: [::1]:5000")
    if text and not _HOST.fullmatch(text):
        raise ValueError("the part before the port is neither an address nor a host name")
    return text
