"""A new configuration without a restart: by signal, by file, by a ConfigMap's swap of links."""

import asyncio
import gc
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from mirror import config
from mirror.app import running
from mirror.app.reloading import Reloading
from mirror.service.account_tokens import KubernetesTokens
from mirror.settings import Settings
from mirror.upstream import upstreams
from mirror.upstream.registry import Registry
from tests.fakes import answers, faults
from tests.fakes.content import blob, image
from tests.fakes.origin import Origin
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.fakes.tls import loopback_tls, write_pair
from tests.fakes.wire import Recorded
from tests.harness import MIB, Mirror
from tests.unit.web.wire import REPOSITORY, blob_path, manifest_path

ONE, TWO = image(1), image(2)


class Receiver(Origin):
    """Keeps what it is told."""

    def answer(self, request: Recorded) -> answers.Answer:
        return answers.text(204, "")


class File:
    """A configuration file that points at an upstream."""

    def __init__(self, directory: Path, upstream: str) -> None:
        self.path = directory / "mirror.yaml"
        self._cache = str(directory / "cache")
        self._upstream = upstream
        self.write()

    def write(self, upstream: str = "", hub: dict[str, Any] | None = None, **more: Any) -> None:  # noqa: ANN401 -- YAML
        data = {
            "server": {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"},
            "cache": {"directory": self._cache, "min_free": 0, "max_size": "512MiB"},
            "builtin_upstreams": False,
            "upstreams": {
                "docker.io": {"endpoints": [upstream or self._upstream], **(hub or {})},
            },
        }
        for section, fields in more.items():
            is_list = isinstance(fields, list)
            data[section] = fields if is_list else {**data.get(section, {}), **fields}  # type: ignore[dict-item] # YAML
        scratch = self.path.with_name("scratch")
        scratch.write_text(yaml.safe_dump(data), encoding="utf-8")
        scratch.replace(self.path)


@pytest.fixture
def file(tmp_path: Path, upstream: FakeRegistry) -> File:
    return File(tmp_path, upstream.url)


@pytest.fixture
async def mirror(file: File, tmp_path: Path) -> AsyncIterator[Mirror]:
    async with mirror_at(file.path, tmp_path / "cache") as up:
        yield up


@asynccontextmanager
async def mirror_at(path: Path, directory: Path) -> AsyncIterator[Mirror]:
    settings = config.load(path, {}).settings
    async with running(settings, source=path) as up, aiohttp.ClientSession() as session:
        yield Mirror(up, directory, session)


async def applied(mirror: Mirror) -> float:
    return await mirror.metric("mirror_config_reloads_total", outcome="applied")


async def test_policies_upstreams_and_names_follow(
    mirror: Mirror, file: File, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    assert (await mirror.get(manifest_path("v1"))).status == 200
    assert (await mirror.get("/v2/quay.io/team/app/manifests/v1")).status == 404
    assert (await mirror.get("/v2/_catalog")).status == 404
    async with FakeRegistry() as second:
        second.push("team/app", TWO, ["v1"])
        file.write(
            hub={"policy": {"deny": ["library/**"]}},
            upstreams={
                "docker.io": {"endpoints": [upstream.url], "policy": {"deny": ["library/**"]}},
                "quay.io": {"endpoints": [second.url]},
            },
            server={"catalog": True},
        )
        await mirror.up.reloading.reload()
        assert (await mirror.get(manifest_path("v1"))).status == 403
        assert (await mirror.get("/v2/quay.io/team/app/manifests/v1")).body == TWO.content
        assert (await mirror.get("/v2/_catalog")).status == 200
    assert await applied(mirror) == 1


async def test_who_may_pull_follows(mirror: Mirror, file: File, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    node = {"Authorization": "Bearer 0123456789abcdef"}
    tokens = file.path.with_name("tokens")
    tokens.write_text("node:0123456789abcdef")
    assert (await mirror.get(manifest_path("v1"))).status == 200
    auth: dict[str, Any] = {"tokens": {"file": str(tokens)}}
    file.write(server={"auth": auth})
    await mirror.up.reloading.reload()
    assert (await mirror.get(manifest_path("v1"))).status == 401
    assert (await mirror.get(manifest_path("v1"), node)).status == 200
    file.write(server={"auth": {**auth, "rules": [{"who": "user:other", "pull": ["**"]}]}})
    await mirror.up.reloading.reload()
    assert (await mirror.get(manifest_path("v1"), node)).status == 403
    file.write(hub={"policy": {"access": "verify"}})
    await mirror.up.reloading.reload()
    assert (await mirror.get(manifest_path("v1"))).status == 200, "it is public"
    assert upstream.requests[-1].method == "HEAD"
    file.write()
    await mirror.up.reloading.reload()
    assert (await mirror.get(manifest_path("v1"))).status == 200
    assert await applied(mirror) == 4


async def test_who_is_told_what_happens_follows(
    mirror: Mirror, file: File, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    async with Receiver() as receiver:
        file.write(webhooks=[{"url": receiver.url}])
        await mirror.up.reloading.reload()
        await mirror.get(manifest_path("v1"))
        await receiver.until(lambda: bool(receiver.requests))
        assert ONE.digest.encode() in receiver.requests[0].body
        file.write()
        await mirror.up.reloading.reload()
        await mirror.get(blob_path(ONE.config.digest))
        await mirror.settled()
        await receiver.quiet()
        assert len(receiver.requests) == 1


async def test_nothing_of_an_identity_provider_stays_when_it_goes(
    mirror: Mirror, file: File
) -> None:
    def known() -> int:
        gc.collect()
        return sum(isinstance(each, KubernetesTokens) for each in gc.get_objects())

    before = known()
    for number in range(3):
        kubernetes = {"url": f"https://127.0.0.1:{number + 1}", "audience": "mirror"}
        file.write(server={"auth": {"kubernetes": kubernetes}})
        await mirror.up.reloading.reload()
        assert known() == before + 1
    file.write()
    await mirror.up.reloading.reload()
    assert known() == before


async def test_what_is_under_way_goes_on(
    mirror: Mirror, file: File, upstream: FakeRegistry
) -> None:
    pushed = blob(4 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=MIB)
    async with FakeRegistry() as second:
        reading = asyncio.create_task(mirror.get(blob_path(pushed.digest)))
        await gate.reached.wait()
        file.write(second.url)
        await mirror.up.reloading.reload()
        gate.release()
        assert (await reading).body == pushed.content
        second.push(REPOSITORY, ONE, ["v1"])
        assert (await mirror.get(manifest_path("v1"))).body == ONE.content
        assert second.requests


@pytest.mark.parametrize("fault", [None, faults.status(429)], ids=["not found", "rate limit"])
async def test_who_waits_for_an_upstream_that_is_taken_away_is_told_so(
    mirror: Mirror, file: File, upstream: FakeRegistry, log_lines: io.StringIO, fault: Fault | None
) -> None:
    async with FakeRegistry() as second:
        both = {"docker.io": {"endpoints": [upstream.url]}, "quay.io": {"endpoints": [second.url]}}
        file.write(upstreams=both)
        await mirror.up.reloading.reload()
        gate = second.hold_head("manifest")
        if fault is not None:
            second.fail(fault, kind="manifest")
        asking = asyncio.create_task(mirror.get("/v2/quay.io/team/app/manifests/v1"))
        await gate.reached.wait()
        file.write()
        await mirror.up.reloading.reload()
        gate.release()
        got = await asking
    wanted = (404, "NAME_UNKNOWN") if fault is None else (503, "TOOMANYREQUESTS")
    assert (got.status, got.error_code) == wanted
    assert "Traceback" not in log_lines.getvalue()


async def test_an_upstream_that_stays_keeps_its_breaker_and_budget(
    mirror: Mirror, file: File, upstream: FakeRegistry
) -> None:
    upstream.options.manifest_headers = {
        "ratelimit-limit": "100;w=21600",
        "ratelimit-remaining": "7;w=21600",
    }
    upstream.push(REPOSITORY, ONE, ["v1"])
    await mirror.get(manifest_path("v1"))
    file.write(cache={"max_size": "256MiB"})
    await mirror.up.reloading.reload()
    async with mirror.session.get(f"{mirror.admin_url}/api/v1/ratelimit") as answer:
        assert (await answer.json())["rates"][0]["remaining"] == 7
    assert mirror.up.store.space.limit_bytes == 256 * MIB
    assert await mirror.metric("mirror_cache_limit_bytes") == 256 * MIB


async def test_a_lower_bound_holds_soon(mirror: Mirror, file: File, upstream: FakeRegistry) -> None:
    pushed = blob(2 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    await mirror.get(blob_path(pushed.digest))
    await mirror.settled()
    file.write(cache={"max_size": "1MiB"})
    await mirror.up.reloading.reload()
    await mirror.up.store.trim()
    assert mirror.up.store.space.used_bytes == 0


async def test_a_configuration_with_mistakes_changes_nothing(
    mirror: Mirror, file: File, upstream: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    for broken in ("policy: {tag_tll: 5m}", "{", "policy: {tag_ttl: never}"):
        file.path.write_text(broken)
        await mirror.up.reloading.reload()
        assert (await mirror.get(manifest_path("v1"))).status == 200
    assert await mirror.metric("mirror_config_reloads_total", outcome="refused") == 3
    assert await applied(mirror) == 0
    assert "tag_tll" in caplog.text


async def test_what_needs_a_restart_is_named(
    mirror: Mirror, file: File, caplog: pytest.LogCaptureFixture
) -> None:
    file.write(
        server={"listen": "127.0.0.1:1"},
        cache={"memory": "1MiB"},
        fill={"max_concurrent": 3, "range_wait": "9s"},
    )
    await mirror.up.reloading.reload()
    assert "['server.listen', 'cache.memory', 'fill.max_concurrent']" in caplog.text


async def test_it_is_named_again_as_long_as_it_waits(
    mirror: Mirror, file: File, caplog: pytest.LogCaptureFixture
) -> None:
    file.write(cache={"memory": "1MiB"})
    for _ in range(2):
        await mirror.up.reloading.reload()
    assert caplog.text.count("['cache.memory']") == 2


@pytest.mark.parametrize("what", ["auth", "verify"])
async def test_credentials_wait_for_the_tls_that_protects_them(
    tmp_path: Path, upstream: FakeRegistry, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Both are right in the new file, but TLS needs a restart."""
    upstream.push(REPOSITORY, ONE, ["v1"])
    file = File(tmp_path, upstream.url)
    everywhere = {"listen": "0.0.0.0:0"}
    file.write(server=everywhere)
    certificate, key = write_pair(tmp_path)
    users = tmp_path / "users"
    users.write_text("ann:$2b$04$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234\n")
    tls = {"certificate": str(certificate), "key": str(key)}
    async with mirror_at(file.path, tmp_path / "cache") as mirror:
        auth = {"htpasswd": {"file": str(users)}} if what == "auth" else None
        hub = {"policy": {"access": "verify"}} if what == "verify" else None
        file.write(server={**everywhere, "tls": tls, "auth": auth}, hub=hub)
        await mirror.up.reloading.reload()
        assert "without a restart" in caplog.text
        assert (await mirror.get(manifest_path("v1"))).status == 200
        assert await mirror.metric("mirror_config_reloads_total", outcome="refused") == 1


async def test_files_of_an_upstream_that_cannot_be_used_change_nothing(
    mirror: Mirror, file: File, upstream: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    wrong = file.path.with_name("ca.pem")
    wrong.write_text("no certificate")
    file.write(hub={"tls": {"ca": str(wrong)}, "policy": {"deny": ["library/**"]}})
    await mirror.up.reloading.reload()
    assert "upstreams.docker.io.tls: cannot be read" in caplog.text
    assert (await mirror.get(manifest_path("v1"))).status == 200
    file.write(hub={"policy": {"deny": ["library/**"]}})
    await mirror.up.reloading.reload()
    assert (await mirror.get(manifest_path("v1"))).status == 403


async def test_a_mistake_of_ours_does_not_end_reloading(
    mirror: Mirror, file: File, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(mirror.up.store, "reload", lambda *_: 1 / 0)
        await mirror.up.reloading.reload()
    assert "the configuration could not be applied" in caplog.text
    await mirror.up.reloading.reload()
    assert await applied(mirror) == 1


class Looks:
    """Counts how often somebody begins to look whether files have changed, and makes it often."""

    def __init__(self, reloading: Reloading) -> None:
        self._named = reloading._named
        self._count = 0
        reloading._look_every_seconds = 0.01
        reloading._named = self._look

    def _look(self) -> Sequence[Path]:
        self._count += 1
        return self._named()

    async def more(self, count: int) -> None:
        """Wait for so many more of them."""
        wanted = self._count + count
        async with asyncio.timeout(10):
            while self._count < wanted:  # noqa: ASYNC110 -- nothing tells of a look
                await asyncio.sleep(0.001)


async def test_a_renewed_authority_of_an_upstream_is_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, _, pem = loopback_tls()
    _, _, other = loopback_tls()
    ca = tmp_path / "ca.pem"
    ca.write_bytes(other)
    async with FakeRegistry(tls=server) as upstream:
        upstream.push(REPOSITORY, ONE, ["v1"])
        file = File(tmp_path, upstream.url)
        file.write(hub={"tls": {"ca": str(ca)}})
        async with mirror_at(file.path, tmp_path / "cache") as mirror:
            assert (await mirror.get(manifest_path("v1"))).status == 502
            looks = Looks(mirror.up.reloading)
            watching = asyncio.create_task(mirror.up.reloading.watch())
            await looks.more(2)  # with the second one, the first is over
            ca.write_bytes(pem)
            await mirror.becomes("mirror_config_reloads_total", 1, outcome="applied")
            assert (await mirror.get(manifest_path("v1"))).status == 200
            again = tmp_path / "again.pem"
            again.write_bytes(pem)
            file.write(hub={"tls": {"ca": str(again)}})
            await mirror.becomes("mirror_config_reloads_total", 2, outcome="applied")
            await looks.more(4)
            assert await applied(mirror) == 2, "another file is named, and it has not changed"
            watching.cancel()


async def test_what_upstreams_were_is_closed_in_the_end(
    mirror: Mirror, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = asyncio.Event()

    async def close(_registry: Registry) -> None:
        closed.set()

    monkeypatch.setattr(Registry, "close", close)
    for number in range(3):
        if number == 2:
            monkeypatch.setattr(upstreams, "_RETIRED_SECONDS", -1.0)
        assert not closed.is_set()
        file.write(hub={"policy": {"tag_ttl": f"{number + 1}m"}})
        await mirror.up.reloading.reload()
    async with asyncio.timeout(5):
        await closed.wait()


class Watched:
    """A file that is watched as a ConfigMap is mounted, by a link to a link to a directory."""

    def __init__(self, volume: Path, mirror: Mirror) -> None:
        self.volume = volume
        self.ttls: list[float] = []
        self.changed = asyncio.Event()
        self.reloading = Reloading(
            volume / "mirror.yaml",
            self,
            mirror.up.store.parts.pools.admin,
            mirror.up.metrics,
            look_every_seconds=0.01,
        )

    def __call__(self, settings: Settings) -> list[str]:
        self.ttls.append(settings.policy.tag_ttl_seconds)
        self.changed.set()
        return []

    async def next(self) -> float:
        async with asyncio.timeout(10):
            await self.changed.wait()
        self.changed.clear()
        return self.ttls[-1]


@pytest.fixture
async def watched(tmp_path: Path, mirror: Mirror) -> AsyncIterator[Watched]:
    volume = tmp_path / "volume"
    (volume / "first").mkdir(parents=True)
    (volume / "first/mirror.yaml").write_text("policy: {tag_ttl: 1m}")
    (volume / "data").symlink_to("first")
    (volume / "mirror.yaml").symlink_to("data/mirror.yaml")
    found = Watched(volume, mirror)
    watching = asyncio.create_task(found.reloading.watch())
    yield found
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_a_swapped_link_is_noticed(watched: Watched) -> None:
    watched.reloading.request()
    assert await watched.next() == 60
    for number in (2, 3):
        (watched.volume / str(number)).mkdir()
        (watched.volume / f"{number}/mirror.yaml").write_text(f"policy: {{tag_ttl: {number}m}}")
        (watched.volume / "new").symlink_to(str(number))
        (watched.volume / "new").replace(watched.volume / "data")
        assert await watched.next() == number * 60
    assert len(watched.ttls) == 3


async def test_a_signal_reloads_what_has_not_changed(watched: Watched) -> None:
    for count in (1, 2):
        watched.reloading.request()
        assert await watched.next() == 60
        assert len(watched.ttls) == count


async def test_a_file_that_is_gone_is_waited_for(watched: Watched) -> None:
    watched.reloading.request()
    await watched.next()
    (watched.volume / "data").unlink()
    (watched.volume / "data").symlink_to("first")
    (watched.volume / "first/mirror.yaml").write_text("policy: {tag_ttl: 5m}")
    assert await watched.next() == 300
