"""The cache as a command reaches it: by the admin API of the running mirror, or on the disk."""

import asyncio
import http.client
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlencode

import msgspec

from mirror.app import stopped_cache
from mirror.cli.admin_connection import admin_connection, admin_url
from mirror.domain.bundles import StoredInventory, read_inventory
from mirror.runtime.unreadable import UNREADABLE
from mirror.service.bundles import ExportWish, LeftOut
from mirror.service.cache_admin import CacheAdmin, PinFacts
from mirror.settings import Settings
from mirror.store.checking import Event
from mirror.store.importing import Imported
from mirror.store.inventory import ImageDetails, ImageFacts
from mirror.store.layout import InUseError
from mirror.store.referring import Referrer
from mirror.store.sweep import Swept
from mirror.store.usage import Usage
from mirror.store.withdrawal import Removed
from mirror.web.admin_access import CSRF_HEADER
from mirror.web.api import PREFIX
from mirror.web.bundle_api import LEFT_OUT_HEADER
from mirror.web.cache_api import Images, PinList, PinWish, Referrers, Unpinned
from mirror.web.openapi import Problem, ProblemBody

T = TypeVar("T")
_CONNECT_SECONDS: Final = 5
_PIECE_BYTES: Final = 1 << 18
_ANSWER_SECONDS: Final = 3600
"""A sweep of a large cache says nothing until it ends."""


class Cache(Protocol):
    """What the commands need; raises RefusedError or ProblemError."""

    def images(self, patterns: Sequence[str], *, untagged: bool) -> list[ImageFacts]:
        """Return the images that a pattern means."""

    def usage(self) -> Usage:
        """Return how full the cache is, with what each repository has."""

    def remove(self, references: Sequence[str], *, dry_run: bool) -> Removed:
        """Remove images."""

    def collect(self, *, dry_run: bool) -> Swept:
        """Remove what nothing needs."""

    def verify(self, *, repair: bool) -> Iterator[Event]:
        """Read everything again."""

    def details(self, image: str) -> ImageDetails:
        """Return what is known of one image."""

    def referrers(self, image: str) -> list[Referrer]:
        """Return what is known to refer to an image."""

    def pins(self) -> list[PinFacts]:
        """Return all pins."""

    def pin(self, image: str, platforms: Sequence[str]) -> PinFacts:
        """Never evict an image."""

    def unpin(self, image: str) -> str:
        """Let an image go when its time comes."""

    def inventory(self) -> StoredInventory:
        """Return what is here that anybody may see."""

    def export(
        self, wish: ExportWish, inventory: bytes, note: Callable[[LeftOut], None]
    ) -> Iterator[bytes]:
        """Yield a bundle piece by piece, and *note* what is not in it before.

        What the *inventory* names is not carried.
        """

    def take(self, bundle: Iterator[bytes]) -> Imported:
        """Import a bundle."""


class ProblemError(Exception):
    """It cannot be done; ``problem`` says why and what helps."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@contextmanager
def open_cache(settings: Settings) -> Iterator[Cache]:
    """Open the cache of a configuration, whether its mirror runs or not.

    Raises:
        ProblemError: it runs, but does not answer; or there is no cache yet.
        LayoutError: the directory cannot be used.
    """
    directory = settings.cache.directory
    try:
        # Not exists(), which from Python 3.14 on says no for whatever we may not look at.
        (directory / "VERSION").stat()
    except (FileNotFoundError, NotADirectoryError):
        hint = "start the mirror, or name its configuration with --config"
        raise ProblemError(
            Problem("no_cache", f"there is no cache in {directory} yet", hint)
        ) from None
    except PermissionError:
        # A directory that we may not even look into may be that of a running mirror.
        yield _Running(settings)
        return
    try:
        stopped = _Stopped(settings)
    except InUseError:
        yield _Running(settings)
        return
    try:
        yield stopped
    finally:
        stopped.close()


class _Stopped:
    """Does it here, with the directory locked."""

    def __init__(self, settings: Settings) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        try:
            self._cache: CacheAdmin = self._runner.run(
                self._stack.enter_async_context(stopped_cache(settings))
            )
        except BaseException:
            self._runner.close()
            raise

    def close(self) -> None:
        try:
            self._runner.run(self._stack.aclose())
        finally:
            self._runner.close()

    def images(self, patterns: Sequence[str], *, untagged: bool) -> list[ImageFacts]:
        return self._run(self._cache.images(patterns, untagged=untagged))

    def usage(self) -> Usage:
        return self._run(self._cache.usage())

    def remove(self, references: Sequence[str], *, dry_run: bool) -> Removed:
        return self._run(self._cache.remove(references, dry_run=dry_run))

    def collect(self, *, dry_run: bool) -> Swept:
        return self._run(self._cache.collect(dry_run=dry_run))

    def verify(self, *, repair: bool) -> Iterator[Event]:
        events = self._cache.verify(repair=repair)
        try:
            while (event := self._run(_next(events))) is not None:
                yield event
        finally:
            self._run(events.aclose())

    def details(self, image: str) -> ImageDetails:
        return self._run(self._cache.details(image))

    def referrers(self, image: str) -> list[Referrer]:
        return self._run(self._cache.referrers(image))

    def pins(self) -> list[PinFacts]:
        return self._run(self._cache.pins())

    def pin(self, image: str, platforms: Sequence[str]) -> PinFacts:
        return self._run(self._cache.pin(image, platforms))

    def unpin(self, image: str) -> str:
        return self._run(self._cache.unpin(image))

    def inventory(self) -> StoredInventory:
        return self._run(self._cache.bundles.inventory())

    def export(
        self, wish: ExportWish, inventory: bytes, note: Callable[[LeftOut], None]
    ) -> Iterator[bytes]:
        present = read_inventory(inventory) if inventory else frozenset[str]()
        left_out, pieces = self._run(self._cache.bundles.export(wish, present))
        note(left_out)
        try:
            while (piece := self._run(_next(pieces))) is not None:
                yield piece
        finally:
            self._run(pieces.aclose())

    def take(self, bundle: Iterator[bytes]) -> Imported:
        return self._run(self._cache.bundles.take(_one_by_one(bundle)))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)


async def _next(events: AsyncGenerator[T, None]) -> T | None:
    return await anext(events, None)


async def _one_by_one(pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    for each in pieces:  # nothing else runs here that would wait for the disk
        yield each


class AdminClient:
    """Asks the admin API of the running mirror."""

    def __init__(self, settings: Settings) -> None:
        """Set up for the mirror of a configuration; nothing is asked yet."""
        self._directory = settings.cache.directory
        self._address = settings.server.admin_listen.local()
        self._tls = settings.server.admin.tls
        self._url = admin_url(settings)
        self._headers = {CSRF_HEADER: "1"}
        token_file = settings.server.admin.token_file
        if token_file is not None:
            try:
                token = token_file.read_text("ascii").strip()
            except (OSError, UnicodeDecodeError):
                token = ""  # it may be ours to ask without it
            if token.isprintable() and token:
                self._headers["Authorization"] = f"Bearer {token}"

    def ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        query: Sequence[tuple[str, str]] = (),
        body: bytes | Iterator[bytes] | None = None,
    ) -> T:
        """Return the answer as a *kind*; raises ProblemError."""
        with self.asked(method, path, query, body) as answer:
            return msgspec.json.decode(answer.read(), type=kind)

    @contextmanager
    def asked(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: bytes | Iterator[bytes] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Open an answer to read it as it comes; raises ProblemError."""
        connection = admin_connection(self._address, self._tls, _CONNECT_SECONDS)
        try:
            connection.connect()
            if connection.sock is not None:
                connection.sock.settimeout(_ANSWER_SECONDS)
            target = f"{PREFIX}{path}?{urlencode(query)}" if query else PREFIX + path
            connection.request(method, target, body, self._headers)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise ProblemError(_problem(answer))
            yield answer
        except (OSError, http.client.HTTPException, *UNREADABLE) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ProblemError(self.unreachable(reason)) from None
        finally:
            connection.close()

    def unreachable(self, reason: str) -> Problem:
        """Return what to say when nothing sensible answers."""
        return Problem(
            "unreachable",
            f"no mirror answers at {self._url} as it should: {reason}",
            "this needs a running mirror: start it, or name its configuration (--config)",
        )


class _Running(AdminClient):
    """Does it there."""

    def details(self, image: str) -> ImageDetails:
        return self.ask("GET", "/cache/image", ImageDetails, [("ref", image)])

    def referrers(self, image: str) -> list[Referrer]:
        return list(self.ask("GET", "/cache/referrers", Referrers, [("ref", image)]).referrers)

    def images(self, patterns: Sequence[str], *, untagged: bool) -> list[ImageFacts]:
        query = [("untagged", str(int(untagged))), *(("match", each) for each in patterns)]
        return list(self.ask("GET", "/cache/images", Images, query).images)

    def usage(self) -> Usage:
        return self.ask("GET", "/cache", Usage, [("repositories", "1")])

    def remove(self, references: Sequence[str], *, dry_run: bool) -> Removed:
        query = [("dry_run", str(int(dry_run))), *(("ref", each) for each in references)]
        return self.ask("DELETE", "/cache/images", Removed, query)

    def collect(self, *, dry_run: bool) -> Swept:
        return self.ask("POST", "/cache/gc", Swept, [("dry_run", str(int(dry_run)))])

    def verify(self, *, repair: bool) -> Iterator[Event]:
        with self.asked("POST", "/cache/verify", [("repair", str(int(repair)))]) as answer:
            decoder = msgspec.json.Decoder[Event](Event)
            while line := answer.readline():
                yield decoder.decode(line)

    def pins(self) -> list[PinFacts]:
        return list(self.ask("GET", "/cache/pins", PinList).pins)

    def pin(self, image: str, platforms: Sequence[str]) -> PinFacts:
        wish = msgspec.json.encode(PinWish(image, tuple(platforms)))
        return self.ask("POST", "/cache/pins", PinFacts, body=wish)

    def unpin(self, image: str) -> str:
        return self.ask("DELETE", "/cache/pins", Unpinned, [("image", image)]).image

    def inventory(self) -> StoredInventory:
        return self.ask("GET", "/cache/inventory", StoredInventory)

    def export(
        self, wish: ExportWish, inventory: bytes, note: Callable[[LeftOut], None]
    ) -> Iterator[bytes]:
        query = [
            *(("ref", each) for each in wish.images),
            *(("platform", each) for each in wish.platforms),
            *([("since", wish.since)] if wish.since else []),
            ("all", str(int(wish.everything))),
            ("private", str(int(wish.private))),
        ]
        with self.asked("POST", "/cache/export", query, inventory) as answer:
            note(msgspec.json.decode(answer.headers[LEFT_OUT_HEADER] or "", type=LeftOut))
            while piece := answer.read(_PIECE_BYTES):
                yield piece

    def take(self, bundle: Iterator[bytes]) -> Imported:
        return self.ask("POST", "/cache/import", Imported, body=bundle)

    def unreachable(self, reason: str) -> Problem:
        return Problem(
            "unreachable",
            f"the cache {self._directory} is in use by a running mirror, but its admin API at "
            f"{self._url} does not answer as it should: {reason}",
            "name the configuration that the mirror runs with (--config), or look at its log",
        )


def _problem(answer: http.client.HTTPResponse) -> Problem:
    try:
        return msgspec.json.decode(answer.read(), type=ProblemBody).error
    except UNREADABLE:
        message = f"the admin API answers {answer.status} {answer.reason}"
        return Problem("http", message, "is this the admin address of a Mirror of this version?")
