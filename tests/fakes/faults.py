"""Ways in which an upstream misbehaves, for ``Origin.fail``."""

import gzip as _gzip
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from tests.fakes import answers
from tests.fakes.answers import Answer, Ending
from tests.fakes.script import Fault
from tests.fakes.wire import Recorded

_CODES = {
    401: "UNAUTHORIZED",
    403: "DENIED",
    404: "MANIFEST_UNKNOWN",
    405: "UNSUPPORTED",
    429: "TOOMANYREQUESTS",
}


def instead(answer: Answer) -> Fault:
    """Answer with a copy of *answer*."""

    def fault(_request: Recorded, _answer: Answer) -> Answer:
        return Answer(
            status=answer.status,
            headers=list(answer.headers),
            body=answer.body,
            framing=answer.framing,
        )

    return fault


def status(code: int, *, headers: dict[str, str] | None = None) -> Fault:
    """Answer with an error, in JSON below 500 and in plain text from there on."""
    if code in _CODES:
        answer = answers.error(code, _CODES[code])
    else:
        answer = answers.text(code, f"error {code}\n")
    answer.headers.extend((headers or {}).items())
    return instead(answer)


def too_many_requests(retry_after: int | str | timedelta | None = None) -> Fault:
    """429, with Retry-After as given or, for a timedelta, as an HTTP date from now."""
    if retry_after is None:
        return status(429)
    if isinstance(retry_after, timedelta):
        retry_after = format_datetime(datetime.now(UTC) + retry_after, usegmt=True)
    return status(429, headers={"Retry-After": str(retry_after)})


def challenge(*lines: str, code: int = 401) -> Fault:
    """401 with one WWW-Authenticate line for each of *lines*."""
    answer = answers.error(code, "UNAUTHORIZED")
    answer.headers += [("WWW-Authenticate", line) for line in lines]
    return instead(answer)


def hang() -> Fault:
    """Accept the request and never send a byte."""
    return _ending(Ending.HANG, head_limit_bytes=0)


def no_answer(*, rst: bool = False, after_bytes: int = 0) -> Fault:
    """End the connection after *after_bytes* of the head."""
    return _ending(Ending.RST if rst else Ending.FIN, head_limit_bytes=after_bytes)


def hang_in_body(after_bytes: int = 0) -> Fault:
    """Stop after *after_bytes* of the body and keep the connection open."""
    return _ending(Ending.HANG, body_limit_bytes=after_bytes)


def cut(after_bytes: int, *, rst: bool = False) -> Fault:
    """End the connection by FIN or RST after *after_bytes* of the body."""
    return _ending(Ending.RST if rst else Ending.FIN, body_limit_bytes=after_bytes)


def _ending(
    ending: Ending, *, head_limit_bytes: int | None = None, body_limit_bytes: int | None = None
) -> Fault:
    def fault(_request: Recorded, answer: Answer) -> Answer:
        answer.ending = ending
        answer.head_limit_bytes = head_limit_bytes
        answer.body_limit_bytes = body_limit_bytes
        return answer

    return fault


def surplus(more: bytes = b"more than was announced") -> Fault:
    """Send *more* past Content-Length."""

    def fault(_request: Recorded, answer: Answer) -> Answer:
        answer.announced_bytes = len(answer.body)
        answer.body = bytes(answer.body) + more
        answer.ranges = False
        return answer

    return fault


def chunked(*, only_bytes: int | None = None) -> Fault:
    """Send chunks; with *only_bytes* too few of them, but properly terminated."""

    def fault(_request: Recorded, answer: Answer) -> Answer:
        answer.framing = "chunked"
        answer.body_limit_bytes = only_bytes
        return answer

    return fault


def until_close(*, only_bytes: int | None = None) -> Fault:
    """Send neither Content-Length nor chunks: the body ends with the connection."""

    def fault(_request: Recorded, answer: Answer) -> Answer:
        answer.framing = "close"
        answer.body_limit_bytes = only_bytes
        return answer

    return fault


def content_length(announced_bytes: int) -> Fault:
    """Announce another length than that of the body, which is sent whole."""

    def fault(_request: Recorded, answer: Answer) -> Answer:
        answer.announced_bytes = announced_bytes
        return answer

    return fault


def body(content: bytes, media_type: str | None = None) -> Fault:
    """Send *content*, with the headers and the status of the ordinary answer."""

    def fault(_request: Recorded, answer: Answer) -> Answer:
        answer.body = content
        if media_type is not None:
            answer.set_header("Content-Type", media_type)
        return answer

    return fault


def empty() -> Fault:
    """200 with the right headers and Content-Length: 0."""
    return body(b"")


def flip(at_byte: int = 0) -> Fault:
    """Flip a bit of the byte *at_byte* of the content, whatever range is asked for."""

    def fault(_request: Recorded, answer: Answer) -> Answer:
        if len(answer.body):
            content = bytearray(answer.body)
            content[at_byte] ^= 1
            answer.body = bytes(content)
        return answer

    return fault


def gzip() -> Fault:
    """Encode the body with gzip, asked or not."""

    def fault(_request: Recorded, answer: Answer) -> Answer:
        answer.body = _gzip.compress(answer.body, mtime=0)
        answer.headers.append(("Content-Encoding", "gzip"))
        answer.ranges = False
        return answer

    return fault


def header(name: str, value: str) -> Fault:
    """Set a header; CR and LF in *value* go out as they are."""

    def fault(_request: Recorded, answer: Answer) -> Answer:
        answer.set_header(name, value)
        return answer

    return fault


def add_header(name: str, value: str) -> Fault:
    """Add a header line beside those of the same name."""

    def fault(_request: Recorded, answer: Answer) -> Answer:
        answer.headers.append((name, value))
        return answer

    return fault


def without(*names: str) -> Fault:
    """Leave headers out; Content-Length is replaced by chunks, on HEAD by nothing."""

    def fault(request: Recorded, answer: Answer) -> Answer:
        for name in names:
            answer.drop_header(name)
            if name.lower() == "content-length":
                answer.framing = "close" if request.method == "HEAD" else "chunked"
        return answer

    return fault


def wrong_digest(digest: str = "sha256:" + "0" * 64) -> Fault:
    return header("Docker-Content-Digest", digest)


def crlf(name: str = "X-Note") -> Fault:
    """Try to smuggle a header into the answer by a line break."""
    return add_header(name, "a\r\nSet-Cookie: smuggled=1")


def broken_header() -> Fault:
    """Send a bare CR and a NUL in a header value."""
    return add_header("X-Note", "a\rb\0c")


def long_header(size_bytes: int = 9000) -> Fault:
    return add_header("X-Long", "x" * size_bytes)


def html(code: int = 200) -> Fault:
    """Answer with the page of a captive portal or a login form."""
    return instead(answers.text(code, "<html><body>Sign in</body></html>", "text/html"))


def cdn_forbidden() -> Fault:
    """Answer with the 403 page that CDNs send for bots and for expired addresses."""
    page = "<html><head><title>403 Forbidden</title></head><body>error 1010</body></html>"
    return instead(answers.text(403, page, "text/html; charset=UTF-8"))


def redirect(location: str, code: int = 307) -> Fault:
    """Redirect to *location*, which is sent as it is."""
    answer = answers.text(code, f'<a href="{location}">Moved</a>', "text/html; charset=utf-8")
    answer.headers.append(("Location", location))
    return instead(answer)


def redirect_loop(code: int = 307) -> Fault:
    """Redirect every request to itself."""

    def fault(request: Recorded, answer: Answer) -> Answer:
        return redirect(request.target, code)(request, answer)

    return fault


def redirect_hops(hops: int, code: int = 307) -> Fault:
    """Redirect *hops* times on the same origin, then answer."""

    def fault(request: Recorded, answer: Answer) -> Answer:
        done = int(request.parameter("hop") or 0)
        if done >= hops:
            return answer
        return redirect(f"{request.path}?hop={done + 1}", code)(request, answer)

    return fault


def ignore_range() -> Fault:
    """Answer 200 with everything to a Range request."""

    def fault(_request: Recorded, answer: Answer) -> Answer:
        answer.ranges = False
        return answer

    return fault


def range_total(total_bytes: int) -> Fault:
    """Answer 206 as if the whole had another length."""

    def fault(_request: Recorded, answer: Answer) -> Answer:
        answer.range_total_bytes = total_bytes
        return answer

    return fault


def range_shifted(by_bytes: int) -> Fault:
    """Answer 206 with another range than the one that was asked for."""

    def fault(request: Recorded, answer: Answer) -> Answer:
        asked = request.header("Range")
        if asked is None:
            return answer
        first, _, last = asked.removeprefix("bytes=").partition("-")
        shifted = f"bytes={int(first) + by_bytes}-{last}"
        headers = [(k, v) for k, v in request.headers if k.lower() != "range"]
        shadow = Recorded(
            connection=0,
            method=request.method,
            target=request.target,
            version=request.version,
            headers=[*headers, ("Range", shifted)],
        )
        return answers.as_range(shadow, answer)

    return fault
