"""The body of a blob as it comes from upstream."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final, Protocol

import aiohttp

from mirror.domain.errors import UpstreamTroubleError
from mirror.domain.ranges import Span, parse_content_range
from mirror.upstream.receiving import Batch, Receiver, take_over
from mirror.upstream.transport import Transport, translated

GATHERED_BYTES: Final = 2 * 1024 * 1024
"""A body up to this size is taken in few steps: it fits into what is received ahead."""
_MOMENT_SECONDS: Final = 0.025


class BlobStream(Protocol):
    """The body of a blob as it comes; leave the context of ``open_blob`` to end it."""

    offset: int
    """Where in the blob the body begins: 0 where upstream ignored the range."""
    size_bytes: int | None
    """The length of the whole blob, if upstream tells."""
    endpoint: str
    """Which endpoint it came by, although a CDN may have sent it."""

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield what has come; raises UpstreamTroubleError where the body breaks."""
        ...

    def batches(self) -> AsyncGenerator[Batch, None]:
        """Yield as ``chunks`` does, with less copying; each batch must be released."""
        ...

    def close(self) -> None:
        """Let go of the connection; harmless when that is done."""
        ...


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
        self._receiver: Receiver | None = None
        if response.status == 206:
            self.offset = start
            self.size_bytes = self._whole_size(start)

    def _whole_size(self, start: int) -> int | None:
        content_range = parse_content_range(self._response.headers.get("Content-Range", ""))
        if content_range is None or content_range[0].start != start:
            raise UpstreamTroubleError(f"{self.endpoint}: another range than was asked for")
        return content_range[1]

    async def chunks(self) -> AsyncGenerator[bytes, None]:
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

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Yield what has come, in as few copies as can be; each batch must be released."""
        taken = take_over(self._response)
        if taken is None:
            async for batch in self._gathered():
                yield batch
            return
        first, self._receiver = taken
        place = str(self._response.url)
        if first:
            size_bytes = sum(map(len, first))
            self._transport.received(size_bytes)
            yield Batch([*first], size_bytes)
        async for batch in self._receiver.batches(self._transport.idle_seconds, place):
            self._transport.received(batch.size_bytes)
            yield batch

    async def _gathered(self) -> AsyncGenerator[Batch, None]:
        """Yield what comes; a small body whole if it comes at once, and not packet by packet."""
        content, size_bytes = self._response.content, self._response.content_length
        is_small = size_bytes is not None and size_bytes <= GATHERED_BYTES
        async with aclosing(self.chunks()) as chunks:
            while True:
                if is_small:
                    await _whole_or_a_moment(content)
                chunk = await anext(chunks, None)
                if chunk is None:
                    return
                yield Batch.of(chunk)

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        if self._receiver is not None:
            self._receiver.close()
        self._response.release()


async def _whole_or_a_moment(content: aiohttp.StreamReader) -> None:
    """Wait until a body has come whole or is broken, but not for long.

    Each wake-up costs more than the bytes of a packet; aiohttp's buffer holds all that comes.
    """
    if content.is_eof() or content.exception() is not None:
        return
    with suppress(aiohttp.ClientError, OSError):  # told again by whoever reads
        async with asyncio.timeout(_MOMENT_SECONDS):
            await content.wait_eof()


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
