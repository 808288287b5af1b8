"""One HTTP request to an upstream: session, TLS, proxy, time limits, what is counted.

aiohttp's client and its errors are known to this file and ``exchange.py`` only.
"""

import ssl
import time
from collections.abc import Mapping
from functools import cache
from typing import Final
from urllib.request import (  # type: ignore[attr-defined] # public, but not in the stubs
    getproxies_environment,
    proxy_bypass_environment,
)

import aiohttp
from yarl import URL

import mirror
from mirror.domain.challenge import Origin
from mirror.domain.errors import (
    PrivateTargetError,
    UpstreamTimeoutError,
    UpstreamTroubleError,
)
from mirror.domain.networks import Reach, judged
from mirror.domain.redirects import redact
from mirror.domain.routing import Kind
from mirror.observe import tracing
from mirror.observe.metrics import Metrics
from mirror.runtime import via
from mirror.runtime.certificates import CertificateError, said
from mirror.runtime.pools import Pools
from mirror.settings import Upstream, UpstreamTls
from mirror.upstream.dns import GuardedResolver, PrivateAddressError

USER_AGENT: Final = f"mirror/{mirror.__version__}"
"""Never empty: Cloudflare, in front of Docker Hub, answers 403 to that (Harbor#23025)."""

_FIELD_MAX_BYTES: Final = 32 * 1024
_SMALL_BYTES: Final = 64 * 1024


class Transport:
    """The connections to one upstream and to wherever its redirects lead."""

    def __init__(self, upstream: Upstream, pools: Pools, metrics: Metrics) -> None:
        """Set up; raises CertificateError where the files of ``tls`` cannot be used."""
        self._upstream = upstream
        self._metrics = metrics
        self._pools = pools
        self._session: aiohttp.ClientSession | None = None
        self._reach = Reach.of(upstream.endpoints, upstream.realms, upstream.redirects)
        self._home = {Origin.of(url) for url in upstream.endpoints}
        self._proxies = proxies_of_environment()
        # The way to a proxy is looked up as well. One with a user is no origin, so without him.
        ways = map(_without_user, filter(None, (upstream.proxy, *self._proxies.values())))
        self._to_proxies = Reach.of(ways)
        try:
            self._home_tls = tls_context(upstream.tls, at_home=True)
            self._foreign_tls = tls_context(upstream.tls, at_home=False)
        except OSError as error:
            raise CertificateError(f"upstreams.{upstream.name}.tls: {said(error)}") from None

    async def send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        kind: Kind,
        read_ahead_bytes: int = _SMALL_BYTES,
        *,
        body: bytes | None = None,
        named_by: str = "redirects",
    ) -> aiohttp.ClientResponse:
        """Send one request and return the head of its answer, whatever its status.

        *named_by* is the key of the upstream under which an operator names a private host for it.

        Raises:
            PrivateTargetError: *url* leads where nobody but us gets, and is not named.
            UpstreamTimeoutError: no answer within the connect or idle time.
            UpstreamTroubleError: no connection, or an answer that is not HTTP.
        """
        at_home = Origin.of(url) in self._home
        own = {
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            "Via": via.outgoing(),
        }
        proxy = self._upstream.proxy or proxy_of_environment(url, self._proxies)
        if not self._may_ask(url, is_proxied=proxy is not None):
            raise self._private(url, named_by)
        started, span = time.monotonic(), self._span(method, url, kind)
        try:
            with span.current():
                response = await self._open().request(
                    method,
                    URL(url, encoded=True),
                    headers={**own, **self._trace_headers(at_home=at_home), **headers},
                    data=body,
                    allow_redirects=False,
                    read_bufsize=read_ahead_bytes,
                    proxy=proxy,
                    ssl=self._home_tls if at_home else self._foreign_tls,
                )
        except BaseException as error:
            is_refused = isinstance(error, PrivateAddressError)  # by us: nobody was asked
            if not is_refused:
                self._count(kind, method, 0, started)
            span.fail(type(error).__name__)
            span.end()
            if is_refused:
                raise self._private(url, named_by) from None
            if isinstance(error, (aiohttp.ClientError, OSError, ValueError)):
                raise translated(error, url) from None
            raise
        self._count(kind, method, response.status, started)
        _end(span, response.status)
        return response

    def _trace_headers(self, *, at_home: bool) -> dict[str, str]:
        """Return what tells our own endpoints of the trace; never to where they redirect."""
        return tracing.headers() if at_home and self._upstream.trace_context else {}

    def _span(self, method: str, url: str, kind: Kind) -> tracing.Span:
        span = tracing.begin(f"{method} {kind}", tracing.Kind.CLIENT)
        if tracing.is_on():
            span.set(self._facts(method, url, kind))
        return span

    def _facts(self, method: str, url: str, kind: Kind) -> dict[str, tracing.Fact | None]:
        origin = Origin.of(url)
        return {
            "http.request.method": method,
            "url.full": redact(url),
            "server.address": None if origin is None else origin.host,
            "server.port": None if origin is None else origin.port,
            "mirror.upstream": self._upstream.name,
            "mirror.kind": kind.value,
        }

    def received(self, size_bytes: int) -> None:
        """Count bytes of a body."""
        self._metrics.upstream_bytes.labels(self._upstream.name).inc(size_bytes)

    @property
    def idle_seconds(self) -> float:
        """How long a body may bring no byte."""
        return self._upstream.policy.timeouts.idle_seconds

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        # Made at the first request: the process starts without any network.
        if self._session is None:
            timeouts = self._upstream.policy.timeouts
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,  # fills and single flight bound what is open
                    resolver=GuardedResolver(self._pools.dns, self._reach, self._is_named),
                    ttl_dns_cache=30,
                ),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                max_field_size=_FIELD_MAX_BYTES,
                max_line_size=_FIELD_MAX_BYTES,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=timeouts.connect_seconds,
                    sock_connect=timeouts.connect_seconds,
                    sock_read=timeouts.idle_seconds,
                ),
            )
        return self._session

    def _may_ask(self, url: str, *, is_proxied: bool) -> bool:
        """Judge what no look-up of ours will: a bare address, and what a proxy looks up."""
        origin = Origin.of(url)
        if origin is None or self._reach.names(origin.host, origin.port):
            return True
        if is_proxied:
            return self._reach.allows_unseen(origin.host)
        return judged(origin.host) is None or self._reach.allows(origin.host)

    def _is_named(self, host: str, port: int) -> bool:
        return self._reach.names(host, port) or self._to_proxies.names(host, port)

    def _private(self, url: str, named_by: str) -> PrivateTargetError:
        origin = Origin.of(url)
        name = "" if origin is None else origin.written_host
        return PrivateTargetError(
            f"{redact(url)} is in a private network, where an upstream may not send the mirror; "
            f"if it is right, add {name} to upstreams.{self._upstream.name}.{named_by}"
        )

    def _count(self, kind: Kind, method: str, status: int, started: float) -> None:
        name = self._upstream.name
        self._metrics.upstream_requests.labels(name, kind, method, str(status)).inc()
        if status:
            elapsed_seconds = time.monotonic() - started
            self._metrics.upstream_seconds.labels(name, kind).observe(elapsed_seconds)
        self._metrics.upstream_up.labels(name).set(int(0 < status < 500))


def _end(span: tracing.Span, status: int) -> None:
    span.set({"http.response.status_code": status})
    if status >= 400:
        span.fail(f"status {status}")
    span.end()


def proxies_of_environment() -> dict[str, str]:
    """Return what ``HTTP(S)_PROXY`` and ``NO_PROXY`` say, by scheme and ``no``.

    A proxy without a scheme (``proxy:3128``) is an http one, as curl and Go take it.
    """
    named = getproxies_environment()
    bare = {key: named[key] for key in ("http", "https") if "://" not in named.get(key, "://")}
    return named | {key: f"http://{proxy}" for key, proxy in bare.items()}


def _without_user(proxy: str) -> str:
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def proxy_of_environment(url: str, proxies: Mapping[str, str] | None = None) -> str | None:
    """Return the proxy that ``HTTP(S)_PROXY`` and ``NO_PROXY`` name for *url*.

    *proxies* is what they say, where it has been read already: that costs as much as a request.

    Not by aiohttp's ``trust_env``: that also sends what ``~/.netrc`` has for the host, which
    nobody has configured here, and reads it in the default executor.
    """
    named = proxies_of_environment() if proxies is None else proxies
    origin = Origin.of(url) if named else None
    if origin is None or proxy_bypass_environment(f"{origin.host}:{origin.port}", named):
        return None
    return named.get(origin.scheme)


def translated(error: BaseException, url: str) -> UpstreamTroubleError:
    """Return what a failure of aiohttp means, with nothing secret in it.

    The ``repr`` of some aiohttp errors holds the request's headers, Authorization among
    them; so only the class and the operating system's words are taken over.
    """
    place = redact(url)
    if isinstance(error, TimeoutError):
        return UpstreamTimeoutError(place)
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", error)
    words = cause.strerror if isinstance(cause, OSError) else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        words = f"certificate not accepted, {cause.verify_message}"
    return UpstreamTroubleError(f"{place}: {words or type(error).__name__}")


@cache
def _system_tls() -> ssl.SSLContext:
    """Return the rules of the system, read from the disk once for all upstreams."""
    return ssl.create_default_context()


def tls_context(tls: UpstreamTls, *, at_home: bool) -> ssl.SSLContext:
    """Return the TLS rules for the endpoints themselves or for where they redirect to.

    The client certificate and the leave to skip verification are for the former only.
    """
    if tls == UpstreamTls():
        return _system_tls()
    context = ssl.create_default_context()
    if tls.ca is not None:
        context.load_verify_locations(tls.ca)
    if at_home and tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    if at_home and tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
