"""All configured upstreams by name."""

import asyncio
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Final

from publicsuffixlist import PublicSuffixList

from mirror.domain.names import ANONYMOUS_SCOPE, Repository, callers_scope
from mirror.observe.metrics import Metrics
from mirror.runtime.acting import acting_for
from mirror.runtime.clock import Clock
from mirror.runtime.files import Identity, identity
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier
from mirror.settings import Upstream, UpstreamTls
from mirror.upstream.accounts import Accounts
from mirror.upstream.exchange import Exchange
from mirror.upstream.logins import Logins, LoginTools
from mirror.upstream.registry import Rate, Registry
from mirror.upstream.tokens import Tokens
from mirror.upstream.transport import Transport

_SHARED: Final = frozenset(
    {"amazonaws.com", "amazonaws.com.cn", "azurecr.io", "jfrog.io", "pkg.dev"}
)
"""Domains in which everybody can have a host, and that the public suffix list does not have."""
_RETIRED_SECONDS: Final = 3600.0
"""So long an upstream that has changed lends its connections to downloads that are under way."""


@cache
def _suffixes() -> PublicSuffixList:
    """Return the list, read once: that takes a tenth of a second."""
    return PublicSuffixList()


def same_site(host: str, other: str) -> bool:
    """Tell whether two host names have one owner: one registrable domain (eTLD+1)."""
    site: str | None = _suffixes().privatesuffix(host)
    is_owned = site is not None and site not in _SHARED
    return is_owned and site == _suffixes().privatesuffix(other)


class Upstreams:
    """Builds a registry client for each upstream of the configuration."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        pools: Pools,
        tier: MemoryTier,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._pools = pools
        self._tier = tier
        self._metrics = metrics
        self._clock = clock
        self._login_tools = LoginTools.of(pools, clock)
        self._settings: dict[str, Upstream] = {}
        self._files: dict[str, list[Identity]] = {}
        self._registries: dict[str, Registry] = {}
        self._retired: list[tuple[float, Registry]] = []
        self._closing: set[asyncio.Task[None]] = set()
        _suffixes()  # now, and not while somebody waits for a token
        self.reload(upstreams)

    def reload(self, upstreams: Mapping[str, Upstream]) -> None:
        """Go over to new settings; an upstream whose own are as they were stays as it is.

        Its own are the files of ``tls``, too. One that has changed or gone lends its connections
        to what is under way.

        Raises:
            CertificateError: files of one cannot be used; nothing has changed.
        """
        files = {
            name: [identity(file) for file in _files(upstream.tls)]
            for name, upstream in upstreams.items()
        }
        built = {
            name: self._built(upstream)
            for name, upstream in upstreams.items()
            if self._settings.get(name) != upstream or self._files.get(name) != files[name]
        }
        now = self._clock.monotonic()
        gone = (self._registries[name] for name in built if name in self._registries)
        self._retired += ((now, registry) for registry in gone)
        self._let_go(now)
        self._registries |= built
        self._settings, self._files = dict(upstreams), files

    def _let_go(self, now: float) -> None:
        """Close what has been retired for long: certificates may be renewed every few minutes."""
        for at, registry in tuple(self._retired):
            if now - at > _RETIRED_SECONDS:
                self._retired.remove((at, registry))
                task = asyncio.create_task(registry.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    def files(self) -> list[Path]:
        """Return the files of certificates; with another content they are other settings."""
        return [file for one in self._settings.values() for file in _files(one.tls)]

    def _built(self, upstream: Upstream) -> Registry:
        name = upstream.name
        self._metrics.upstream_exists(name, (each.name for each in upstream.credentials))
        transport = Transport(upstream, self._pools, self._metrics)
        patience_seconds = upstream.policy.timeouts.response_seconds
        tokens = Tokens(transport, self._tier, name, same_site, patience_seconds)
        accounts = Accounts(upstream, Logins(upstream, self._login_tools))
        return Registry(
            upstream,
            transport,
            Exchange(transport, tokens, self._tier, accounts, upstream.realms),
            accounts,
            metrics=self._metrics,
            clock=self._clock,
        )

    def of(self, repository: Repository) -> Registry:
        """Return the registry that a repository belongs to."""
        return self._registries[repository.upstream]

    def scope(self, repository: Repository) -> str:
        """Return with whose credentials a repository's objects are fetched."""
        caller = acting_for(repository.upstream)
        if caller is not None and caller.password is not None:
            return callers_scope(repository.upstream)
        has_credential = self.of(repository).has_credential(repository)
        return repository.upstream if has_credential else ANONYMOUS_SCOPE

    @property
    def registries(self) -> dict[str, Registry]:
        """All that are configured now, by name."""
        return {name: self._registries[name] for name in self._settings}

    def rates(self) -> Iterator[Rate]:
        """Return what is known of the budgets of all accounts."""
        return chain.from_iterable(self._registries[name].rates() for name in self._settings)

    async def close(self) -> None:
        """Close all connections to all upstreams."""
        for registry in (*(each for _, each in self._retired), *self._registries.values()):
            await registry.close()
        await asyncio.gather(*self._closing)
        await self._login_tools.calls.close()


def _files(tls: UpstreamTls) -> list[Path]:
    return [file for file in (tls.ca, tls.certificate, tls.key) if file is not None]
