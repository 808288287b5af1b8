"""Checks of one upstream, along the way of a pull: addresses, certificate, answer, account."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Final

from mirror.cli.doctor.finding import Check, Verdict, doubtful, fine, left_out, wrong
from mirror.cli.tables import human_span
from mirror.domain.budget import Reading
from mirror.domain.challenge import Origin
from mirror.domain.errors import CredentialRefusedError, MirrorError, RateLimitedError
from mirror.observe.logs import redact_text
from mirror.settings import Upstream
from mirror.upstream.accounts import Account
from mirror.upstream.checkup import Checkup, Greeting, proxy_of
from mirror.upstream.tokens import AccessRefusedError

TLS_SECONDS: Final = 3.0
_EXPIRES_SOON_DAYS: Final = 14
_LOW_SHARE: Final = 0.1
_HUB: Final = "docker.io"
_HUB_IMAGE: Final = ("ratelimitpreview/test", "latest")
"""What Docker names for asking how many pulls are left."""
_SHOWN_ADDRESSES: Final = 2


@dataclass(slots=True)
class UpstreamChecks:
    """The checks of one upstream; ``ahead`` collects what clocks say, by upstream."""

    upstream: Upstream
    checkup: Checkup
    ahead: dict[str, float]
    greetings: dict[str, Greeting] = field(default_factory=dict)

    def checks(self) -> Iterator[Check]:
        """Yield what there is to look at, in the order of a pull."""
        if self.upstream.policy.mode != "online":
            yield Check(group=self._group, name="answer", examine=self._not_asked)
            return
        for endpoint in self.upstream.endpoints:
            yield from self._of_endpoint(endpoint)
        first = self._key("answer", self.upstream.endpoints[0])
        for name, examine in (("account", self.account), ("pull limit", self.pull_limit)):
            if name == "account" or self.upstream.name == _HUB:
                yield Check(group=self._group, name=name, examine=examine, needs=(first,))

    def _of_endpoint(self, endpoint: str) -> Iterator[Check]:
        steps = [("dns", self.dns), ("tls", self.tls), ("answer", self.answer)]
        needs: tuple[str, ...] = ()
        for what, look in steps:
            if what == "tls" and not endpoint.startswith("https:"):
                continue
            name, examine = self._name(what, endpoint), partial(look, endpoint)
            yield Check(group=self._group, name=name, examine=examine, needs=needs)
            if what != "dns" or proxy_of(self.upstream, endpoint) is None:
                needs = (self._key(what, endpoint),)

    @property
    def _group(self) -> str:
        return f"upstream {self.upstream.name}"

    def _name(self, what: str, endpoint: str) -> str:
        is_only = len(self.upstream.endpoints) == 1
        return what if is_only else f"{what} {endpoint.partition('://')[2]}"

    def _key(self, what: str, endpoint: str) -> str:
        return f"{self._group}/{self._name(what, endpoint)}"

    async def _not_asked(self) -> Verdict:
        return left_out(f"policy.mode is {self.upstream.policy.mode}: it is never asked")

    async def dns(self, endpoint: str) -> Verdict:
        """Tell whether the host has an address."""
        origin, proxy = Origin.of(endpoint), proxy_of(self.upstream, endpoint)
        if proxy is not None:
            return left_out("left to the proxy")
        if origin is None:
            return left_out("the endpoint has no host")
        try:
            found = await self.checkup.addresses(origin)
        except OSError as error:
            return wrong(
                f"{origin.host} has no address: {error.strerror or error}",
                "look at /etc/resolv.conf and at the network; behind a proxy set HTTPS_PROXY",
            )
        if found == [origin.host]:
            return fine("an address itself")
        more = len(found) - _SHOWN_ADDRESSES
        shown = ", ".join(found[:_SHOWN_ADDRESSES]) + (f" and {more} more" if more > 0 else "")
        return fine(f"{origin.host} is {shown}")

    async def tls(self, endpoint: str) -> Verdict:
        """Tell whether the certificate is accepted, and for how long it will be."""
        setting = f"upstreams.{self.upstream.name}.tls"
        try:
            shown = await self.checkup.certificate(endpoint, TLS_SECONDS)
        except MirrorError as error:
            return wrong(str(error), f"{_TLS_REMEDY} {setting}.ca")
        if shown.expires_at is None:
            return doubtful(
                f"{setting}.insecure: whatever certificate comes is accepted",
                f"name the authority in {setting}.ca instead",
            )
        days = (shown.expires_at - datetime.now(UTC)).days
        said = f"by {shown.issuer}, until {shown.expires_at:%Y-%m-%d}"
        if days < _EXPIRES_SOON_DAYS:
            return doubtful(
                f"{said}: {days} days left", "tell who runs it, if the mirror's time is right"
            )
        return fine(said)

    async def answer(self, endpoint: str) -> Verdict:
        """Tell what the front door says."""
        try:
            greeting = await self.checkup.greet(endpoint)
        except MirrorError as error:
            return wrong(str(error), _reach_remedy(self.upstream, endpoint))
        self.greetings[endpoint] = greeting
        if greeting.ahead_seconds is not None:
            self.ahead.setdefault(self.upstream.name, greeting.ahead_seconds)
        said = f"{endpoint}/v2/ says {greeting.status} in {greeting.seconds * 1000:.0f} ms"
        if greeting.status == 429:
            return doubtful(said, "it limits requests: wait, or use an account")
        if greeting.status >= 500:
            return wrong(said, "it is in trouble itself: the mirror serves what it has meanwhile")
        if greeting.is_registry or greeting.status in {401, 403}:
            return fine(said)
        return wrong(
            said,
            f"is this a registry? upstreams.{self.upstream.name}.endpoints has the URL before /v2/",
        )

    async def account(self) -> Verdict:
        """Tell whether we are let in, with each of our accounts."""
        endpoint = self.upstream.endpoints[0]
        verdicts = [await self._signed_in(endpoint, each) for each in await self.checkup.everyone()]
        worst = max(verdicts, key=lambda each: _GRAVITY.index(each.state))
        return Verdict(worst.state, "; ".join(each.found for each in verdicts), worst.remedy)

    async def _signed_in(self, endpoint: str, account: Account | CredentialRefusedError) -> Verdict:
        credentials = f"upstreams.{self.upstream.name}.credentials"
        if isinstance(account, CredentialRefusedError):
            return wrong(str(account), f"look at the file that {credentials} names")
        try:
            how = await self.checkup.sign_in(endpoint, self.greetings[endpoint], account)
        except AccessRefusedError:
            return doubtful(
                "the anonymous gets nothing here", f"set {credentials}, unless nobody needs it"
            )
        except CredentialRefusedError as error:
            return wrong(
                f"{account.name}: refused ({error})",
                f"{credentials}: has the password expired, or been changed?",
            )
        except MirrorError as error:
            return wrong(f"{account.name}: {error}", "see what the message names")
        return fine(f"{account.name}: {how}")

    async def pull_limit(self) -> Verdict:
        """Tell how many pulls Docker Hub has left for us; costs none of them."""
        try:
            reading, account = await self.checkup.reading(*_HUB_IMAGE)
        except RateLimitedError as error:
            return wrong(str(error), _LIMIT_REMEDY)
        except MirrorError as error:
            return left_out(f"it does not tell: {error}")
        if reading is None:
            return fine(f"{account}: no limit")
        return _limit(reading, account)


def unusable_files(why: str) -> Verdict:
    """Tell that an upstream cannot be asked at all."""
    return wrong(why, "look at the files that it names: they are read as PEM")


def _limit(reading: Reading, account: str) -> Verdict:
    window = human_span(reading.window_seconds)
    said = f"{account}: {reading.remaining} of {reading.limit} left in {window}"
    if reading.remaining <= 0:
        return wrong(said, _LIMIT_REMEDY)
    if reading.remaining < reading.limit * _LOW_SHARE:
        return doubtful(said, _LIMIT_REMEDY)
    return fine(said)


def proxies(upstreams: Mapping[str, Upstream]) -> Verdict:
    """Tell which proxies are on the way, without what they are given to let us through."""
    used: dict[str, list[str]] = {}
    for name, upstream in upstreams.items():
        for endpoint in upstream.endpoints:
            proxy = proxy_of(upstream, endpoint)
            if proxy is not None and name not in used.setdefault(proxy, []):
                used[proxy].append(name)
    if not used:
        return fine("none")
    said = [f"{redact_text(proxy)} for {', '.join(names)}" for proxy, names in used.items()]
    return fine("; ".join(said))


def _reach_remedy(upstream: Upstream, endpoint: str) -> str:
    proxy = proxy_of(upstream, endpoint)
    way = "the proxy" if proxy else "the firewall, or set HTTPS_PROXY if there is a proxy"
    return (
        f"look at {way}; if nobody needs this registry, take it out of the configuration "
        f"(`upstreams: {{{upstream.name}: null}}` if it is a built-in one)"
    )


_GRAVITY: Final = ("skipped", "ok", "warning", "failed")
_TLS_REMEDY: Final = (
    "an expired one is for who runs the registry to renew; if a proxy or a private authority "
    "signs it, put the authority's certificate (PEM) into"
)
_LIMIT_REMEDY: Final = (
    "set upstreams.docker.io.credentials: an account has a limit of its own; what is cached is "
    "served all the same"
)
