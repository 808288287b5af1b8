"""All configured upstreams by name."""

from collections.abc import Mapping
from functools import cache
from typing import Final

from publicsuffixlist import PublicSuffixList

from mirror.domain.names import ANONYMOUS_SCOPE, Repository
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier
from mirror.settings import Upstream
from mirror.upstream.accounts import Accounts
from mirror.upstream.exchange import Exchange
from mirror.upstream.registry import Registry
from mirror.upstream.tokens import Tokens
from mirror.upstream.transport import Transport

_SHARED: Final = frozenset(
    {"amazonaws.com", "amazonaws.com.cn", "azurecr.io", "jfrog.io", "pkg.dev"}
)
"""Domains in which everybody can have a host, and that the public suffix list does not have."""


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
        self._tokens: list[Tokens] = []
        self._registries: dict[str, Registry] = {}

        _suffixes()  # now, and not while somebody waits for a token
        for name, upstream in upstreams.items():
            metrics.upstream_exists(name)
            transport = Transport(upstream, pools, metrics)
            patience_seconds = upstream.policy.timeouts.response_seconds
            tokens = Tokens(transport, tier, name, same_site, patience_seconds)
            self._tokens.append(tokens)
            self._registries[name] = Registry(
                upstream,
                transport,
                Exchange(transport, tokens, tier, upstream.realms),
                Accounts(upstream, pools.admin),
                metrics=metrics,
                clock=clock,
            )

    def of(self, repository: Repository) -> Registry:
        """Return the registry that a repository belongs to."""
        return self._registries[repository.upstream]

    def scope(self, repository: Repository) -> str:
        """Return with whose credentials a repository's objects are fetched."""
        has_credential = self.of(repository).has_credential(repository)
        return repository.upstream if has_credential else ANONYMOUS_SCOPE

    async def close(self) -> None:
        """Close all connections to all upstreams."""
        for tokens in self._tokens:
            await tokens.close()
        for registry in self._registries.values():
            await registry.close()
