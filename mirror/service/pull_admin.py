"""What an operator may ask about pulls: budgets, what the next pull would do, and a new look."""

from collections.abc import Callable

import msgspec

from mirror.domain.budget import Budget
from mirror.domain.decisions import rule
from mirror.domain.freshness import Lifetime
from mirror.domain.images import image_name
from mirror.domain.manifests import Manifest
from mirror.domain.names import Digest, Reference, Repository, Tag
from mirror.domain.routing import Table
from mirror.runtime.clock import Clock
from mirror.service.cache_admin import parsed
from mirror.service.freshening import Case
from mirror.service.manifests import Manifests
from mirror.service.policies import Policies
from mirror.service.refusals import RefusalCode, RefusedError
from mirror.store.store import Store
from mirror.upstream.registry import Rate
from mirror.upstream.upstreams import Upstreams


class AccountRate(msgspec.Struct, frozen=True):
    """How many pulls an account may still make.

    ``limit`` is null for an upstream that has named none, or not yet. ``source`` is who is
    counted, in the upstream's words. ``empty_in_seconds`` is the forecast at the rate of the
    last hour; null: the number does not shrink. For ``pause_seconds`` nothing is asked,
    after a 429.
    """

    upstream: str
    account: str
    limit: int | None = None
    remaining: int | None = None
    window_seconds: int | None = None
    source: str = ""
    observed_at: float | None = None
    empty_in_seconds: float | None = None
    is_low: bool = False
    pause_seconds: float = 0.0


class Explanation(msgspec.Struct, frozen=True):
    """What the next pull of an image would do, and why.

    ``action`` and ``why`` are a row of the table in docs/freshness.md; ``here``, ``age`` and
    ``upstream`` are its columns. ``fresh_seconds`` is how long the tag is believed and
    ``ttl_seconds`` how much of that is left; null: for ever.
    """

    image: str
    action: str
    why: str
    here: str
    age: str
    upstream: str
    digest: str | None
    age_seconds: float | None
    fresh_seconds: float | None
    ttl_seconds: float | None
    believed_by: str
    is_stretched: bool
    is_held: bool
    is_pinned: bool
    trouble: str | None
    rate: AccountRate


class Refreshed(msgspec.Struct, frozen=True):
    """What a tag meant before it was asked for anew, and means now."""

    image: str
    before: str | None
    now: str
    moved: bool


class PullAdmin:
    """Looks at how pulls are answered."""

    def __init__(
        self,
        *,
        store: Store,
        table: Callable[[], Table],
        manifests: Manifests,
        upstreams: Upstreams,
        policies: Policies,
        clock: Clock,
    ) -> None:
        self._store = store
        self._table = table
        self._manifests = manifests
        self._upstreams = upstreams
        self._policies = policies
        self._clock = clock

    def rates(self) -> list[AccountRate]:
        """Return the budgets of all accounts, those that are limited first."""
        rates = [self._rate(rate) for rate in self._upstreams.rates()]
        return sorted(rates, key=lambda each: (each.limit is None, each.upstream, each.account))

    def _rate(self, rate: Rate) -> AccountRate:
        budget, now = rate.budget, self._clock.wall()
        if budget is None:
            return AccountRate(rate.upstream, rate.account, pause_seconds=rate.pause_seconds)
        last = budget.last
        return AccountRate(
            rate.upstream,
            rate.account,
            last.limit,
            last.remaining,
            last.window_seconds,
            last.source,
            last.at,
            budget.empty_in_seconds(now),
            self._is_low(rate.upstream, budget),
            rate.pause_seconds,
        )

    def _is_low(self, upstream: str, budget: Budget) -> bool:
        low_water = self._policies.named(upstream).rate_limit.low_water
        return budget.share(self._clock.wall()) < low_water

    async def explain(self, text: str) -> Explanation:
        """Say what the next pull of an image would do; raises RefusedError, DeniedError."""
        repository, reference = parsed(text, self._table())
        self._policies.check(repository)
        held_at = None
        if isinstance(reference, Tag):
            held_at = self._store.pins.held_at(repository, reference)
        case = await self._manifests.case(repository, held_at or reference)
        return self._explained(repository, reference, held_at, case)

    def _explained(
        self,
        repository: Repository,
        reference: Reference,
        held_at: Digest | None,
        case: Case[Manifest],
    ) -> Explanation:
        situation = case.situation()
        row, lifetime = rule(situation), case.terms.lifetime
        believed_by, is_stretched = self._believed_by(repository, reference, lifetime)
        return Explanation(
            image_name(repository, reference),
            row.action,
            row.why,
            situation.have,
            situation.age,
            situation.upstream,
            str(case.held.value.digest) if case.held else None,
            case.held.age_seconds if case.held else None,
            None if lifetime.is_immutable else lifetime.fresh_seconds,
            case.ttl_seconds,
            "pin" if held_at else believed_by,
            is_stretched,
            held_at is not None,
            self._store.pins.has(repository, reference),
            None if case.terms.trouble is None else str(case.terms.trouble),
            self._rate(self._upstreams.of(repository).rate(repository)),
        )

    def _believed_by(
        self, repository: Repository, reference: Reference, lifetime: Lifetime
    ) -> tuple[str, bool]:
        if isinstance(reference, Digest):
            return "digest", False
        plain = self._policies.tag(repository, reference)
        return self._policies.believed_by(repository, reference), plain != lifetime

    async def refresh(self, text: str) -> Refreshed:
        """Ask upstream what a tag means; raises RefusedError, or what stands in the way."""
        repository, reference = parsed(text, self._table())
        name = image_name(repository, reference)
        if not isinstance(reference, Tag):
            raise RefusedError(
                RefusalCode.INVALID, f"{name} never changes", "only tags can be refreshed"
            )
        if self._store.pins.held_at(repository, reference) is not None:
            raise RefusedError(
                RefusalCode.INVALID,
                f"{name} is held at a digest by a pin",
                f"`mirror cache unpin {name}` lets it follow upstream again",
            )
        row = await self._store.facts.tag(repository, reference)
        before = row.digest if row else None
        now = str((await self._manifests.refresh(repository, reference)).digest)
        return Refreshed(name, before, now, before is not None and before != now)
