"""``policy.access: verify``: a caller's own credential is checked by the registry itself.

A stranger is asked for first: what is public stays anonymous. For the rest the caller's
credential must be good for a HEAD of what it wants, or for a list of tags; that holds for the
repository and for ``policy.verify_ttl``, and is remembered by a keyed hash of the credential.
Bytes that came this way are kept in a scope of their own, so they are visible only to requests
that have passed here, through links that their own repository has (invariant 12).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from mirror.domain.credentials import Basic
from mirror.domain.errors import (
    CredentialNeededError,
    DeniedError,
    NotFoundError,
    OverloadedError,
    TroubleError,
    UpstreamTroubleError,
)
from mirror.domain.names import Digest, Reference, Repository
from mirror.domain.routing import Kind
from mirror.runtime.acting import Caller, act_as
from mirror.runtime.clock import Clock
from mirror.runtime.fingerprints import Fingerprints
from mirror.runtime.recent import MemoryTier, Recent
from mirror.runtime.single_flight import SingleFlight
from mirror.service.policies import Policies
from mirror.upstream.upstreams import Upstreams

_ENTRY_BYTES: Final = 800
_CHECKS_MAX: Final = 64
"""So many credentials are checked at a time: whoever tries out passwords does it slowly."""


class Openness(Enum):
    """What a stranger finds."""

    PUBLIC = auto()
    PRIVATE = auto()
    HIDDEN = auto()
    """Not found: there is no such thing, or the registry says so to strangers, as Hub does."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a stranger found in a repository, and when."""

    openness: Openness
    at: float


@dataclass(frozen=True, slots=True)
class _Known:
    """Whether a credential was good for a repository when it was last checked."""

    is_good: bool
    at: float
    generation: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request is for."""

    repository: Repository
    kind: Kind
    reference: Reference | None


class Verification:
    """Checks callers, each credential and repository once in a while."""

    def __init__(
        self,
        upstreams: Upstreams,
        policies: Policies,
        tier: MemoryTier,
        fingerprints: Fingerprints,
        clock: Clock,
    ) -> None:
        self._upstreams = upstreams
        self._policies = policies
        self._fingerprints = fingerprints
        self._clock = clock
        self._seen: Recent[_Seen] = Recent(tier, "openness", lambda _: _ENTRY_BYTES)
        self._known: Recent[_Known] = Recent(tier, "verified", lambda _: _ENTRY_BYTES)
        self._absent: Recent[NotFoundError] = Recent(tier, "absent", lambda _: _ENTRY_BYTES)
        self._strangers: SingleFlight[Wanted, Openness] = SingleFlight()
        self._callers: SingleFlight[tuple[bytes, Wanted], _Known] = SingleFlight()
        self._generation = 0

    @property
    def upstreams(self) -> frozenset[str]:
        """The upstreams that check callers themselves."""
        return self._policies.verifying

    async def admit(
        self, repository: Repository, kind: Kind, reference: Reference | None, shown: Basic | None
    ) -> Caller | None:
        """Return as whom upstream is asked for a request; ``None``: what it wants is public.

        Raises:
            CredentialNeededError: it is not public, and no credential was shown.
            DeniedError: upstream refuses the one that was shown.
            MirrorError: upstream's own word, or trouble while the configuration wants to know.
        """
        wanted = Wanted(repository, kind, reference)
        seen = await self._recently_seen(repository)
        if seen is Openness.PUBLIC:
            return None
        try:
            if shown is not None:
                return await self._of_caller(wanted, shown, seen)
            if seen is not Openness.PRIVATE and await self._openness(wanted) is Openness.PUBLIC:
                return None
        except TroubleError as error:
            return await self._last_known(repository, shown, error)
        raise CredentialNeededError(str(repository))

    async def close(self) -> None:
        """Stop asking upstreams."""
        await self._strangers.close()
        await self._callers.close()

    # --- what a stranger finds ---------------------------------------------------------------

    async def _recently_seen(self, repository: Repository) -> Openness | None:
        seen = self._seen.peek(repository)
        limit_seconds = self._policies.of(repository).verify_ttl_seconds
        return seen.openness if seen and self._is_young(seen.at, limit_seconds) else None

    async def _openness(self, wanted: Wanted) -> Openness:
        """Ask as a stranger; what is not found says nothing of the rest of the repository."""

        async def ask() -> Openness:
            act_as(self._next(Caller(wanted.repository.upstream)))
            openness = Openness.PUBLIC
            try:
                await self._look(wanted)
            except DeniedError:
                openness = Openness.PRIVATE
            except NotFoundError:
                openness = Openness.HIDDEN
            await self._seen.put(wanted.repository, _Seen(openness, self._clock.monotonic()))
            return openness

        async with self._in_time(wanted.repository):
            return await self._strangers.do(wanted, ask)

    # --- what a caller finds -----------------------------------------------------------------

    async def _of_caller(
        self, wanted: Wanted, shown: Basic, seen: Openness | None
    ) -> Caller | None:
        mark = self._fingerprints.of(shown.username, shown.password)
        known = self._known.peek((mark, wanted.repository))
        if known is None or not self._counts(known, wanted.repository):
            if seen is None and await self._openness(wanted) is Openness.PUBLIC:
                return None
            known = await self._checked(wanted, shown, mark)
        return _as_caller(wanted.repository, shown, mark, known)

    def _counts(self, known: _Known, repository: Repository) -> bool:
        policy = self._policies.of(repository)
        return self._is_young(
            known.at, policy.verify_ttl_seconds if known.is_good else policy.negative_ttl_seconds
        )

    async def _checked(self, wanted: Wanted, shown: Basic, mark: bytes) -> _Known:
        """Ask with a caller's credential, and remember the answer for the repository.

        That something is not found is no proof: registries say so to hide things, too.
        """
        key = mark, wanted
        absent = self._absent.peek(key)
        if absent is not None:
            raise absent.with_traceback(None)

        async def ask() -> _Known:
            caller = self._next(_caller(wanted.repository, shown, mark))
            act_as(caller)
            is_good = True
            try:
                await self._look(wanted)
            except DeniedError:
                is_good = False
            known = _Known(is_good, self._clock.monotonic(), caller.generation)
            await self._known.put((mark, wanted.repository), known)
            return known

        if len(self._callers) >= _CHECKS_MAX and not self._callers.is_running(key):
            raise OverloadedError("too many credentials are being checked")
        try:
            async with self._in_time(wanted.repository):
                return await self._callers.do(key, ask)
        except NotFoundError as error:
            ttl_seconds = self._policies.of(wanted.repository).negative_ttl_seconds
            await self._absent.put(key, error, ttl_seconds=ttl_seconds)
            raise

    def _next(self, caller: Caller) -> Caller:
        self._generation += 1
        return replace(caller, generation=self._generation)

    # --- asking ------------------------------------------------------------------------------

    async def _look(self, wanted: Wanted) -> None:
        """Ask for what is wanted, as cheaply as upstream allows; raises what it says."""
        repository, reference = wanted.repository, wanted.reference
        registry = self._upstreams.of(repository)
        async with registry.deadline():
            if wanted.kind is Kind.MANIFEST and reference is not None:
                if await registry.head_manifest(repository, reference) is None:
                    await registry.get_manifest(repository, reference)
            elif wanted.kind is Kind.BLOB and isinstance(reference, Digest):
                if await registry.head_blob(repository, reference) is None:
                    async with registry.open_blob(repository, reference):
                        pass
            else:
                await registry.get_list(repository, Kind.TAGS, "tags/list", (("n", "1"),))

    @asynccontextmanager
    async def _in_time(self, repository: Repository) -> AsyncIterator[None]:
        """Bound the wait: who may be let in as last known is not kept waiting for long."""
        policy = self._policies.of(repository)
        if policy.mode == "offline":
            raise UpstreamTroubleError("callers cannot be verified while policy.mode is offline")
        seconds = policy.timeouts.response_seconds
        if policy.verify_offline == "last-known":
            seconds = min(seconds, policy.timeouts.revalidate_seconds)
        async with self._upstreams.of(repository).deadline(seconds):
            yield

    async def _last_known(
        self, repository: Repository, shown: Basic | None, error: TroubleError
    ) -> Caller | None:
        """Return as whom a request passes while upstream does not answer, if it does.

        Who passes as a stranger sees only what strangers have brought.
        """
        if self._policies.of(repository).verify_offline == "deny":
            raise error
        if shown is not None:
            mark = self._fingerprints.of(shown.username, shown.password)
            known = self._known.peek((mark, repository))
            if known is not None:
                return _as_caller(repository, shown, mark, known)
        seen = self._seen.peek(repository)
        if seen is None or seen.openness is not Openness.PRIVATE:
            return None
        if shown is None:
            raise CredentialNeededError(str(repository))
        raise error

    def _is_young(self, at: float, limit_seconds: float) -> bool:
        return 0 <= self._clock.monotonic() - at < limit_seconds


def _caller(repository: Repository, shown: Basic, mark: bytes, generation: int = 0) -> Caller:
    return Caller(repository.upstream, shown.username, shown.password, generation, mark)


def _as_caller(repository: Repository, shown: Basic, mark: bytes, known: _Known) -> Caller:
    if not known.is_good:
        raise DeniedError(f"{repository}: its registry does not let this credential in")
    return _caller(repository, shown, mark, known.generation)
