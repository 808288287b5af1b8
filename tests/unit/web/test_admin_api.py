"""The admin API: who may use it, what it says to wrong input, and its description."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from mirror.settings import ListenAddress, Server
from mirror.settings.server import Admin
from tests.fakes.clients import get as raw_get
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import ANY_PORT, Mirror, mirror_of
from tests.unit.web.wire import REPOSITORY, manifest_path

ONE = image(1)
TOKEN = "s3cr3t-of-the-admin"
EVERYWHERE = ListenAddress("0.0.0.0", 0)  # noqa: S104 -- for what is refused there
CSRF = {"X-Mirror-CSRF": "1"}
WRITES = [("POST", "/cache/gc"), ("DELETE", "/cache/images?ref=alpine:one")]
Answer = tuple[int, Any, CIMultiDict[str]]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture
async def mirror(tmp_path: Path, upstream: FakeRegistry) -> AsyncIterator[Mirror]:
    upstream.push(REPOSITORY, ONE, ["one"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as up:
        yield up


async def ask(
    mirror: Mirror,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    url = f"{mirror.admin_url.replace('0.0.0.0', '127.0.0.1')}/api/v1{path}"  # noqa: S104
    async with mirror.session.request(method, url, headers=headers, data=body) as response:
        content = await response.read()
        return response.status, json.loads(content), CIMultiDict(response.headers)


def server(listen: ListenAddress, token_file: Path | None) -> Server:
    return Server(
        listen=ANY_PORT,
        admin_listen=listen,
        shutdown_grace_seconds=1,
        admin=Admin(token_file=token_file),
    )


def _write(path: Path, content: str | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_text(content)


def is_problem(content: Any, code: str) -> bool:  # noqa: ANN401 -- JSON
    error = content["error"]
    return bool(error["code"] == code and error["message"] and "hint" in error)


# --- access ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:5001", "localhost", "localhost:5001", "[::1]:5001"])
async def test_on_loopback_by_a_loopback_name_anybody_may_read(mirror: Mirror, host: str) -> None:
    status, content, _ = await ask(mirror, "GET", "/cache", {"Host": host})
    assert (status, content["blobs"]) == (200, 0)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:5001", "127.0.0.1.evil.example"])
@pytest.mark.parametrize("path", ["/cache", "/openapi.json", "/no/such/thing"])
async def test_a_name_that_a_page_could_rebind_is_refused(
    mirror: Mirror, host: str, path: str
) -> None:
    status, content, _ = await ask(mirror, "GET", path, {"Host": host})
    assert status == 403
    assert is_problem(content, "token_not_configured")
    assert "token_file" in content["error"]["hint"]


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_a_write_without_the_token_needs_the_header(
    mirror: Mirror, method: str, path: str
) -> None:
    await mirror.get(manifest_path("one"))
    status, content, _ = await ask(mirror, method, path)
    assert status == 403
    assert is_problem(content, "csrf_header_missing")
    assert mirror.stored(ONE.digest).exists()
    assert (await ask(mirror, method, path, CSRF))[0] == 200


async def test_without_a_token_another_address_is_closed(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, server=server(EVERYWHERE, None)
    ) as up:
        status, content, _ = await ask(up, "GET", "/cache", CSRF)
        assert status == 403
        assert is_problem(content, "token_not_configured")
        for path in ("/livez", "/readyz", "/metrics"):
            async with up.session.get(f"http://127.0.0.1:{up.up.admin_listen.port}{path}") as got:
                assert got.status == 200


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        (f"Bearer {TOKEN}", 200, ""),
        (f"bearer  {TOKEN} ", 200, ""),
        (f"Bearer {TOKEN}x", 401, "token_wrong"),
        (f"Bearer {TOKEN[:-1]}", 401, "token_wrong"),
        ("Bearer ", 401, "token_wrong"),
        (f"Basic {TOKEN}", 401, "token_wrong"),
        (None, 401, "token_missing"),
    ],
)
async def test_the_token_opens_another_address(
    tmp_path: Path,
    upstream: FakeRegistry,
    token_file: Path,
    given: str | None,
    status: int,
    code: str,
) -> None:
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, server=server(EVERYWHERE, token_file)
    ) as up:
        headers = {} if given is None else {"Authorization": given}
        for method, path in (("GET", "/cache"), *WRITES):
            found, content, answered = await ask(up, method, path, headers)
            assert found == status
            assert not code or is_problem(content, code)
            assert TOKEN not in json.dumps(content)
            assert ("WWW-Authenticate" in answered) == (status == 401)


async def test_a_token_that_is_no_text_is_wrong(
    tmp_path: Path, upstream: FakeRegistry, token_file: Path
) -> None:
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, server=server(EVERYWHERE, token_file)
    ) as up:
        headers = [("Authorization", "Bearer \xff\xfe")]  # not UTF-8, which no client library sends
        port = up.up.admin_listen.port
        answer = await raw_get("127.0.0.1", port, "/api/v1/cache", headers)
    assert answer.status == 401
    assert is_problem(json.loads(answer.body), "token_wrong")


async def test_a_rotated_token_counts_at_once_and_an_empty_one_opens_nothing(
    tmp_path: Path, upstream: FakeRegistry, token_file: Path
) -> None:
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, server=server(EVERYWHERE, token_file)
    ) as up:
        old = {"Authorization": f"Bearer {TOKEN}"}
        _write(token_file, "another")
        assert (await ask(up, "GET", "/cache", old))[0] == 401
        assert (await ask(up, "GET", "/cache", {"Authorization": "Bearer another"}))[0] == 200
        _write(token_file, "\n")
        status, content, _ = await ask(up, "GET", "/cache", {"Authorization": "Bearer "})
        assert status == 403
        assert is_problem(content, "token_unreadable")
        _write(token_file, None)
        assert (await ask(up, "GET", "/cache", old))[0] == 403


# --- input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("PUT", "/cache", None, 405),
        ("GET", "/cache?size=1", None, 400),
        ("POST", "/cache/gc?dry_run=perhaps", None, 400),
        ("DELETE", "/cache/images", None, 400),
        ("DELETE", "/cache/images?ref=", None, 400),
        ("DELETE", "/cache/images?ref=UPPER", None, 400),
        ("POST", "/cache/pins", b"", 400),
        ("POST", "/cache/pins", b'{"image": 1}', 400),
        ("POST", "/cache/pins", b'{"image": ' + b"[" * 5000, 400),
        ("POST", "/cache/pins", b'{"image": "alpine", "platform": "x"}', 400),
        ("DELETE", "/cache/pins?image=alpine", None, 404),
    ],
)
async def test_wrong_input_is_told_in_json(
    mirror: Mirror, method: str, path: str, body: bytes | None, status: int
) -> None:
    found, content, headers = await ask(mirror, method, path, CSRF, body)
    assert (found, headers["Content-Type"]) == (status, "application/json")
    assert set(content["error"]) == {"code", "message", "hint"}
    assert content["error"]["message"]


async def test_a_switch_that_is_off_is_off(mirror: Mirror) -> None:
    await mirror.get(manifest_path("one"))
    _, said, _ = await ask(mirror, "DELETE", "/cache/images?ref=alpine:one&dry_run=1", CSRF)
    assert (said["dry_run"], said["tags"]) == (True, 1)
    _, done, _ = await ask(mirror, "DELETE", "/cache/images?ref=alpine:one&dry_run=0", CSRF)
    assert (done["dry_run"], done["tags"]) == (False, 1)


async def test_pins_are_set_listed_and_taken_away(mirror: Mirror) -> None:
    wish = b'{"image": "alpine:one", "platforms": ["linux/amd64"]}'
    _, pin, _ = await ask(mirror, "POST", "/cache/pins", CSRF, wish)
    assert (pin["image"], pin["platforms"]) == ("docker.io/library/alpine:one", ["linux/amd64"])
    assert (await ask(mirror, "GET", "/cache/pins"))[1] == {"pins": [pin]}
    gone = await ask(mirror, "DELETE", "/cache/pins?image=alpine:one", CSRF)
    assert gone[:2] == (200, {"image": "docker.io/library/alpine:one"})
    assert (await ask(mirror, "GET", "/cache/pins"))[1] == {"pins": []}


async def test_a_verification_comes_line_by_line(mirror: Mirror) -> None:
    await mirror.get(manifest_path("one"))
    url = f"{mirror.admin_url}/api/v1/cache/verify"
    async with mirror.session.post(url, headers=CSRF) as response:
        assert response.headers["Content-Type"] == "application/x-ndjson"
        lines = [json.loads(line) async for line in response.content]
    assert lines[0]["event"] == "progress"
    assert (lines[-1]["event"], lines[-1]["checked_objects"], lines[-1]["wrong"]) == ("done", 1, 0)


# --- the description -------------------------------------------------------------------------


async def test_every_route_is_described_and_every_reference_leads_somewhere(
    mirror: Mirror,
) -> None:
    _, described, _ = await ask(mirror, "GET", "/openapi.json")
    assert described["openapi"].startswith("3.1")
    assert {path: set(methods) for path, methods in described["paths"].items()} == {
        "/api/v1/cache": {"get"},
        "/api/v1/cache/image": {"get"},
        "/api/v1/cache/images": {"get", "delete"},
        "/api/v1/cache/referrers": {"get"},
        "/api/v1/cache/refresh": {"post"},
        "/api/v1/clients": {"get"},
        "/api/v1/events": {"get"},
        "/api/v1/fills": {"get"},
        "/api/v1/overview": {"get"},
        "/api/v1/upstreams": {"get"},
        "/api/v1/explain": {"get"},
        "/api/v1/prefetch": {"get", "post", "delete"},
        "/api/v1/prefetch/progress": {"get"},
        "/api/v1/prefetch/events": {"get"},
        "/api/v1/ratelimit": {"get"},
        "/api/v1/requests": {"get"},
        "/api/v1/cache/export": {"get", "post"},
        "/api/v1/cache/import": {"post"},
        "/api/v1/cache/inventory": {"get"},
        "/api/v1/cache/gc": {"post"},
        "/api/v1/cache/verify": {"post"},
        "/api/v1/cache/pins": {"get", "post", "delete"},
    }
    text = json.dumps(described)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names
    assert names <= set(described["components"]["schemas"])
