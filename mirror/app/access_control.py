"""Who may pull: built from the configuration, and anew when that changes."""

from collections.abc import Callable, Iterator
from functools import partial as bound
from pathlib import Path

from mirror.app.tools import Tools
from mirror.domain.htpasswd import Parsed, parse_htpasswd, parse_tokens
from mirror.runtime.fingerprints import Fingerprints
from mirror.service.authentication import (
    Authenticator,
    Passwords,
    Source,
    StaticTokens,
    read_reporting,
)
from mirror.service.passes import Passes
from mirror.service.policies import Policies
from mirror.service.verification import Verification
from mirror.service.watched_file import WatchedFile
from mirror.settings import Auth, Settings
from mirror.upstream.upstreams import Upstreams
from mirror.web.guard import Guard, GuardTerms


class AccessControl:
    """The guard of the registry listener, and whom the admin API knows."""

    def __init__(
        self,
        settings: Settings,
        tools: Tools,
        upstreams: Upstreams,
        policies: Policies,
        key: bytes | None = None,
    ) -> None:
        """Set up.

        Args:
            settings: What is configured.
            tools: What everything is built with.
            upstreams: The registries that check callers themselves.
            policies: Which of them do.
            key: Of keyed hashes and tokens; the processes of one mirror share it.
        """
        self._tools = tools
        self._fingerprints = Fingerprints(key)
        self._auth: Auth | None = None
        self.verification = Verification(
            upstreams, policies, tools.tier, self._fingerprints, tools.clock
        )
        passes = Passes(self._fingerprints, tools.clock, 0)
        self.guard = Guard(GuardTerms(), passes, self.verification)
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Go over to a new configuration; tokens that were issued stay good for their time."""
        auth = settings.server.auth
        if auth == self._auth:
            return  # what is remembered stays
        self._auth = auth
        self.guard.terms = GuardTerms() if auth is None else self._terms(auth)
        self.guard.passes.lifetime_seconds = (auth or Auth()).token_ttl_seconds

    async def close(self) -> None:
        """Stop asking registries."""
        await self.verification.close()

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

    def _watched(self, path: Path, parse: Callable[[str], Parsed]) -> WatchedFile[Parsed]:
        read = bound(read_reporting, path, parse)
        return WatchedFile(path, read, Parsed(), self._tools.pools.admin, self._tools.clock)
