"""The other origin that registries redirect to, with signed addresses that expire."""

import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from tests.fakes import answers
from tests.fakes.answers import Answer
from tests.fakes.origin import Origin
from tests.fakes.registry import FakeRegistry, Redirect
from tests.fakes.wire import Kind, Recorded

SIGNED_QUERY = "X-Amz-Credential=AK%2F2026%2fus&note=a~b%7Ec+d%20e%2B&empty=&flag"
"""Ways of writing that a client loses when it decodes a query and encodes it again."""


@dataclass(slots=True)
class _Signed:
    digest: str
    content: bytes
    expires_at: float
    used: bool = False


class FakeCdn(Origin):
    """Serves what was signed, under exactly the target that was signed.

    Kind is ``cdn`` and reference the digest, so ``bytes_sent(digest)`` works here too.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__(host=host, tls=tls)
        self.clock = clock
        self.lifetime_seconds = 600.0
        self.single_use = False
        self.refuses_authorization = False
        """400 for a request with Authorization, as S3 does with a signed query."""
        self.expired_status = 403
        self.ranges = True
        self.query = SIGNED_QUERY
        self.query_padding_bytes = 0
        """Makes addresses longer; more than 8 KiB is beyond usual limits of a header."""
        self.media_type: str | None = "binary/octet-stream"
        self._signed: dict[str, _Signed] = {}
        self._count = 0

    def sign(self, digest: str, content: bytes) -> str:
        """Return an address, good for ``lifetime_seconds``, that serves *content*."""
        self._count += 1
        expires_at = self.clock() + self.lifetime_seconds
        signature = hashlib.sha256(f"{digest} {self._count}".encode()).hexdigest()
        query = f"{self.query}&{urlencode({'se': int(expires_at), 'sig': signature})}"
        if self.query_padding_bytes:
            query += "&padding=" + "x" * self.query_padding_bytes
        target = f"/blobs/{digest.replace(':', '/')}/data?{query}"
        self._signed[target] = _Signed(digest, content, expires_at)
        return self.url + target

    def expire_urls(self) -> None:
        """Refuse every address that has been signed so far."""
        for signed in self._signed.values():
            signed.expires_at = float("-inf")

    def serve_blobs_of(
        self,
        registry: FakeRegistry,
        *,
        status: int = 307,
        head: bool = True,
        body: bytes = b"",
        media_type: str | None = None,
        digest_header: bool = False,
    ) -> Redirect:
        """Let *registry* redirect its blobs here; HEAD too unless *head* is false."""

        def locate(request: Recorded) -> str | None:
            digest = request.reference or ""
            content = registry.blob(request.repository or "", digest)
            if content is None or (request.method == "HEAD" and not head):
                return None
            return self.sign(digest, content)

        redirect = Redirect(
            locate=locate,
            status=status,
            body=body,
            media_type=media_type,
            digest_header=digest_header,
        )
        registry.redirects[Kind.BLOB] = redirect
        return redirect

    def classify(self, request: Recorded) -> None:
        request.kind = Kind.CDN
        path = request.path.split("/")
        if len(path) == 5 and path[1] == "blobs":
            request.reference = f"{path[2]}:{path[3]}"

    def answer(self, request: Recorded) -> Answer:
        if self.refuses_authorization and request.authorization is not None:
            return _refusal(400, "InvalidArgument", "Only one auth mechanism allowed")
        signed = self._signed.get(request.target)
        if signed is None:
            return _refusal(403, "SignatureDoesNotMatch", "the request was changed")
        if self.clock() >= signed.expires_at or (self.single_use and signed.used):
            return _refusal(self.expired_status, "AccessDenied", "Request has expired")
        signed.used = True
        answer = Answer(body=signed.content, ranges=self.ranges)
        etag = hashlib.md5(signed.digest.encode(), usedforsecurity=False).hexdigest()
        answer.headers = [("ETag", f'"{etag}"'), ("Accept-Ranges", "bytes")]
        if self.media_type is not None:
            answer.headers.append(("Content-Type", self.media_type))
        return answer


def _refusal(status: int, code: str, message: str) -> Answer:
    page = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return answers.text(status, page, "application/xml")
