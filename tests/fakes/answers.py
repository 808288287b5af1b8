"""An answer, and all the ways in which it can go over the wire."""

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Final, Literal

from tests.fakes.wire import Headers, Recorded

_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


class Ending(StrEnum):
    """What happens once the (rest of the) body has been sent."""

    COMPLETE = "complete"
    FIN = "fin"
    RST = "rst"
    HANG = "hang"


@dataclass(slots=True, kw_only=True)
class Answer:
    """Status, header lines and body, before faults and ranges are applied.

    ``headers`` holds neither Content-Length nor Transfer-Encoding: ``framing`` says
    which of them is sent, and ``announced_bytes`` is a Content-Length that may lie.
    """

    status: int = 200
    headers: Headers = field(default_factory=list)
    body: bytes | memoryview = field(default=b"", repr=False)
    framing: Literal["length", "chunked", "close"] = "length"
    announced_bytes: int | None = None
    ranges: bool = False
    range_total_bytes: int | None = None
    head_limit_bytes: int | None = None
    body_limit_bytes: int | None = None
    ending: Ending = Ending.COMPLETE

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def drop_header(self, name: str) -> None:
        self.headers = [(key, value) for key, value in self.headers if key.lower() != name.lower()]

    def set_header(self, name: str, value: str) -> None:
        self.drop_header(name)
        self.headers.append((name, value))

    @property
    def has_body(self) -> bool:
        return self.status not in {204, 304}

    @property
    def length_bytes(self) -> int:
        return len(self.body) if self.announced_bytes is None else self.announced_bytes

    @property
    def payload(self) -> memoryview:
        """The part of the body that is sent."""
        limit = len(self.body) if self.body_limit_bytes is None else self.body_limit_bytes
        return memoryview(self.body)[:limit]

    @property
    def is_regular(self) -> bool:
        """Whether the connection can carry another answer after this one."""
        whole = self.framing == "chunked" or self.length_bytes == len(self.payload)
        return whole and self.ending is Ending.COMPLETE and self.framing != "close"

    def head(self) -> bytes:
        """Return status line and headers, with nothing checked or escaped."""
        reason = HTTPStatus(self.status).phrase
        lines = [f"HTTP/1.1 {self.status} {reason}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        elif self.framing == "length" and self.has_body:
            lines.append(f"Content-Length: {self.length_bytes}")
        if self.framing == "close":
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def text(status: int, body: str, media_type: str = "text/plain; charset=utf-8") -> Answer:
    return Answer(status=status, headers=[("Content-Type", media_type)], body=body.encode())


def json_answer(document: object, *, status: int = 200) -> Answer:
    return Answer(
        status=status,
        headers=[("Content-Type", "application/json; charset=utf-8")],
        body=json.dumps(document).encode(),
    )


def error(status: int, code: str, message: str = "", detail: object = None) -> Answer:
    """Return an error in the shape of the distribution specification."""
    entry = {"code": code, "message": message or code.replace("_", " ").lower()}
    return json_answer(
        {"errors": [entry if detail is None else {**entry, "detail": detail}]}, status=status
    )


def as_conditional(request: Recorded, answer: Answer) -> Answer:
    """Turn a 200 into 304 if the client already has it."""
    etag = answer.header("ETag")
    if answer.status == HTTPStatus.OK and etag and etag in request.header_lines("If-None-Match"):
        return Answer(status=304, headers=answer.headers)
    return answer


def as_range(request: Recorded, answer: Answer) -> Answer:
    """Turn a 200 into 206 or 416 if one range is asked for; several get a 200."""
    asked = _RANGE.fullmatch(request.header("Range") or "")
    if not answer.ranges or answer.status != HTTPStatus.OK or asked is None:
        return answer
    size = len(answer.body)
    span = _span(asked[1], asked[2], size)
    total = size if answer.range_total_bytes is None else answer.range_total_bytes
    if span is None:
        refusal = text(416, "range not satisfiable")
        refusal.headers.append(("Content-Range", f"bytes */{total}"))
        return refusal
    first, last = span
    answer.status = 206
    answer.headers.append(("Content-Range", f"bytes {first}-{last}/{total}"))
    answer.body = memoryview(answer.body)[first : last + 1]
    return answer


def _span(first: str, last: str, size: int) -> tuple[int, int] | None:
    if not first:
        suffix = min(int(last or 0), size)
        return (size - suffix, size - 1) if suffix else None
    start, end = int(first), min(int(last or size), size - 1)
    return (start, end) if start <= end else None
