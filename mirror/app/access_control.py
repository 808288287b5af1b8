"""Who may pull: built from the configuration, and anew when that changes."""

from collections.abc import Callable, Iterator
from functools import partial as bound
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from mirror.app.tools import Tools
from mirror.domain.access import wanted_claims
from mirror.domain.claims import ClaimRules
from mirror.domain.htpasswd import Parsed, parse_htpasswd, parse_tokens
from mirror.runtime.fingerprints import Fingerprints
from mirror.service.account_tokens import KubernetesTokens
from mirror.service.authentication import (
    Authenticator,
    Passwords,
    Source,
    StaticTokens,
    read_reporting,
)
from mirror.service.passes import Passes
from mirror.service.ports import Verifier
from mirror.service.watched_file import WatchedFile
from mirror.settings import Auth, KubernetesAuth, Oidc, Server, UpstreamTls
from mirror.upstream.clouds.calls import Calls
from mirror.upstream.identity import KubernetesApi, review, signing_keys
from mirror.web.guard import Guard, GuardTerms

if TYPE_CHECKING:
    from mirror.service.identity_tokens import OidcTokens

_MOUNTED: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""What Kubernetes mounts into every Pod."""


class Configured(Protocol):
    """What knows who may pull: all settings, or those that a worker has."""

    @property
    def server(self) -> Server:
        """The section of the listeners."""
        ...


class AccessControl:
    """The guard of the registry listener, and whom the admin API knows."""

    def __init__(
        self,
        settings: Configured,
        tools: Tools,
        verifier: Verifier,
        fingerprints: Fingerprints,
    ) -> None:
        """Set up.

        Args:
            settings: What is configured.
            tools: What everything is built with.
            verifier: Knows the registries that check callers themselves.
            fingerprints: Of credentials and tokens, by a key that all processes of a mirror share.
        """
        self._tools = tools
        self._fingerprints = fingerprints
        self._auth: Auth | None = None
        self._calls = Calls(tools.pools.dns)
        self._asking: list[OidcTokens | KubernetesTokens] = []
        passes = Passes(self._fingerprints, tools.clock, 0)
        self.guard = Guard(GuardTerms(), passes, verifier)
        self.reload(settings)

    def reload(self, settings: Configured) -> None:
        """Go over to a new configuration; tokens that were issued stay good for their time."""
        auth = settings.server.auth
        if auth == self._auth:
            return  # what is remembered stays
        self._auth = auth
        # Those that went are closed at the end only if somebody still waits for their answer.
        self._asking = [source for source in self._asking if source.is_asking]
        self.guard.terms = GuardTerms() if auth is None else self._terms(auth)
        self.guard.passes.lifetime_seconds = (auth or Auth()).token_ttl_seconds

    async def close(self) -> None:
        """Stop asking identity providers."""
        for source in self._asking:
            await source.close()
        await self._calls.close()

    def _terms(self, auth: Auth) -> GuardTerms:
        if not auth.takes_credentials and not auth.rules:
            return GuardTerms(auth.challenge, auth.realm)
        sources = Authenticator(tuple(self._sources(auth)))
        return GuardTerms(auth.challenge, auth.realm, auth.decisive_rules, sources, is_open=False)

    def _sources(self, auth: Auth) -> Iterator[Source]:
        pools, tier = self._tools.pools, self._tools.tier
        if auth.htpasswd is not None:
            file = self._watched(auth.htpasswd.file, parse_htpasswd)
            yield Passwords(file, pools.passwords, tier, self._fingerprints)
        if auth.tokens is not None:
            yield StaticTokens(self._watched(auth.tokens.file, parse_tokens), self._fingerprints)
        claims = wanted_claims(auth.decisive_rules)
        asking = [self._oidc(each, claims) for each in auth.oidc]
        self._asking += asking
        yield from asking
        if auth.kubernetes is not None:
            reviewing = self._kubernetes(auth.kubernetes)
            self._asking.append(reviewing)
            yield reviewing

    def _watched(self, path: Path, parse: Callable[[str], Parsed]) -> WatchedFile[Parsed]:
        read = bound(read_reporting, path, parse)
        return WatchedFile(path, read, Parsed(), self._tools.pools.users, self._tools.clock)

    def _oidc(self, oidc: Oidc, claims: frozenset[str]) -> "OidcTokens":
        rules = ClaimRules(
            issuer=oidc.issuer,
            audience=oidc.audience,
            required=oidc.claims,
            username_claim=oidc.username_claim,
            groups_claim=oidc.groups_claim,
            prefix=oidc.prefix,
            wanted=claims,
        )
        from mirror.service.identity_tokens import KeyRing, OidcTokens  # noqa: PLC0415 -- large

        fetch = bound(signing_keys, self._calls, oidc.issuer, UpstreamTls(ca=oidc.ca))
        clock = self._tools.clock
        return OidcTokens(rules, KeyRing(oidc.issuer, fetch, clock), clock)

    def _kubernetes(self, kubernetes: KubernetesAuth) -> KubernetesTokens:
        ca = kubernetes.ca or (_MOUNTED / "ca.crt" if (_MOUNTED / "ca.crt").exists() else None)
        api = KubernetesApi(
            kubernetes.url.rstrip("/"),
            kubernetes.token_file or _MOUNTED / "token",
            UpstreamTls(ca=ca),
            self._tools.pools.users,
        )
        ask = bound(review, self._calls, api, audience=kubernetes.audience)
        return KubernetesTokens(ask, self._tools.tier, self._fingerprints)
