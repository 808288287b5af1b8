"""Who may pull: built from the configuration, and anew when that changes."""

from collections.abc import Callable, Iterator
from functools import partial as bound
from pathlib import Path

from mirror.app.tools import Tools
from mirror.domain.htpasswd import Parsed, parse_htpasswd, parse_tokens
from mirror.domain.routing import Table
from mirror.runtime.fingerprints import Fingerprints
from mirror.service.authentication import (
    Authenticator,
    Passwords,
    Source,
    StaticTokens,
    read_reporting,
)
from mirror.service.passes import Passes
from mirror.service.watched_file import WatchedFile
from mirror.settings import Auth, Settings
from mirror.web.guard import Guard, GuardTerms


class AccessControl:
    """The guard of the registry listener, and whom the admin API knows."""

    def __init__(
        self, settings: Settings, tools: Tools, table: Callable[[], Table], key: bytes | None = None
    ) -> None:
        """Set up.

        Args:
            settings: What is configured.
            tools: What everything is built with.
            table: The names of upstreams, for the scopes of tokens.
            key: Of keyed hashes and tokens; the processes of one mirror share it.
        """
        self._tools = tools
        self._fingerprints = Fingerprints(key)
        self._auth: Auth | None = None
        self.guard = Guard(None, Passes(self._fingerprints, tools.clock, 0), table)
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Go over to a new configuration; tokens that were issued stay good for their time."""
        auth = settings.server.auth
        if auth == self._auth:
            return  # what is remembered stays
        self._auth = auth
        if auth is None:
            self.guard.terms = None
            return
        self.guard.passes.lifetime_seconds = auth.token_ttl_seconds
        self.guard.terms = GuardTerms(
            auth.challenge,
            auth.realm,
            auth.decisive_rules,
            Authenticator(tuple(self._sources(auth))),
        )

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
