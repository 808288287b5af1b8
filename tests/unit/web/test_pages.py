"""The dashboard's files: complete, from here only, and open to whoever may not see anything."""

import re
from pathlib import Path

import pytest

from mirror.settings import ListenAddress, Server
from mirror.web import pages
from tests.fakes.registry import FakeRegistry
from tests.harness import ANY_PORT, Got, Mirror, mirror_of

DIRECTORY = Path(pages.__file__).parent / "dashboard"
FILES = sorted(DIRECTORY.iterdir())
EVERYWHERE = ListenAddress("0.0.0.0", 0)  # noqa: S104 -- for what is refused there


async def asset(mirror: Mirror, path: str, headers: dict[str, str] | None = None) -> Got:
    async with mirror.session.get(mirror.admin_url + path, headers=headers) as response:
        return Got(response.status, response.headers, await response.read())


async def test_the_page_may_load_nothing_from_elsewhere(mirror: Mirror) -> None:
    page = await asset(mirror, "/")
    assert (page.status, page.body) == (200, (DIRECTORY / "index.html").read_bytes())
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = dict(
        part.strip().split(" ", 1) for part in page.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert page.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_file_that_the_browser_has_is_not_sent_again(mirror: Mirror) -> None:
    first = await asset(mirror, "/assets/app.js")
    again = await asset(mirror, "/assets/app.js", {"If-None-Match": first.headers["ETag"]})
    assert (first.status, again.status, again.body) == (200, 304, b"")
    assert first.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("name", ["nope.js", "index.html", "..%2fpages.py", ".%2e/pages.py"])
async def test_there_is_nothing_else(mirror: Mirror, name: str) -> None:
    assert (await asset(mirror, f"/assets/{name}")).status == 404


async def test_anybody_may_load_the_page_to_enter_the_token(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    server = Server(listen=ANY_PORT, admin_listen=EVERYWHERE, shutdown_grace_seconds=1)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, server=server) as mirror:
        assert (await asset(mirror, "/")).status == 200
        assert (await asset(mirror, "/api/v1/overview")).status == 403


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_all_addresses_are_relative_and_lead_to_files_that_are_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"""(?:from|src=|href=|import) ?['"]([^'"#$]+)['"]""", text)
    for each in used:
        assert not re.match(r"/|\w+:", each), "it must work below any path"
        assert (DIRECTORY / each.removeprefix("assets/").removeprefix("./")).exists()
    assert "innerHTML" not in text
    assert " style=" not in text
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg|\$)", text) == []
