"""All configured upstreams by name."""

from collections.abc import Mapping

from publicsuffixlist import PublicSuffixList

from mirror.domain.names import ANONYMOUS_SCOPE, Repository
from mirror.observe.metrics import Metrics
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier
from mirror.settings import Upstream
from mirror.upstream.accounts import Accounts
from mirror.upstream.exchange import Exchange
from mirror.upstream.registry import Registry
from mirror.upstream.tokens import Tokens
from mirror.upstream.transport import Transport


class Upstreams:
    """Builds a registry client for each upstream of the configuration."""

    def __init__(
        self, upstreams: Mapping[str, Upstream], pools: Pools, tier: MemoryTier, metrics: Metrics
    ) -> None:
        suffixes = PublicSuffixList()
        self._tokens: list[Tokens] = []
        self._registries: dict[str, Registry] = {}

        def same_site(host: str, other: str) -> bool:
            site: str | None = suffixes.privatesuffix(host)
            return site is not None and site == suffixes.privatesuffix(other)

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
                metrics,
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
