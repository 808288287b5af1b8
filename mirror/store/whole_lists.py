"""Lists of referrers as they are here: all pages of one, put together."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Final

from mirror.domain.errors import MirrorError
from mirror.domain.manifests import MANIFEST_MAX_BYTES
from mirror.domain.names import Digest, Repository
from mirror.domain.pages import Query
from mirror.domain.referrers import merged
from mirror.store.facts import document_key
from mirror.store.index import Index, object_key
from mirror.store.layout import Layout
from mirror.store.rows import DocumentRow, ObjectRow

_FIRST: Final[Query] = ()


class PageMissingError(Exception):
    """A page of a list is not here, or the whole of it is no list."""


@dataclass(frozen=True, slots=True)
class WholeList:
    """A list, who may see all of it, and since when it is as it is.

    One ``is_made`` of several pages is not an object of the store.
    """

    digest: str
    content: bytes
    media_type: str
    filtered: bool
    scopes: tuple[str, ...]
    seen_at: float
    is_made: bool


@dataclass(frozen=True, slots=True)
class _Page:
    row: DocumentRow
    stored: ObjectRow
    content: bytes


def whole_list(
    index: Index, layout: Layout, repository: Repository, subject: Digest
) -> WholeList | None:
    """Return the list of what refers to a manifest; ``None``: it is not here.

    Raises:
        PageMissingError: some of it is here.
    """
    pages = list(_pages(index, layout, repository, subject))
    if not pages:
        return None
    scopes = {scope for page in pages for scope in page.stored.scopes}
    content, is_made = reduce(_joined, (page.content for page in pages)), len(pages) > 1
    return WholeList(
        str(Digest.of(content)) if is_made else pages[0].row.digest,
        content,
        pages[0].row.media_type or "",
        pages[0].row.filtered,
        tuple(sorted(each for each in scopes if all(p.stored.visible_in(each) for p in pages))),
        max(page.row.seen_at for page in pages),
        is_made,
    )


def _pages(
    index: Index, layout: Layout, repository: Repository, subject: Digest
) -> Iterator[_Page]:
    """Yield the pages as each names the next one; a ring of them is no list."""
    asked, query = set[Query](), _FIRST
    while query not in asked:
        asked.add(query)
        key = document_key(repository, f"referrers/{subject}", query)
        page = _page(index, layout, key)
        if page is None and query == _FIRST:
            return
        if page is None:
            raise PageMissingError
        yield page
        if page.row.next_query is None:
            return
        query = page.row.next_query
    raise PageMissingError


def _page(index: Index, layout: Layout, key: str) -> _Page | None:
    row = index.get(key, DocumentRow)
    if row is None or row.media_type is None:
        return None
    stored = index.get(object_key(row.digest), ObjectRow)
    try:
        content = layout.blob(Digest.parse(row.digest)).read_bytes()
    except (OSError, MirrorError):
        return None
    return None if stored is None else _Page(row, stored, content)


def _joined(content: bytes, more: bytes) -> bytes:
    try:
        both = merged(content, more)
    except MirrorError:
        raise PageMissingError from None
    if len(both) > MANIFEST_MAX_BYTES:  # no client and no bundle takes a longer one
        raise PageMissingError
    return both
