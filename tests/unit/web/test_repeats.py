"""Requests that are answered at once because the same bytes were answered before."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD
from hypothesis import given
from hypothesis import strategies as st

from mirror.settings import Auth, Limits, Policy, Server
from mirror.web import repeats
from mirror.web.heads import is_one_head
from mirror.web.registry import RegistryApi
from tests.fakes.clients import Ended, RawAnswer, RawClient, compose
from tests.fakes.clock import FakeClock
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import ANY_PORT, Mirror, in_one_process, mirror_of, settings
from tests.unit.web.callers import basic, htpasswd, rule, server
from tests.unit.web.wire import REPOSITORY, blob_path, lasting, manifest_path

IMAGE = image(1)
MANIFEST = manifest_path(IMAGE.digest)
CONFIG = blob_path(IMAGE.blobs[0].digest)
PLAIN = [("User-Agent", "node/1"), ("Accept", IMAGE.media_type), ("Accept-Encoding", "gzip")]
WHAT = pytest.mark.parametrize(
    ("path", "content"),
    [(MANIFEST, IMAGE.content), (CONFIG, IMAGE.blobs[0].content)],
    ids=["manifest", "small blob"],
)


class Handled(Counter[str]):
    """How many requests went the ordinary way, by path."""

    @property
    def count(self) -> int:
        return self.total()


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> Handled:
    found, handle = Handled(), RegistryApi.handle

    async def counted(self: RegistryApi, request: web.BaseRequest) -> web.StreamResponse:
        found[request.raw_path] += 1
        return await handle(self, request)

    monkeypatch.setattr(RegistryApi, "handle", counted)
    return found


@pytest.fixture
async def hot(handled: Handled, mirror: Mirror, upstream: FakeRegistry) -> Mirror:
    assert not handled
    await warmed(mirror, upstream)
    return mirror


async def warmed(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    await mirror.get(manifest_path("v1"))
    await mirror.pull_blobs(REPOSITORY, IMAGE)
    async with await connected(mirror) as client:
        for path in (MANIFEST, CONFIG):
            await known_by(client, path)


async def connected(mirror: Mirror) -> RawClient:
    return await RawClient.connect(mirror.host, mirror.port)


async def known_by(client: RawClient, path: str) -> None:
    """Ask until the answer is one of memory, and so is the next one, of any worker."""
    for _ in range(3):
        assert (await asked(client, path)).status == 200


async def asked(client: RawClient, path: str, *more: tuple[str, str]) -> RawAnswer:
    await client.send(compose(path, [*PLAIN, *more]))
    return await client.answer()


# --- the same answer --------------------------------------------------------------------------


@WHAT
async def test_a_repeated_request_has_the_ordinary_answer(
    hot: Mirror, handled: Handled, path: str, content: bytes
) -> None:
    async with await connected(hot) as client:
        ordinary = await asked(client, path, ("X-Request-Id", "mine"))
        await known_by(client, path)
        before = handled.count
        repeated = [await asked(client, path) for _ in range(5)]
        assert handled.count == before
    for each in repeated:
        assert (each.status, each.body, each.ended) == (200, content, Ended.COMPLETE)
        assert sorted(lasting(dict(each.headers))) == sorted(lasting(dict(ordinary.headers)))
        assert each.header("Cache-Status") == ordinary.header("Cache-Status") == "mirror; hit"
        assert len(each.headers) == len(ordinary.headers)
    ids = {each.header("X-Request-Id") for each in repeated}
    assert len(ids) == 5
    assert None not in ids


async def test_a_repeated_request_is_counted_logged_and_remembered(
    hot: Mirror, handled: Handled
) -> None:
    requests, sent = "mirror_requests_total", "mirror_client_bytes_total"
    async with await connected(hot) as client:
        await known_by(client, MANIFEST)
        before = await hot.total(requests, kind="manifest", result="hit")
        sent_before, ordinary = await hot.total(sent, result="hit"), handled.count
        answers = [await asked(client, MANIFEST) for _ in range(3)]
    assert handled.count == ordinary
    assert await hot.total(requests, kind="manifest", result="hit") == before + 3
    assert await hot.total(sent, result="hit") == sent_before + 3 * len(IMAGE.content)
    async with hot.session.get(f"{hot.admin_url}/api/v1/requests?limit=1") as answer:
        [last] = (await answer.json())["requests"]
    assert last["request_id"] == answers[-1].header("X-Request-Id")
    assert last["client"] == "127.0.0.1"
    assert (last["method"], last["status"], last["kind"]) == ("GET", 200, "manifest")
    assert (last["upstream"], last["repository"]) == ("docker.io", REPOSITORY)
    assert (last["reference"], last["result"]) == (str(IMAGE.digest), "hit")
    assert last["sent_bytes"] == len(IMAGE.content)
    assert last["seconds"] >= 0


async def test_only_the_plainest_requests_are_remembered(hot: Mirror, handled: Handled) -> None:
    others: list[tuple[str, list[tuple[str, str]]]] = [
        (MANIFEST, [("Range", "bytes=0-3")]),
        (MANIFEST, [("If-None-Match", f'"{IMAGE.digest}"')]),
        (MANIFEST, [("Authorization", "Bearer secret")]),
        (MANIFEST, [("Via", "1.1 other")]),
        (MANIFEST, [("X-Request-Id", "mine")]),
        (MANIFEST, [("Connection", "close")]),
        (MANIFEST, [("X-Long", "x" * 3000)]),
        (manifest_path("v1"), []),
        ("/v2/", []),
    ]
    for path, more in others:
        before = handled.count
        for _ in range(4):
            async with await connected(hot) as client:
                await client.send(compose(path, [*PLAIN, *more]))
                assert (await client.answer()).status in {200, 206, 304}
        assert handled.count == before + 4, (path, more)


async def test_a_type_that_is_not_accepted_is_refused_each_time(hot: Mirror) -> None:
    async with await connected(hot) as client:
        for _ in range(4):
            await client.send(compose(MANIFEST, [("Accept", "text/plain")]))
            assert (await client.answer()).status == 404


# --- where the next request begins --------------------------------------------------------------


@WHAT
async def test_what_looks_like_a_request_may_be_the_rest_of_another(
    hot: Mirror, handled: Handled, path: str, content: bytes
) -> None:
    known = compose(path, PLAIN)
    begun = b"GET /v2/ HTTP/1.1\r\nX-Rest: "
    for first, more in (
        (begun, ()),
        (compose("/v2/") + begun, (b"{}",)),  # the first of two, and a part of the second
        (known + begun, (content,)),
    ):
        before = handled.count
        async with await connected(hot) as client:
            await client.send(first)
            bodies = [(await client.answer()).body for _ in more]
            await asyncio.sleep(0.02)  # so that both parts are read one by one
            await client.send(known)
            assert [*bodies, (await client.answer()).body] == [*more, b"{}"]
            # From here on nobody but aiohttp is to say where a request begins.
            assert (await asked(client, path)).body == content
        assert handled.count == before + len(more) + 2


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_looks_like_a_request_may_be_a_body(hot: Mirror, method: str) -> None:
    known = compose(MANIFEST, PLAIN)
    lines = [("Content-Length", str(len(known)))]
    async with await connected(hot) as client:
        await client.send(compose("/v2/", lines, method=method))
        await asyncio.sleep(0.02)
        await client.send(known)
        assert (await client.answer()).status == (200 if method == "GET" else 405)
        rest = await client.answer(timeout_seconds=0.2)
        assert (rest.status, rest.body) == (0, b"")


@given(
    st.lists(
        st.sampled_from(
            [
                b"GET /v2/ HTTP/1.1",
                b"HEAD /a HTTP/1.1",
                b"POST /a HTTP/1.1",
                b"\r\n",
                b"\n",
                b"\r",
                b" ",
                b"Host: a",
                b"Content-Length: 5",
                b"content-length : 5",
                b"Transfer-Encoding: chunked",
                b"Upgrade: websocket",
                b"Connection: upgrade",
                b"Expect: 100-continue",
                b"X: \r\n folded",
            ]
        ),
        max_size=12,
    )
)
def test_one_head_is_one_request_without_a_body_for_aiohttp(parts: list[bytes]) -> None:
    data = b"".join(parts)
    for whole in (data, data + b"\r\n\r\n"):
        if not is_one_head(whole):
            continue
        try:
            messages, is_upgraded, rest = _parser().feed_data(whole)
        except HttpProcessingError:
            continue  # the connection is closed
        assert [payload for _, payload in messages] == [EMPTY_PAYLOAD]
        assert (is_upgraded, rest) == (False, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\n\nGET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\ncONTENT-lENGTH: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_one_head(data: bytes) -> None:
    assert not is_one_head(data)
    assert is_one_head(compose(MANIFEST, PLAIN))


def _parser() -> Any:  # noqa: ANN401 -- aiohttp's, in C
    loop = asyncio.new_event_loop()
    try:
        return HttpRequestParser(None, loop, 2**16)
    finally:
        loop.close()


# --- what may have changed ------------------------------------------------------------------------


async def test_what_was_removed_is_not_served_again(
    hot: Mirror, upstream: FakeRegistry, handled: Handled
) -> None:
    url = f"{hot.admin_url}/api/v1/cache/images?ref={REPOSITORY}:v1"
    async with await connected(hot) as client:
        assert (await asked(client, MANIFEST)).status == 200
        async with hot.session.delete(url, headers={"X-Mirror-CSRF": "1"}) as removed:
            assert removed.status == 200
        before, ordinary = len(upstream.requests), handled.count
        assert (await asked(client, MANIFEST)).header("Cache-Status") != "mirror; hit"
    assert handled.count == ordinary + 1
    assert len(upstream.requests) > before


@in_one_process
async def test_another_configuration_counts_at_once(
    handled: Handled, tmp_path: Path, upstream: FakeRegistry
) -> None:
    directory, upstreams = tmp_path / "cache", {"docker.io": upstream}
    async with mirror_of(directory, upstreams) as mirror:
        await warmed(mirror, upstream)
        async with await connected(mirror) as client:
            before = handled.count
            assert (await asked(client, MANIFEST)).status == 200
            assert handled.count == before
            for policy, status in (
                (Policy(deny=("library/*",)), 403),
                (Policy(), 200),
                (Policy(access="verify"), 200),
                (Policy(), 200),
            ):
                before = handled.count
                restart = mirror.up.reloading._apply(settings(directory, upstreams, policy=policy))
                assert restart == []
                for _ in range(3):
                    assert (await asked(client, MANIFEST)).status == status
                assert handled.count == before + 3  # upstream is another one and not heard of yet


@in_one_process
async def test_who_has_to_prove_who_he_is_does_so_each_time(
    handled: Handled, tmp_path: Path, upstream: FakeRegistry
) -> None:
    directory, upstreams = tmp_path / "cache", {"docker.io": upstream}
    async with mirror_of(directory, upstreams) as mirror:
        await warmed(mirror, upstream)
        people = htpasswd(tmp_path / "htpasswd", ann="secret")
        guarded = server(Auth(htpasswd=people, rules=(rule("user:ann", "docker.io/**"),)))
        mirror.up.reloading._apply(settings(directory, upstreams, server=guarded))
        async with await connected(mirror) as client:
            for _ in range(2):
                assert (await asked(client, MANIFEST)).status == 401
                assert (
                    await asked(client, MANIFEST, *basic("ann", "secret").items())
                ).status == 200
            assert (await asked(client, MANIFEST)).status == 401


@in_one_process
async def test_with_a_silent_upstream_an_image_has_to_be_whole(
    handled: Handled, tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, clock=clock) as mirror:
        await warmed(mirror, upstream)
        async with await connected(mirror) as client:
            before = handled.count
            assert (await asked(client, MANIFEST)).status == 200
            assert handled.count == before
            clock.advance(31)
            assert (await asked(client, MANIFEST)).status == 200
            assert handled.count == before + 1


async def test_an_object_of_one_repository_is_not_another_ones(
    hot: Mirror, upstream: FakeRegistry
) -> None:
    async with await connected(hot) as client:
        for _ in range(3):
            assert (await asked(client, manifest_path(IMAGE.digest, "team/other"))).status == 404
            assert (await asked(client, MANIFEST)).status == 200


# --- limits -----------------------------------------------------------------------------------


@in_one_process
async def test_repeated_requests_keep_a_connection_open(
    handled: Handled, tmp_path: Path, upstream: FakeRegistry
) -> None:
    limits = Limits(idle_seconds=0.4)
    serving = Server(listen=ANY_PORT, admin_listen=ANY_PORT, limits=limits)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, server=serving) as mirror:
        await warmed(mirror, upstream)
        async with await connected(mirror) as client:
            before = handled.count
            for _ in range(6):
                assert (await asked(client, MANIFEST)).status == 200
                await asyncio.sleep(0.15)
            assert handled.count == before
            with pytest.raises(EOFError):
                async with asyncio.timeout(3):
                    await client.read(1)


@in_one_process
async def test_few_heads_are_remembered(
    hot: Mirror, handled: Handled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "_KNOWN_MAX", 3)
    async with await connected(hot) as client:
        for _ in range(2):
            for number in range(6):  # the oldest leave, so none of them is ever known
                before = handled.count
                await client.send(compose(MANIFEST, [("User-Agent", f"node/{number}")]))
                assert (await client.answer()).status == 200
                assert handled.count == before + 1
        await client.send(compose(MANIFEST, [("User-Agent", "node/5")]))
        assert (await client.answer()).status == 200
        assert handled.count == before + 1


@in_one_process
async def test_a_client_that_takes_nothing_is_waited_for(
    hot: Mirror, handled: Handled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client that only asks would have us keep answers without end."""
    before = handled.count
    async with await connected(hot) as client:
        assert (await asked(client, MANIFEST)).status == 200
        assert handled.count == before
        buffer_size = "asyncio.selector_events._SelectorTransport.get_write_buffer_size"
        monkeypatch.setattr(buffer_size, lambda _self: 1)
        assert (await asked(client, MANIFEST)).status == 200
    assert handled.count == before + 1
