"""Lists: the tags of a repository, the referrers of a manifest, the cached repositories."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import msgspec

from mirror.domain.access import Viewer
from mirror.domain.errors import (
    NameUnknownError,
    NotFoundError,
    OverloadedError,
    UpstreamTroubleError,
)
from mirror.domain.media import OCI_INDEX
from mirror.domain.names import Digest, Repository, fallback_tag
from mirror.domain.pages import Query, bounded, cut, ignored_paging, next_query, page_size
from mirror.domain.referrers import EMPTY, filtered, merged
from mirror.domain.routing import Kind
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Result
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pool
from mirror.runtime.single_flight import SingleFlight
from mirror.service.freshening import OFFLINE, Asking, Case, Held, Terms, freshened, is_settled
from mirror.service.manifests import Manifests
from mirror.service.policies import Policies
from mirror.service.ports import Listing
from mirror.service.served import Served
from mirror.store.rows import DocumentRow
from mirror.store.store import Store
from mirror.upstream.reading import Document
from mirror.upstream.upstreams import Upstreams

_TYPE_KEY: Final = "artifactType"
_log = get_logger("service")


class Lists:
    """Fetches lists, each once however many ask, and keeps them as long as a tag."""

    def __init__(
        self,
        *,
        store: Store,
        upstreams: Upstreams,
        policies: Policies,
        manifests: Manifests,
        pool: Pool,
        clock: Clock,
    ) -> None:
        self._store = store
        self._upstreams = upstreams
        self._policies = policies
        self._manifests = manifests
        self._pool = pool
        self._clock = clock
        self._flights: SingleFlight[tuple[str, Repository, str, Query], Listing] = SingleFlight()

    async def tags(self, repository: Repository, query: Query) -> tuple[Listing, Served]:
        """Return a page of a repository's tags.

        Raises:
            PageSizeInvalidError: ``n`` is not a number.
            MirrorError: upstream's own word, or trouble without a usable copy.
        """
        self._policies.check(repository)
        query = bounded(query)
        if page_size(query) == 0:
            return _tags(repository.name, [], None), Served(Result.HIT)
        if self._policies.is_offline(repository):
            return await self._known_tags(repository, query), Served(Result.HIT)
        return await self._list(
            repository, "tags/list", query, lambda: self._fetch_tags(repository, query)
        )

    async def referrers(
        self, repository: Repository, subject: Digest, query: Query
    ) -> tuple[Listing, Served]:
        """Return the manifests that refer to *subject*; raises as ``tags`` does."""
        name = f"referrers/{subject}"
        return await self._list(
            repository,
            name,
            query,
            lambda: self._fetch_referrers(repository, subject, query),
            lambda: self._held_referrers(repository, name, query),
        )

    async def catalog(self, query: Query, viewer: Viewer) -> Listing:
        """Return a page of the repositories that are cached and that *viewer* may see."""
        cached = await self._pool.run(self._store.refs.repositories)
        names = [str(found) for found in cached if viewer.may_see(found)]
        page, more = cut(names, page_size(query), dict(query).get("last"))
        content = msgspec.json.encode({"repositories": page})
        return Listing(content, "application/json", _next_page(query, page) if more else None)

    async def close(self) -> None:
        """Stop asking upstreams."""
        await self._flights.close()

    async def _list(
        self,
        repository: Repository,
        name: str,
        query: Query,
        fetch: Callable[[], Awaitable[Listing]],
        look: Callable[[], Awaitable[Held[Listing] | None]] | None = None,
    ) -> tuple[Listing, Served]:
        self._policies.check(repository)
        look = look or (lambda: self._held(repository, name, query))
        key = self._upstreams.scope(repository), repository, name, query

        async def fetch_and_keep() -> Listing:
            held = await look()
            if held is not None and is_settled(held, self._policies.listing(repository)):
                return held.value
            async with self._upstreams.of(repository).deadline():
                listing = await fetch()
            await self._keep(repository, name, query, listing)
            return listing

        def ask() -> Asking[Listing]:
            joined = self._flights.is_running(key)
            return Asking(self._flights.start(key, fetch_and_keep), joined)

        terms = Terms(
            lifetime=self._policies.listing(repository),
            timeouts=self._policies.of(repository).timeouts,
            trouble=self._upstreams.of(repository).trouble(repository),
            is_offline=self._policies.is_offline(repository),
        )
        held = await look()
        return await freshened(Case(held, terms, f"{repository} {name}"), ask, ask)

    async def _held(self, repository: Repository, name: str, query: Query) -> Held[Listing] | None:
        row = await self._store.facts.document(repository, name, query)
        if row is None or row.media_type is None:
            return None
        scope = self._upstreams.scope(repository)
        content = await self._store.content(Digest.parse(row.digest), scope)
        if content is None:
            return None
        listing = Listing(content, row.media_type, row.next_query, row.filtered)
        return Held(listing, self._clock.wall() - row.confirmed_at)

    async def _keep(
        self, repository: Repository, name: str, query: Query, listing: Listing
    ) -> None:
        """Keep a list if there is room; it can be served either way."""
        scope = self._upstreams.scope(repository)
        try:
            digest = await self._store.keep_document(listing.content, repository.upstream, scope)
        except (OSError, OverloadedError) as error:
            _log.error("a list could not be kept", repository=str(repository), reason=str(error))
            return
        before, now = await self._store.facts.document(repository, name, query), self._clock.wall()
        row = DocumentRow(
            str(digest),
            listing.media_type,
            listing.next_query,
            listing.filtered,
            now,
            before.seen_at if before is not None and before.digest == str(digest) else now,
        )
        await self._store.facts.put_document(repository, name, query, row)

    # --- tags --------------------------------------------------------------------------------

    async def _known_tags(self, repository: Repository, query: Query) -> Listing:
        """Return the tags that are known here: an offline mirror has nobody to ask."""
        known = await self._pool.run(lambda: list(self._store.refs.all_tags(repository)))
        names = sorted(tag.name for tag, _ in known)
        if not names:
            raise NameUnknownError(f"{repository} is not in the cache, and {OFFLINE}")
        page, more = cut(names, page_size(query), dict(query).get("last"))
        return _tags(repository.name, page, _next_page(query, page) if more else None)

    async def _fetch_tags(self, repository: Repository, query: Query) -> Listing:
        document = await self._upstreams.of(repository).get_list(
            repository, Kind.TAGS, "tags/list", query
        )
        tags, name = _read_tags(document, repository)
        size, last = page_size(query), dict(query).get("last")
        following = next_query(document.link)
        if not ignored_paging(tags, size, last):
            return _tags(name, tags, following)
        page, more = cut(tags, size, last)
        return _tags(name, page, _next_page(query, page) if more else following)

    # --- referrers ---------------------------------------------------------------------------

    async def _fetch_referrers(
        self, repository: Repository, subject: Digest, query: Query
    ) -> Listing:
        listing = await self._ask_referrers(repository, subject, query)
        if listing is None:
            listing = await self._fallback(repository, subject)
        artifact_type = _artifact_type(query)
        return listing if not artifact_type else _of_type(listing, artifact_type)

    async def _held_referrers(
        self, repository: Repository, name: str, query: Query
    ) -> Held[Listing] | None:
        """Return the list that is here; where it was never asked for by type, of the whole one.

        What was prefetched or imported is whole, and clients ask for signatures by their type.
        """
        held, artifact_type = await self._held(repository, name, query), _artifact_type(query)
        is_offline = self._policies.is_offline(repository)
        if not artifact_type or (held is not None and not is_offline):
            return held
        rest = tuple(pair for pair in query if pair[0] != _TYPE_KEY)
        whole = await self._held(repository, name, rest)
        if whole is None or (not is_offline and (rest or whole.value.next_query)):
            return held  # its pages and those of upstream's own list of the type are cut elsewhere
        try:
            found = _of_type(whole.value, artifact_type)
            if held is not None:  # what was imported since may be in the whole one only
                content = merged(held.value.content, found.content)
                return replace(held, value=replace(held.value, content=content))
        except UpstreamTroubleError:
            return held
        return replace(whole, value=found)

    async def _ask_referrers(
        self, repository: Repository, subject: Digest, query: Query
    ) -> Listing | None:
        """Ask upstream's referrers API; ``None`` where there is none."""
        try:
            document = await self._upstreams.of(repository).get_list(
                repository, Kind.REFERRERS, f"referrers/{subject}", query
            )
        except NotFoundError:
            return None
        if document.content_type != OCI_INDEX:
            return None
        _check_index(document)
        return Listing(
            document.content, OCI_INDEX, next_query(document.link), document.filters_applied
        )

    async def _fallback(self, repository: Repository, subject: Digest) -> Listing:
        """Return the list under the fallback tag, which is upstream's word or trouble."""
        try:
            manifest, served = await self._manifests.resolve(repository, fallback_tag(subject))
        except NotFoundError:
            return Listing(EMPTY, OCI_INDEX)
        if served.result is Result.STALE:
            # The list made of it before is as good, and says that it is stale.
            raise UpstreamTroubleError(f"the fallback tag: {served.reason}")
        is_list = manifest.media_type == OCI_INDEX
        return Listing(manifest.content if is_list else EMPTY, OCI_INDEX)


def _artifact_type(query: Query) -> str | None:
    return dict(query).get(_TYPE_KEY)


def _of_type(listing: Listing, artifact_type: str) -> Listing:
    """Return what of a page of referrers is of a type, unless it has been filtered already."""
    if listing.filtered:
        return listing
    following = listing.next_query
    if following is not None and _TYPE_KEY not in dict(following):
        following = (*following, (_TYPE_KEY, artifact_type))
    content = filtered(listing.content, artifact_type)
    return Listing(content, OCI_INDEX, following, filtered=True)


def _check_index(document: Document) -> None:
    """Raise UpstreamTroubleError unless clients can read it: an error page is not an index."""
    try:
        entries = json.loads(document.content)["manifests"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UpstreamTroubleError("the referrers list is not an index") from None
    if entries is not None and not isinstance(entries, list):
        raise UpstreamTroubleError("the referrers list is not an index")


def _read_tags(document: Document, repository: Repository) -> tuple[list[str], str]:
    try:
        fields = json.loads(document.content)
        tags, name = fields.get("tags") or [], fields.get("name")
    except (ValueError, AttributeError, RecursionError):
        raise UpstreamTroubleError("the tags list is not a JSON object") from None
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise UpstreamTroubleError("the tags list is not a list of strings")
    if any(_is_torn(tag) for tag in tags):
        raise UpstreamTroubleError("the tags list has something in it that is no text")
    is_name = isinstance(name, str) and name and not _is_torn(name)
    return tags, name if is_name else repository.name


def _is_torn(text: str) -> bool:
    """Tell whether it has halves of characters in it, which JSON can write and UTF-8 cannot."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _tags(name: str, tags: list[str], following: Query | None) -> Listing:
    content = msgspec.json.encode({"name": name, "tags": tags})
    return Listing(content, "application/json", following)


def _next_page(query: Query, page: list[str]) -> Query:
    return (("n", dict(query)["n"]), ("last", page[-1]))
