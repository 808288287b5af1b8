"""``mirror doctor``: each check as it is when all is well, and as it is when something is not."""

import asyncio
import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mirror import cli, config
from mirror.cli.doctor import clients, machine, network, serving
from mirror.cli.doctor.examining import examine
from mirror.cli.doctor.finding import Check, Finding, State, Verdict, doubtful, fine, wrong
from mirror.cli.doctor.plan import Wishes, diagnose
from mirror.cli.doctor.report import report
from mirror.domain.client_mirrors import ClientFileError, mirrors_in
from mirror.runtime.pools import Pool
from mirror.settings import Admin, Cache, ListenAddress, Server
from mirror.settings.server import Auth, AuthFile
from mirror.settings.units import SizeOrShare
from mirror.store import fitness
from mirror.store.fitness import FileSystem
from tests.fakes import auth, faults
from tests.fakes.answers import Answer, text
from tests.fakes.auth import BasicGuard, Challenge
from tests.fakes.certificates import Authority
from tests.fakes.content import image
from tests.fakes.origin import Origin
from tests.fakes.profiles import hub
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.fakes.tls import loopback_tls
from tests.fakes.wire import Kind, Recorded
from tests.harness import ANY_PORT, Mirror, mirror_of
from tests.unit.upstream.pulling import PASSWORD, REPOSITORY, USER, guarded

IMAGE = image()
HUB = "upstream docker.io"
ANY = "127.0.0.1:0"


@pytest.fixture(autouse=True)
def _only_what_a_test_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "SEARCHED", (Path("mirror.yaml"),))
    for name in list(os.environ):
        if name.startswith("MIRROR_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def written(folder: Path, **more: Any) -> Path:  # noqa: ANN401 -- any section
    """Write a configuration without the well-known registries, which are far away."""
    document = {
        "server": {"listen": ANY, "admin_listen": ANY},
        "cache": {"directory": str(folder / "cache"), "max_size": "512MiB", "min_free": "0"},
        "builtin_upstreams": False,
        "upstreams": {"docker.io": {"endpoints": ["http://127.0.0.1:9"]}},
        **more,
    }
    path = folder / "mirror.yaml"
    path.write_text(json.dumps(document))
    return path


async def looked_at(
    folder: Path,
    *,
    wishes: Mapping[str, Any] | None = None,
    **more: Any,  # noqa: ANN401 -- as above
) -> dict[str, Finding]:
    """Return the findings for a configuration, by group and name."""
    asked = {"root": folder / "root", **(wishes or {})}
    findings = await diagnose(Wishes(config=written(folder, **more), **asked), {})
    return {f"{each.group}/{each.name}": each for each in findings}


async def upstream_looked_at(folder: Path, url: str, **more: object) -> dict[str, Finding]:
    """Return the findings on docker.io at a URL, by name."""
    found = await looked_at(folder, upstreams={"docker.io": {"endpoints": [url], **more}})
    return {key.partition("/")[2]: each for key, each in found.items() if key.startswith(HUB)}


def states(findings: Mapping[str, Finding]) -> dict[str, State]:
    return {key: each.state for key, each in findings.items()}


def with_date(seconds_ahead: float) -> Fault:
    def dated(_request: Recorded, answer: Answer) -> Answer:
        date = formatdate(time.time() + seconds_ahead, usegmt=True)
        answer.headers.append(("Date", date))
        return answer

    return dated


# --- the whole --------------------------------------------------------------------------------


async def running_mirror(
    mirror: Mirror, folder: Path, registry: FakeRegistry, **server: object
) -> dict[str, Finding]:
    """Return the findings for a mirror that runs, with what else its section ``server`` says."""
    server |= {"listen": str(mirror.up.listen), "admin_listen": str(mirror.up.admin_listen)}
    return await looked_at(
        folder,
        wishes={"image": f"{REPOSITORY}:v1"},
        server=server,
        upstreams={"docker.io": {"endpoints": [registry.url]}},
    )


async def test_all_is_well(
    tmp_path: Path, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch)  # these tests may run in a container, or in memory
    upstream.push(REPOSITORY, IMAGE, tags=["v1"])
    upstream.fail(with_date(0))
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        found = await running_mirror(mirror, tmp_path, upstream)
    assert states(found) == {
        "configuration/configuration": State.OK,
        "this machine/directory": State.OK,
        "this machine/space": State.OK,
        "this machine/index": State.OK,
        "this machine/port": State.OK,
        "this machine/admin port": State.OK,
        "network/proxy": State.OK,
        f"{HUB}/dns": State.OK,
        f"{HUB}/answer": State.OK,
        f"{HUB}/account": State.OK,
        f"{HUB}/pull limit": State.SKIPPED,
        "this machine/clock": State.OK,
        "the mirror/ready": State.OK,
        "the mirror/pull": State.OK,
        "clients/configuration": State.SKIPPED,
    }
    assert "in use by a running mirror" in found["this machine/directory"].found
    assert found["this machine/port"].found.endswith("is held by the running mirror")
    assert "2 layers" in found["the mirror/pull"].found


async def test_a_stopped_mirror_is_no_failure(tmp_path: Path, upstream: FakeRegistry) -> None:
    found = await looked_at(tmp_path, upstreams={"docker.io": {"endpoints": [upstream.url]}})
    assert State.FAILED not in states(found).values()
    assert found["the mirror/ready"].state is State.SKIPPED
    assert found["the mirror/pull"].found == "not tried: see ready"
    assert not (tmp_path / "cache").exists(), "a look must not make anything"


async def test_offline_says_what_cannot_be_reached(tmp_path: Path) -> None:
    found = await upstream_looked_at(tmp_path, "http://127.0.0.1:9")
    assert found["answer"].state is State.FAILED
    assert "HTTPS_PROXY" in found["answer"].remedy
    assert found["account"].found == "not tried: see answer"


async def test_files_of_an_upstream_that_cannot_be_used_do_not_hide_the_rest(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("no certificate")
    found = await looked_at(
        tmp_path,
        upstreams={
            "docker.io": {"endpoints": [upstream.url]},
            "quay.io": {"endpoints": [upstream.url], "tls": {"ca": str(ca)}},
        },
    )
    files = found["upstream quay.io/tls files"]
    assert files.state is State.FAILED
    assert "upstreams.quay.io.tls: cannot be read" in files.found
    assert found[f"{HUB}/answer"].state is State.OK


async def test_a_broken_configuration_does_not_hide_the_rest(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    found = await looked_at(
        tmp_path,
        upstreams={"docker.io": {"endpoints": [upstream.url], "polici": 1}},
        log={"level": "loud"},
    )
    broken = found["configuration/configuration"]
    assert broken.state is State.FAILED
    assert "polici" in broken.found
    assert "log.level" in broken.found
    assert "mirror config check" in broken.remedy
    assert found[f"{HUB}/answer"].state is State.OK, "what is right in the file still counts"
    assert str(tmp_path / "cache") in found["this machine/directory"].found


@pytest.mark.parametrize(
    "content", [b"\xff", b"server: [", b"- 1", b"server: 3", b"nothing: {}", b"pins: [{}]"]
)
async def test_whatever_the_file_holds_there_is_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(network.UpstreamChecks, "checks", lambda _: iter(()))  # they are far away
    path = tmp_path / "mirror.yaml"
    path.write_bytes(content)
    environ = {"MIRROR_SERVER__LISTEN": ANY, "MIRROR_SERVER__ADMIN_LISTEN": ANY, "HOME": "/nix"}
    findings = await diagnose(Wishes(config=path, root=tmp_path, pull=False), environ)
    assert findings[0].state is State.FAILED
    assert len(findings) > 5


async def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.UpstreamChecks, "checks", lambda _: iter(()))
    wishes = Wishes(config=tmp_path / "none.yaml", root=tmp_path, pull=False)
    findings = await diagnose(wishes, {"MIRROR_SERVER__LISTEN": ANY})
    assert findings[0].state is State.FAILED
    assert "none.yaml" in findings[0].found


async def test_no_secret_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{USER}:{PASSWORD}@127.0.0.1:9")
    async with guarded() as site:
        site.tokens.tokens.users = {USER: "another"}
        credentials = {"username": USER, "password": PASSWORD}
        found = await upstream_looked_at(
            tmp_path, site.registry.url, credentials=credentials, realms=[site.tokens.host]
        )
    assert PASSWORD not in json.dumps([each.found + each.remedy for each in found.values()])
    everything = await looked_at(tmp_path)
    proxy = everything["network/proxy"].found
    assert "127.0.0.1:9" in proxy
    assert PASSWORD not in proxy


# --- time -------------------------------------------------------------------------------------


def check(name: str, examine_it: Callable[[], Any], **more: Any) -> Check:  # noqa: ANN401 -- fields of Check
    return Check(group="g", name=name, examine=examine_it, **more)


async def forever() -> Verdict:
    await asyncio.Event().wait()
    raise AssertionError


async def at_once() -> Verdict:
    return fine("yes")


async def broken() -> Verdict:
    raise RuntimeError("a mistake")


async def test_each_check_has_its_own_time() -> None:
    checks = [check("slow", forever, limit_seconds=0.01), check("quick", at_once)]
    slow, quick = await examine(checks)
    assert (slow.state, quick.state) == (State.FAILED, State.OK)
    assert "no result within" in slow.found


async def test_all_of_them_have_one_time_together() -> None:
    checks = [
        check("slow", forever),
        check("after", at_once, after=("g/slow",)),
        check("needs", at_once, needs=("g/slow",)),
    ]
    found = await examine(checks, total_seconds=0.02)
    assert [each.state for each in found] == [State.FAILED, State.OK, State.SKIPPED]


async def test_a_check_that_breaks_does_not_hide_the_others() -> None:
    bad, good = await examine([check("bad", broken), check("good", at_once)])
    assert (bad.state, good.state) == (State.FAILED, State.OK)
    assert "RuntimeError: a mistake" in bad.found


async def test_it_ends_when_everything_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        found = await looked_at(
            tmp_path,
            wishes={"total_seconds": 0.4},
            upstreams={name: {"endpoints": [url]} for name in ("docker.io", "quay.io")},
        )
    assert time.monotonic() - started < 2
    assert found["upstream quay.io/answer"].state is State.FAILED


# --- this machine -----------------------------------------------------------------------------


def on(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:  # noqa: ANN401 -- fields of FileSystem
    usual = {
        "kind": "ext4",
        "mount_point": "/",
        "total_bytes": 100 << 30,
        "free_bytes": 50 << 30,
        "free_inodes": 10**6,
    }
    monkeypatch.setattr(fitness, "_file_system", lambda _: FileSystem(**{**usual, **facts}))


@pytest.mark.parametrize(
    ("kind", "state", "words"),
    [
        ("ext4", State.OK, "on ext4"),
        ("nfs4", State.WARNING, "local disk"),
        ("cifs", State.WARNING, "local disk"),
        ("fuse.sshfs", State.WARNING, "local disk"),
        ("tmpfs", State.WARNING, "empty after a restart"),
        ("overlay", State.WARNING, "mount a volume"),
    ],
)
def test_what_the_directory_stands_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, state: State, words: str
) -> None:
    on(monkeypatch, kind=kind)
    verdict = machine.directory(Cache(directory=tmp_path / "cache"))
    assert verdict.state is state
    assert words in verdict.found + verdict.remedy


def test_the_file_system_is_the_real_one(tmp_path: Path) -> None:
    seen = fitness.look_at(tmp_path / "a" / "b")
    assert seen.standing == tmp_path
    assert seen.file_system.kind
    assert str(tmp_path).startswith(seen.file_system.mount_point)
    assert seen.file_system.total_bytes >= seen.file_system.free_bytes > 0


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    verdict = machine.directory(Cache(directory=tmp_path / "cache"))
    assert verdict.state is State.FAILED
    assert "is not a directory" in verdict.found


def test_a_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    verdict = machine.directory(Cache(directory=tmp_path / "cache"))
    assert verdict.state is State.FAILED
    assert "cannot be written" in verdict.found
    assert "install -d" in verdict.remedy


def test_a_directory_of_a_later_version(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("99\n")
    verdict = machine.directory(Cache(directory=tmp_path))
    assert verdict.state is State.FAILED
    assert "'99'" in verdict.found


def test_a_directory_that_may_not_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitness, "_version", lambda _: ("", None))
    verdict = machine.directory(Cache(directory=tmp_path))
    assert verdict.state is State.SKIPPED
    assert "as the user of the mirror" in verdict.remedy


@pytest.mark.parametrize(
    ("facts", "state", "words"),
    [
        ({}, State.OK, "50.0 GiB of 100.0 GiB free"),
        ({"free_bytes": 1 << 30}, State.FAILED, "cache.min_free"),
        ({"free_inodes": 5}, State.FAILED, "5 inodes"),
        ({"total_bytes": 20 << 30, "free_bytes": 15 << 30}, State.WARNING, "cache.max_size"),
    ],
)
def test_space(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    facts: dict[str, int],
    state: State,
    words: str,
) -> None:
    on(monkeypatch, **facts)
    verdict = machine.space(Cache(directory=tmp_path, min_free=SizeOrShare(share=0.05)))
    assert verdict.state is state
    assert words in verdict.found


async def test_an_index_at_rest_is_read_and_left_as_it_is(
    tmp_path: Path, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mirror_of(tmp_path, {"docker.io": upstream}):
        pass
    before = sorted(path.name for path in (tmp_path / "index").iterdir())
    assert machine.index(tmp_path).state is State.OK
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == before
    monkeypatch.setattr(fitness, "_STEPS", 1)
    assert fitness.check_index(tmp_path, -1).state is fitness.IndexState.LARGE
    monkeypatch.undo()

    with sqlite3.connect(tmp_path / "index" / "cache.db") as database:
        database.execute("DELETE FROM Cache WHERE key = 'complete-2'")
    database.close()
    unfinished = machine.index(tmp_path)
    assert unfinished.state is State.WARNING
    assert "not built to its end" in unfinished.found

    (tmp_path / "index" / "cache.db").write_bytes(b"no database at all" * 1000)
    damaged = machine.index(tmp_path)
    assert damaged.state is State.WARNING
    assert "restart the mirror" in damaged.remedy


def test_no_index(tmp_path: Path) -> None:
    assert machine.index(tmp_path).state is State.SKIPPED


@pytest.mark.parametrize(
    ("ahead", "state", "words"),
    [
        ({}, State.SKIPPED, "no upstream"),
        ({"a": 1.0, "b": -0.5}, State.OK, "2 upstreams"),
        ({"a": 90.0}, State.WARNING, "90 s behind a"),
        ({"a": -4000.0, "b": -4001.0, "c": 0.0}, State.FAILED, "4000 s ahead of a"),
    ],
)
def test_the_clock(ahead: dict[str, float], state: State, words: str) -> None:
    verdict = machine.clock(ahead)
    assert verdict.state is state
    assert words in verdict.found


async def test_the_clock_is_told_by_upstreams(tmp_path: Path, upstream: FakeRegistry) -> None:
    upstream.fail(with_date(3600))
    found = await looked_at(tmp_path, upstreams={"docker.io": {"endpoints": [upstream.url]}})
    assert found["this machine/clock"].state is State.FAILED
    assert "behind docker.io" in found["this machine/clock"].found


async def port_looked_at(address: ListenAddress) -> Verdict:
    pool = Pool("test", 1, may_hang=True)
    try:
        return await pool.run(serving.port, address, None, "server.listen", in_use=False)
    finally:
        pool.close()


async def test_a_port_that_somebody_else_has() -> None:
    async with Origin() as other:
        verdict = await port_looked_at(ListenAddress("127.0.0.1", other.port))
    assert verdict.state is State.FAILED
    assert f"sport = :{other.port}" in verdict.remedy


async def test_ports_of_another_mirror(mirror: Mirror) -> None:
    for address in (mirror.up.listen, mirror.up.admin_listen):
        verdict = await port_looked_at(address)
        assert verdict.state is State.WARNING
        assert "does not use this cache directory" in verdict.found


def test_a_port_that_is_free_although_the_mirror_runs() -> None:
    address = ListenAddress("127.0.0.1", 0)
    assert serving.port(address, None, "server.listen", in_use=True).state is State.WARNING
    assert serving.port(address, None, "server.listen", in_use=False).state is State.OK


def test_an_address_that_is_not_ours() -> None:
    verdict = serving.port(ListenAddress("192.0.2.1", 5000), None, "server.listen", in_use=False)
    assert verdict.state is State.FAILED


def test_certificates_of_the_listeners(tmp_path: Path) -> None:
    tls = Authority(tmp_path).server()  # good from yesterday until tomorrow
    now = datetime.now(UTC)
    for days, state, words in (
        (0, State.WARNING, "server.tls: good until"),
        (2, State.FAILED, "it was good until"),
        (-2, State.FAILED, "it is good from"),
    ):
        verdict = machine.certificate(tls, "server.tls", now + timedelta(days=days))
        assert verdict.state is state
        assert words in verdict.found
    tls.key.write_text("no key")
    assert machine.certificate(tls, "server.tls", now).state is State.FAILED


# --- upstreams --------------------------------------------------------------------------------


async def test_a_name_without_an_address(tmp_path: Path) -> None:
    found = await upstream_looked_at(tmp_path, "http://no-such-host.invalid")
    assert found["dns"].state is State.FAILED
    assert "resolv.conf" in found["dns"].remedy
    assert found["answer"].found == "not tried: see dns"


async def test_a_proxy_does_the_look_up(tmp_path: Path, upstream: FakeRegistry) -> None:
    found = await upstream_looked_at(tmp_path, "http://far.invalid", proxy=upstream.url)
    assert found["dns"].found == "left to the proxy"
    assert found["answer"].state is State.OK


@pytest.mark.parametrize(
    ("expired", "trusted", "state", "words"),
    [
        (False, True, State.WARNING, "days left"),
        (True, True, State.FAILED, "certificate has expired"),
        (False, False, State.FAILED, "self-signed certificate"),
    ],
)
async def test_certificates(
    tmp_path: Path,
    expired: bool,  # noqa: FBT001 -- a column of the table
    trusted: bool,  # noqa: FBT001 -- as above
    state: State,
    words: str,
) -> None:
    server, _, pem = loopback_tls(expired=expired)
    (tmp_path / "ca.pem").write_bytes(pem)
    tls = {"ca": str(tmp_path / "ca.pem")} if trusted else {}
    async with FakeRegistry(tls=server) as registry:
        found = await upstream_looked_at(tmp_path, registry.url, tls=tls)
    assert found["tls"].state is state
    assert words in found["tls"].found
    assert "upstreams.docker.io.tls.ca" in found["tls"].remedy or state is State.WARNING
    assert (found["answer"].state is State.OK) is (state is State.WARNING)


async def test_a_certificate_that_nobody_checks(tmp_path: Path) -> None:
    server, _, _ = loopback_tls(expired=True)
    async with FakeRegistry(tls=server) as registry:
        found = await upstream_looked_at(tmp_path, registry.url, tls={"insecure": True})
    assert found["tls"].state is State.WARNING
    assert found["answer"].state is State.OK


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (faults.status(503), State.FAILED),
        (faults.status(429), State.WARNING),
        (faults.status(404), State.FAILED),
        (faults.no_answer(), State.FAILED),
        (faults.status(403), State.OK),
    ],
    ids=["503", "429", "404", "cut", "403"],
)
async def test_answers(tmp_path: Path, upstream: FakeRegistry, fault: Fault, state: State) -> None:
    upstream.fail(fault, kind=Kind.PING)
    found = await upstream_looked_at(tmp_path, upstream.url)
    assert found["answer"].state is state
    assert found["answer"].remedy or state is State.OK


async def test_an_upstream_that_is_never_asked(tmp_path: Path, upstream: FakeRegistry) -> None:
    found = await upstream_looked_at(tmp_path, upstream.url, policy={"mode": "offline"})
    assert states(found) == {"answer": State.SKIPPED}
    assert not upstream.requests


async def test_each_endpoint_is_looked_at(tmp_path: Path, upstream: FakeRegistry) -> None:
    endpoints = ["http://127.0.0.1:9", upstream.url]
    found = await looked_at(
        tmp_path, upstreams={"quay.io": {"endpoints": endpoints}}, default_upstream="quay.io"
    )
    group = "upstream quay.io"
    assert found[f"{group}/answer 127.0.0.1:9"].state is State.FAILED
    assert found[f"{group}/answer {upstream.authority}"].state is State.OK


@pytest.mark.parametrize(
    ("password", "state", "words"),
    [
        (None, State.OK, "anonymous: token given"),
        (PASSWORD, State.OK, "default: token given"),
        ("wrong", State.FAILED, "default: refused"),
    ],
)
async def test_tokens(tmp_path: Path, password: str | None, state: State, words: str) -> None:
    async with guarded() as site:
        site.tokens.tokens.users = {USER: PASSWORD}
        credentials = [{"username": USER, "password": password}] if password else []
        found = await upstream_looked_at(
            tmp_path, site.registry.url, credentials=credentials, realms=[site.tokens.host]
        )
    assert found["account"].state is state
    assert words in found["account"].found


@pytest.mark.parametrize(
    ("password", "state", "words"),
    [
        (None, State.WARNING, "the anonymous gets nothing here"),
        (PASSWORD, State.OK, "default: login accepted"),
        ("wrong", State.FAILED, "default: refused"),
    ],
)
async def test_tokens_for_what_the_account_may_not_see(
    tmp_path: Path, password: str | None, state: State, words: str
) -> None:
    """The front door names a scope of its own, which says nothing of the account."""
    async with guarded() as site:
        site.tokens.tokens.users = {USER: PASSWORD}
        site.tokens.tokens.policy = lambda *_: auth.Verdict.DENIED
        site.registry.guard = site.tokens.guard(Challenge(scope="repository:closed:pull"))
        credentials = [{"username": USER, "password": password}] if password else []
        found = await upstream_looked_at(
            tmp_path, site.registry.url, credentials=credentials, realms=[site.tokens.host]
        )
    assert found["account"].state is state
    assert words in found["account"].found


@pytest.mark.parametrize(
    ("password", "state"), [(None, State.WARNING), (PASSWORD, State.OK), ("no", State.FAILED)]
)
async def test_passwords(
    tmp_path: Path, upstream: FakeRegistry, password: str | None, state: State
) -> None:
    upstream.guard = BasicGuard(users={USER: PASSWORD})
    credentials = [{"username": USER, "password": password}] if password else []
    found = await upstream_looked_at(tmp_path, upstream.url, credentials=credentials)
    assert found["account"].state is state


async def test_a_file_of_a_secret_that_is_empty(tmp_path: Path, upstream: FakeRegistry) -> None:
    (tmp_path / "token").write_text("\n")
    credentials = {"token_file": str(tmp_path / "token")}
    found = await upstream_looked_at(tmp_path, upstream.url, credentials=credentials)
    assert found["account"].state is State.FAILED
    assert "upstreams.docker.io.credentials" in found["account"].remedy


@pytest.mark.parametrize(
    ("used", "state", "words"),
    [
        (0, State.OK, "anonymous: 100 of 100 left in 6h"),
        (95, State.WARNING, "5 of 100"),
        (100, State.FAILED, "0 of 100"),
    ],
)
async def test_the_pull_limit_costs_no_pull(
    tmp_path: Path, used: int, state: State, words: str
) -> None:
    async with hub() as site:
        assert site.budget is not None
        site.budget.used = used
        site.registry.push("ratelimitpreview/test", IMAGE, tags=["latest"])
        realm = site.token_origin
        assert realm is not None
        found = await upstream_looked_at(tmp_path, site.url, realms=[realm.host])
        assert site.budget.used == used
    assert found["pull limit"].state is state
    assert words in found["pull limit"].found
    manifests = site.registry.matching(kind=Kind.MANIFEST)
    assert {each.method for each in manifests} == {"HEAD"}


async def test_a_registry_without_a_limit(tmp_path: Path, upstream: FakeRegistry) -> None:
    upstream.push("ratelimitpreview/test", IMAGE, tags=["latest"])
    found = await upstream_looked_at(tmp_path, upstream.url)
    assert found["pull limit"].found == "anonymous: no limit"


# --- the mirror -------------------------------------------------------------------------------


async def elsewhere(mirror: Mirror, folder: Path, **wishes: object) -> dict[str, Finding]:
    asked = {"url": mirror.url, "admin_url": mirror.admin_url, "image": f"{REPOSITORY}:v1"}
    return await looked_at(folder, wishes={**asked, **wishes})


async def test_a_mirror_somewhere_else(
    tmp_path: Path, mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, IMAGE, tags=["v1"])
    found = await elsewhere(mirror, tmp_path)
    assert states(found) == {
        "configuration/configuration": State.OK,
        "the mirror/registry": State.OK,
        "the mirror/ready": State.OK,
        "the mirror/pull": State.OK,
    }


async def test_a_mirror_somewhere_else_that_is_not_ready(tmp_path: Path, mirror: Mirror) -> None:
    mirror.up.health.draining = True
    found = await elsewhere(mirror, tmp_path, pull=False)
    assert found["the mirror/ready"].state is State.FAILED
    assert "draining" in found["the mirror/ready"].found


async def test_nobody_somewhere_else(tmp_path: Path) -> None:
    wishes = {"url": "http://127.0.0.1:9", "admin_url": "http://127.0.0.1:9"}
    found = await looked_at(tmp_path, wishes=wishes)
    assert found["the mirror/registry"].state is State.FAILED
    assert found["the mirror/ready"].state is State.FAILED
    assert found["the mirror/pull"].state is State.SKIPPED


async def test_something_else_somewhere_else(tmp_path: Path, upstream: FakeRegistry) -> None:
    found = await looked_at(tmp_path, wishes={"url": upstream.url})
    assert "not as a Mirror" in found["the mirror/registry"].found


async def test_a_pull_that_upstream_denies(tmp_path: Path, mirror: Mirror) -> None:
    found = await elsewhere(mirror, tmp_path)
    assert found["the mirror/pull"].state is State.FAILED
    assert "404: MANIFEST_UNKNOWN" in found["the mirror/pull"].found


async def test_a_pull_of_what_is_mirrored_by_nobody(tmp_path: Path, mirror: Mirror) -> None:
    found = await elsewhere(mirror, tmp_path, image="quay.io/a/b:v1")
    assert found["the mirror/pull"].state is State.FAILED
    mine = {"quay.io": {"endpoints": ["http://127.0.0.1:9"]}}
    none = await looked_at(
        tmp_path, wishes={"url": mirror.url}, upstreams=mine, default_upstream="quay.io"
    )
    assert "--image" in none["the mirror/pull"].remedy


class Liar(Origin):
    """Looks like a Mirror, and sends other bytes than their digest names."""

    def __init__(self, registry: FakeRegistry, wrong_kind: Kind) -> None:
        super().__init__()
        self._registry = registry
        self._wrong_kind = wrong_kind

    def classify(self, request: Recorded) -> None:
        self._registry.classify(request)

    def answer(self, request: Recorded) -> Answer:
        answer = self._registry.answer(request)
        answer.headers.append(("Server", "mirror"))
        if request.kind is self._wrong_kind:
            wrong_answer = text(200, "x" * 20)
            wrong_answer.headers += [
                pair for pair in answer.headers if pair[0].lower().startswith("docker-")
            ]
            return wrong_answer
        return answer


@pytest.mark.parametrize("kind", [Kind.MANIFEST, Kind.BLOB])
async def test_wrong_bytes_are_found(tmp_path: Path, upstream: FakeRegistry, kind: Kind) -> None:
    upstream.push(f"docker.io/{REPOSITORY}", IMAGE, tags=["v1"])
    async with Liar(upstream, kind) as liar:
        found = await looked_at(tmp_path, wishes={"url": liar.url, "image": f"{REPOSITORY}:v1"})
    assert found["the mirror/pull"].state is State.FAILED
    assert "other bytes than its digest names" in found["the mirror/pull"].found


async def test_a_mirror_that_speaks_tls(tmp_path: Path, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, IMAGE, tags=["v1"])
    tls = Authority(tmp_path).server()
    server = Server(
        listen=ANY_PORT, admin_listen=ANY_PORT, tls=tls, admin=Admin(tls=tls),
        shutdown_grace_seconds=1,
    )  # fmt: skip
    pair = {"certificate": str(tls.certificate), "key": str(tls.key)}
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, server=server) as mirror:
        here = await running_mirror(mirror, tmp_path, upstream, tls=pair, admin={"tls": pair})
        wishes = {
            "url": f"https://127.0.0.1:{mirror.port}",
            "admin_url": mirror.admin_url.replace("http:", "https:"),
            "image": f"{REPOSITORY}:v1",
        }
        doubted = await looked_at(tmp_path, wishes=wishes)
        believed = await looked_at(tmp_path, wishes={**wishes, "insecure": True})
    assert here["this machine/certificate"].state is State.WARNING, "one more day"
    assert here["this machine/admin certificate"].found.startswith("server.admin.tls: ")
    assert here["this machine/port"].state is State.OK
    assert here["this machine/admin port"].state is State.OK
    assert here["the mirror/pull"].state is State.OK
    assert "certificate" in doubted["the mirror/registry"].found
    assert set(states(believed).values()) == {State.OK}


async def test_a_mirror_that_wants_to_know_who_pulls(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    (tmp_path / "tokens").write_text("somebody:0123456789abcdef0123456789abcdef\n")
    auth = Auth(tokens=AuthFile(file=tmp_path / "tokens"))
    server = Server(listen=ANY_PORT, admin_listen=ANY_PORT, auth=auth, shutdown_grace_seconds=1)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, server=server) as mirror:
        found = await elsewhere(mirror, tmp_path)
    assert found["the mirror/registry"].state is State.OK
    assert found["the mirror/pull"].state is State.SKIPPED


# --- clients ----------------------------------------------------------------------------------

HOSTS = '[host."http://127.0.0.1:5000"]\n'
LISTEN = ListenAddress("", 5000)


def put(root: Path, name: str, content: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("hosts.toml", HOSTS),
        ("daemon.json", '{"registry-mirrors": ["http://127.0.0.1:5000"]}'),
        (
            "registries.conf",
            '[[registry]]\n[[registry.mirror]]\nlocation = "127.0.0.1:5000"\ninsecure = true\n',
        ),
        ("registries.yaml", 'mirrors: {docker.io: {endpoint: ["http://127.0.0.1:5000"]}}'),
    ],
)
def test_files_of_clients(name: str, content: str) -> None:
    assert mirrors_in(Path(name), content) == ["http://127.0.0.1:5000"]
    with pytest.raises(ClientFileError):
        mirrors_in(Path(name), '{"[')
    with pytest.raises(ClientFileError):
        mirrors_in(
            Path(name),
            {
                "hosts.toml": "host = 3",
                "daemon.json": "[]",
                "registries.conf": "registry = 3",
                "registries.yaml": "- 1",
            }[name],
        )


def test_clients_that_are_told_of_us(tmp_path: Path) -> None:
    path = put(tmp_path, "etc/containerd/certs.d/docker.io/hosts.toml", HOSTS)
    without = clients.client(path, tmp_path, LISTEN)
    assert without.state is State.WARNING
    assert "config_path" in without.remedy
    put(tmp_path, "etc/containerd/config.toml", '  config_path = "/etc/containerd/certs.d"\n')
    assert clients.client(path, tmp_path, LISTEN).state is State.OK
    assert clients.client(path, tmp_path, ListenAddress("", 5050)).state is State.SKIPPED
    path.write_text('[host."')
    assert clients.client(path, tmp_path, LISTEN).state is State.FAILED


def test_files_that_say_nothing_of_mirrors_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "etc/containers/registries.conf", 'unqualified-search-registries = ["a"]\n')
    put(tmp_path, "etc/docker/daemon.json", '{"registry-mirrors": ["http://10.0.0.1:5000"]}')
    put(tmp_path, "etc/rancher/k3s/registries.yaml", "{")
    assert [name for name, _ in clients.found_files(tmp_path)] == ["docker", "k3s"]


# --- what is printed --------------------------------------------------------------------------


def finding(name: str, verdict: Verdict, group: str = "g") -> Finding:
    return Finding(group, name, verdict.state, verdict.found, verdict.remedy, 0.0)


def test_the_report() -> None:
    findings = [
        finding("one", fine("good")),
        finding("two", wrong("bad\nworse", "mend it"), "h"),
        finding("three", doubtful("so so", "look")),
        finding("four", Verdict(State.SKIPPED, "not tried: see two"), "h"),
        finding("five", Verdict(State.SKIPPED, "not tried: see two"), "h"),
    ]
    assert report(findings, colours=False, unicode=True).splitlines() == [
        "g",
        "  ✓ one    good",
        "  ! three  so so",
        "           → look",
        "",
        "h",
        "  ✗ two    bad",
        "           worse",
        "           → mend it",
        "  - not tried  four, five",
        "",
        "5 checks: 1 fine, 1 warning, 1 failed, 2 left out.",
    ]
    plain = report(findings, colours=True, unicode=False)
    assert plain.isascii()
    assert "\x1b[31m" in plain


def test_the_command_and_its_exit_code(tmp_path: Path) -> None:
    written(tmp_path, upstreams={"docker.io": {"policy": {"mode": "offline"}}})
    good = CliRunner().invoke(cli.app, ["doctor", "--json", "--no-pull"])
    assert good.exit_code == 0, good.output
    told = json.loads(good.stdout)
    assert told["ok"] is True
    assert {"group", "name", "state", "found", "remedy", "seconds"} == set(told["checks"][0])
    (tmp_path / "cache").write_text("")
    bad = CliRunner().invoke(cli.app, ["doctor", "--no-pull"])
    assert bad.exit_code == 1
    assert "is not a directory" in bad.stdout


def test_an_address_that_is_none() -> None:
    assert cli.run(["doctor", "--url", "127.0.0.1:5000"]) == 2
