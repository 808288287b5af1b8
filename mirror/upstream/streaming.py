"""The body of a blob as it comes from upstream."""

from collections.abc import AsyncIterator

import aiohttp

from mirror.domain.errors import UpstreamTroubleError
from mirror.domain.ranges import Span, parse_content_range
from mirror.upstream.transport import Transport, translated


class HttpStream:
    """A BlobStream over aiohttp.

    Raises:
        UpstreamTroubleError: on construction, if the body is not what was asked for.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, start: int, transport: Transport, endpoint: str
    ) -> None:
        refuse_encoding(response)
        self._response = response
        self._transport = transport
        self.endpoint = endpoint
        self.offset = 0
        self.size_bytes = response.content_length
        if response.status == 206:
            self.offset = start
            self.size_bytes = self._whole_size(start)

    def _whole_size(self, start: int) -> int | None:
        content_range = parse_content_range(self._response.headers.get("Content-Range", ""))
        if content_range is None or content_range[0].start != start:
            raise UpstreamTroubleError(f"{self.endpoint}: another range than was asked for")
        return content_range[1]

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what has come, in pieces of up to a few MiB."""
        content = self._response.content
        try:
            while chunk := await content.readany():
                self._transport.received(len(chunk))
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            if rest := _left_behind(content):
                self._transport.received(len(rest))
                yield rest
            raise translated(error, str(self._response.url)) from None

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        self._response.release()


def _left_behind(content: aiohttp.StreamReader) -> bytes:
    """Take what came before the body broke: aiohttp keeps it, but gives it to nobody.

    It may be as much as the read-ahead, when the disk or the client is slower than upstream.
    """
    chunks = list(content._buffer)  # noqa: SLF001 -- every public way raises the error again
    content._buffer.clear()  # noqa: SLF001 -- as above
    return b"".join(chunks)


def is_encoded(response: aiohttp.ClientResponse) -> bool:
    """Return whether the content is not what was pushed: we ask for identity."""
    encoding = response.headers.get("Content-Encoding", "identity")
    return encoding.strip().lower() not in {"identity", ""}


def refuse_encoding(response: aiohttp.ClientResponse) -> None:
    """Raise UpstreamTroubleError for encoded content: digests are of what was pushed."""
    if is_encoded(response):
        encoding = response.headers["Content-Encoding"]
        raise UpstreamTroubleError(f"the content is encoded ({encoding[:32]!r}) unasked")


def range_header(span: tuple[int, int | None]) -> str | None:
    """Return the Range header for a span; ``None`` for the whole."""
    start, stop = span
    if not start and stop is None:
        return None
    return f"bytes={start}-" if stop is None else f"bytes={Span(start, stop).start}-{stop - 1}"
