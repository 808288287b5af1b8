"""An upstream that would have the mirror ask where only the mirror gets (S2 to S4, S20)."""

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from mirror.settings import Upstream
from tests.fakes import faults
from tests.fakes.auth import FakeTokenServer
from tests.fakes.cdn import FakeCdn
from tests.fakes.content import Blob, blob, image
from tests.fakes.registry import FakeRegistry, Redirect
from tests.fakes.wire import Kind, Recorded
from tests.harness import LOOPBACK, Got, Mirror, mirror_of
from tests.unit.upstream import pulling
from tests.unit.upstream.pulling import PASSWORD, REPOSITORY, account, mirrored

Entry = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]
IMAGE = image()


@dataclass(slots=True)
class Names:
    """A name service of the attacker: each name has its addresses, one list after the other."""

    answers: dict[str, list[list[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __call__(self, host: str, port: int, *_: object, **__: object) -> list[Entry]:
        self.asked.append(host)
        lists = self.answers[host]
        addresses = lists.pop(0) if len(lists) > 1 else lists[0]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in addresses
        ]


@dataclass(slots=True)
class Attack:
    """A registry under the attacker's control, and a service on the mirror's own machine."""

    registry: FakeRegistry
    service: FakeCdn
    pushed: Blob

    def leads_to(self, locate: Callable[[Recorded], str]) -> None:
        self.registry.redirects[Kind.BLOB] = Redirect(locate=locate)

    async def pull(self, mirror: Mirror) -> Got:
        return await mirror.get(pulling.blob(self.pushed.digest))

    def near(self, host: str) -> str:
        """Return a URL that the service would answer, under another host."""
        return f"http://{host}:{self.service.port}/x"


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    names, real = Names(), socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: int, **more: int) -> object:
        return names(host, port) if host in names.answers else real(host, port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@pytest.fixture
async def attack() -> AsyncIterator[Attack]:
    async with FakeRegistry() as registry, FakeCdn() as service:
        pushed = blob(1000)
        registry.push_blob(REPOSITORY, pushed)
        yield Attack(registry, service, pushed)


def _near(attack: Attack, host: str, _request: Recorded) -> str:
    return attack.near(host)


def strictly(attack: Attack, **more: object) -> Upstream:
    """The registry alone is named."""
    fields = {"endpoints": (attack.registry.url,), **more}
    return Upstream.model_validate(fields, by_name=True)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "0x7f000001", "localhost", "[::1]", "0.0.0.0"),  # noqa: S104 -- to be refused
        *("[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "169.254.169.254"),
        *("[fd00:ec2::254]", "rebound.example", "both.example"),
    ],
)
async def test_s04_a_redirect_does_not_reach_private_networks(
    attack: Attack, names: Names, tmp_path: Path, host: str
) -> None:
    names.answers["rebound.example"] = [["127.0.0.1"]]
    names.answers["both.example"] = [["93.184.216.34", "127.0.0.1"]]
    attack.leads_to(lambda _: attack.near(host))
    async with mirrored(tmp_path, strictly(attack)) as mirror:
        got = await attack.pull(mirror)
        assert got.status == 502
        assert f"add {host} to upstreams.docker.io.redirects" in got.body.decode()
        for odd in ("127.1", "2130706433", "127.0.0.1%00.example"):  # no client takes these
            attack.leads_to(partial(_near, attack, odd))
            assert (await attack.pull(mirror)).status == 502
        assert attack.service.requests == []


async def test_s04_a_name_that_changes_its_mind_gains_nothing(
    attack: Attack, names: Names, tmp_path: Path
) -> None:
    """DNS rebinding: what was judged is what is connected to, and it is looked up once."""
    names.answers["cdn.example"] = [["127.0.0.1"], ["127.0.0.2"]]
    attack.service.serve_blobs_of(attack.registry)
    locate = attack.registry.redirects[Kind.BLOB].locate

    def under_its_name(request: Recorded) -> str:
        return str(locate(request)).replace("127.0.0.1", "cdn.example")

    attack.leads_to(under_its_name)
    async with mirrored(tmp_path, strictly(attack, redirects=("127.0.0.1/32",))) as mirror:
        assert (await attack.pull(mirror)).body == attack.pushed.content
    assert names.asked == ["cdn.example"]
    attack.registry.clear()
    async with mirrored(tmp_path / "2", strictly(attack, redirects=("127.0.0.1/32",))) as mirror:
        assert (await attack.pull(mirror)).status == 502  # now it is the other address
    assert names.asked == ["cdn.example"] * 2


@pytest.mark.parametrize("named", ["127.0.0.1", "127.0.0.1:{port}", "127.0.0.0/8"])
async def test_s20_what_the_operator_names_is_reached(
    attack: Attack, tmp_path: Path, named: str
) -> None:
    attack.service.serve_blobs_of(attack.registry)
    upstream = strictly(attack, redirects=(named.format(port=attack.service.port),))
    async with mirrored(tmp_path, upstream) as mirror:
        assert (await attack.pull(mirror)).body == attack.pushed.content


async def test_s20_relative_redirects_and_default_ports_are_not_over_blocked(
    attack: Attack, tmp_path: Path
) -> None:
    attack.registry.push_blob("elsewhere", attack.pushed)

    def relative(request: Recorded) -> str | None:
        return (
            None if "elsewhere" in request.path else pulling.blob(attack.pushed.digest, "elsewhere")
        )

    attack.registry.redirects[Kind.BLOB] = Redirect(locate=relative)
    async with mirrored(tmp_path, strictly(attack)) as mirror:
        assert (await attack.pull(mirror)).body == attack.pushed.content


async def test_s04_through_a_proxy_hosts_are_judged_by_name(
    attack: Attack, names: Names, tmp_path: Path
) -> None:
    async with FakeRegistry() as proxy:
        proxy.push_blob(REPOSITORY, attack.pushed)
        upstream = Upstream(endpoints=("http://registry.example",), proxy=proxy.url)
        names_of_ours = ("metadata.google.internal", "intranet", "localhost")
        for host in (*names_of_ours, "127.0.0.1", "127.1", "169.254.43518", "0x7f.1", "2130706433"):
            proxy.redirects[Kind.BLOB] = Redirect(locate=partial(_near, attack, host))
            proxy.clear()
            async with mirrored(tmp_path / host, upstream) as mirror:
                got = await attack.pull(mirror)
                assert got.status == 502
                assert f"add {host} to upstreams.docker.io.redirects" in got.body.decode()
            assert all("registry.example" in request.target for request in proxy.requests)
    assert "registry.example" not in names.asked


async def test_s02_a_realm_in_a_private_network_gets_nothing(
    attack: Attack, names: Names, tmp_path: Path
) -> None:
    """It belongs to the same site, which is what the realm rule asks for, and still."""
    names.answers |= {"registry.evil.example.com": [["127.0.0.1"]]}
    names.answers |= {"tokens.evil.example.com": [["127.0.0.1"]]}
    async with FakeTokenServer() as tokens:
        realm = tokens.realm.replace("127.0.0.1", "tokens.evil.example.com")
        attack.registry.fail(faults.challenge(f'Bearer realm="{realm}",service="x"'), kind="blob")
        home = attack.registry.url.replace("127.0.0.1", "registry.evil.example.com")
        upstream = Upstream(endpoints=(home,), credentials=(account(),))
        async with mirrored(tmp_path, upstream) as mirror:
            got = await attack.pull(mirror)
        assert got.status == 502
        assert "add tokens.evil.example.com to upstreams.docker.io.realms" in got.body.decode()
        assert tokens.requests == []


async def test_s04_the_urls_of_foreign_layers_are_never_fetched(
    attack: Attack, tmp_path: Path
) -> None:
    layer = {"digest": attack.pushed.digest, "size": 1000, "urls": [attack.near("127.0.0.1")]}
    layer["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    manifest = json.loads(IMAGE.content)
    content = json.dumps({**manifest, "layers": [layer]}).encode()
    attack.registry.push(REPOSITORY, IMAGE, ["v1"])
    attack.registry.fail(
        faults.body(content), faults.without("Docker-Content-Digest"), kind="manifest"
    )
    async with mirrored(tmp_path, strictly(attack, redirects=LOOPBACK)) as mirror:
        assert (await mirror.get(pulling.manifest())).body == content
        await attack.pull(mirror)
    assert attack.service.requests == []


async def test_s04_a_link_to_elsewhere_is_not_followed(attack: Attack, tmp_path: Path) -> None:
    attack.registry.push(REPOSITORY, IMAGE, ["v1", "v2"])
    link = f'<{attack.near("127.0.0.1")}?n=1&last=v1>; rel="next"'
    attack.registry.fail(faults.header("Link", link), kind="tags", times=1)
    async with mirrored(tmp_path, strictly(attack, redirects=LOOPBACK)) as mirror:
        got = await mirror.get(f"/v2/{REPOSITORY}/tags/list")
        assert attack.near("127.0.0.1") not in str(got.headers)
    assert attack.service.requests == []


async def test_s03_credentials_do_not_follow_a_redirect(attack: Attack, tmp_path: Path) -> None:
    """Another port is another origin, too."""
    async with AsyncExitStack() as stack:
        attack.service.refuses_authorization = True
        attack.service.serve_blobs_of(attack.registry)
        upstream = strictly(attack, redirects=LOOPBACK, credentials=(account(),))
        mirror = await stack.enter_async_context(
            mirror_of(tmp_path / "cache", {"docker.io": upstream})
        )
        assert (await attack.pull(mirror)).body == attack.pushed.content
        for request in attack.service.requests:
            assert not {"authorization", "cookie", "proxy-authorization"} & {
                name.lower() for name, _ in request.headers
            }
            assert PASSWORD not in str(request.headers)
