"""What the configuration says of a repository."""

from collections.abc import Mapping
from typing import Final

from mirror.domain.errors import DeniedError, NameUnknownError
from mirror.domain.freshness import IMMUTABLE, Lifetime, TagRule, matches, tag_lifetime_seconds
from mirror.domain.names import Repository, Tag
from mirror.settings import Policy, Upstream

_ALLOWED_MAX: Final = 4096


class Policies:
    """The effective policies of all upstreams."""

    def __init__(self, upstreams: Mapping[str, Upstream]) -> None:
        self.reload(upstreams)

    def reload(self, upstreams: Mapping[str, Upstream]) -> None:
        """Go over to the policies of a new configuration."""
        self._policies = {name: upstream.policy for name, upstream in upstreams.items()}
        self._allowed: set[Repository] = set()
        self._rules = {name: _rules(policy) for name, policy in self._policies.items()}
        self.verifying = frozenset(
            name for name, policy in self._policies.items() if policy.access == "verify"
        )

    def of(self, repository: Repository) -> Policy:
        """Return the policy of the repository's upstream.

        Raises:
            NameUnknownError: a reload took that upstream away while something ran for it.
        """
        try:
            return self._policies[repository.upstream]
        except KeyError:
            raise NameUnknownError(
                f"this mirror has no upstream {repository.upstream!r} any more"
            ) from None

    def named(self, upstream: str) -> Policy:
        """Return the policy of an upstream."""
        return self._policies[upstream]

    def waits(self, upstream: str) -> bool:
        """Return whether clients are told to wait when an upstream limits our rate."""
        policy = self._policies.get(upstream)  # one that a reload took away keeps nobody waiting
        return policy is not None and policy.on_rate_limit == "wait"

    def believed_by(self, repository: Repository, tag: Tag) -> str:
        """Return what in the configuration says for how long a tag is believed."""
        name = f"{repository.name}:{tag}"
        for rule in self._rules[repository.upstream]:
            if matches(rule.pattern, name):
                return f"policy.tag_rules {rule.pattern}"
        return "policy.tag_ttl"

    def allows(self, repository: Repository) -> bool:
        """Return whether ``check`` has let a repository pass under this configuration."""
        return repository in self._allowed

    def check(self, repository: Repository) -> None:
        """Raise DeniedError or NameUnknownError unless the repository may be pulled."""
        if repository in self._allowed:
            return
        policy = self.of(repository)
        if policy.mode == "deny":
            raise DeniedError(f"{repository.upstream} is not mirrored here (policy.mode: deny)")
        names = (repository.name, str(repository))
        if _any(policy.deny, names) or not _any(policy.allow, names):
            raise DeniedError(f"{repository} is not mirrored here (policy.allow, policy.deny)")
        if len(self._allowed) >= _ALLOWED_MAX:
            self._allowed.clear()
        self._allowed.add(repository)

    def tag(self, repository: Repository, tag: Tag) -> Lifetime:
        """Return for how long a tag may be used."""
        policy = self.of(repository)
        return Lifetime(
            fresh_seconds=tag_lifetime_seconds(
                self._rules[repository.upstream],
                policy.tag_ttl_seconds,
                repository.name,
                tag.name,
            ),
            stale_if_error_seconds=policy.stale_if_error_seconds,
            refresh_ahead_seconds=policy.refresh_ahead_seconds,
        )

    def is_offline(self, repository: Repository) -> bool:
        """Return whether the repository's upstream is never asked."""
        return self.of(repository).mode == "offline"

    def is_sparing(self, repository: Repository, share: float) -> bool:
        """Return whether a budget with such a share left is kept for other repositories."""
        limit = self.of(repository).rate_limit
        names = (repository.name, str(repository))
        return share < limit.low_water and not _any(limit.reserve, names)

    def useful_seconds(self, repository: Repository, tag: Tag | None) -> float:
        """Return how long an answer of upstream is of any use, for a tag or for the rest.

        What belongs to an upstream that is not configured any more is of none.
        """
        policy = self._policies.get(repository.upstream)
        if policy is None:
            return 0.0
        if policy.mode == "offline":
            return IMMUTABLE
        lifetime = self.listing(repository) if tag is None else self.tag(repository, tag)
        return lifetime.fresh_seconds + lifetime.stale_if_error_seconds

    def listing(self, repository: Repository) -> Lifetime:
        """Return for how long a tags or referrers list may be used."""
        policy = self.of(repository)
        return Lifetime(
            fresh_seconds=policy.tag_ttl_seconds,
            stale_if_error_seconds=policy.stale_if_error_seconds,
        )


def _rules(policy: Policy) -> tuple[TagRule, ...]:
    return tuple(
        TagRule(rule.match, IMMUTABLE if rule.ttl_seconds is None else rule.ttl_seconds)
        for rule in policy.tag_rules
    )


def _any(patterns: tuple[str, ...], names: tuple[str, str]) -> bool:
    return any(matches(pattern, name) for pattern in patterns for name in names)
