"""``mirror cache``: the same results from a running mirror and from its directory."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import mirror as package
from mirror import config
from mirror.app import running
from mirror.cli.tables import human_age, human_size, table
from tests.fakes.certificates import Authority
from tests.fakes.content import image, index
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror, mirror_of

ONE, TWO = image(1), image(2, architecture="arm64")
BOTH = index([ONE, TWO])
NAME = "docker.io/library/alpine"
TIMEOUT_SECONDS = 60
Context = AbstractAsyncContextManager[None]


class Command:
    """Runs ``mirror cache …`` in a process of its own."""

    def __init__(self, directory: Path, admin: str) -> None:
        self._root = directory
        self.cache = directory / "cache"
        self.file = directory / "mirror.yaml"
        self.configure(admin)

    def configure(self, admin: str, more: str = "") -> None:
        self.file.write_text(
            f"cache: {{directory: {self.cache}, min_free: 0, max_size: 512MiB}}\n"
            f"server: {{listen: '127.0.0.1:0', admin_listen: '{admin}'{more}}}\n"
        )

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        """Return what it writes, and what it complains of."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mirror", "cache", *arguments, "--config", str(self.file)),
            cwd=self._root,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(Path(package.__file__).parents[1]),
                "HOME": str(self._root),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(TIMEOUT_SECONDS):
            written, complained = await process.communicate()
        text, complaint = written.decode(), complained.decode()
        assert process.returncode == code, text + complaint
        assert "Traceback" not in complaint
        return text + complaint

    async def json(self, *arguments: str, code: int = 0) -> Any:  # noqa: ANN401 -- JSON
        return json.loads(await self(*arguments, "-o", "json", code=code))


@pytest.fixture
async def upstream() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found: int = taken.getsockname()[1]
    return found


@pytest.fixture
def command(tmp_path: Path, port: int) -> Command:
    return Command(tmp_path, f"127.0.0.1:{port}")


async def fill(command: Command, upstream: FakeRegistry) -> None:
    """Pull an index and one of its images into the cache, and stop."""
    upstream.push("library/alpine", BOTH, ["both", "same"])
    upstream.push("library/alpine", ONE, ["one"])
    async with mirror_of(command.cache, {"docker.io": upstream}) as up:
        await pull(up)


async def pull(up: Mirror) -> None:
    for reference in ("both", "one"):
        await up.get(f"/v2/library/alpine/manifests/{reference}")
    await up.pull_blobs("library/alpine", ONE)


@asynccontextmanager
async def served(command: Command) -> AsyncIterator[None]:
    """Run the mirror of the command's configuration."""
    async with running(config.load(command.file, {}).settings):
        yield


@asynccontextmanager
async def stopped() -> AsyncIterator[None]:
    yield


@pytest.fixture(params=["running", "stopped"])
def ready(request: pytest.FixtureRequest, command: Command) -> Context:
    return served(command) if request.param == "running" else stopped()


async def test_ls_and_du_say_the_same_whether_it_runs_or_not(
    command: Command, upstream: FakeRegistry, ready: Context, tmp_path: Path
) -> None:
    await fill(command, upstream)
    size = sum(each.size_bytes for each in (BOTH, ONE, *ONE.blobs))
    async with ready:
        images = (await command.json("ls"))["images"]
        assert [(each["tag"], each["digest"], each["complete"]) for each in images] == [
            ("both", BOTH.digest, True),
            ("one", ONE.digest, True),
        ]
        text = await command("ls", "alpine:o*")
        assert text.split("\n")[0].split() == [
            *("IMAGE", "DIGEST", "SIZE", "HERE", "PLATFORMS", "HITS", "USED")
        ]
        assert f"{NAME}:one" in text
        assert f"{NAME}:both" not in text
        usage = await command.json("du")
        assert (usage["stored_bytes"], usage["directory"]) == (size, str(tmp_path / "cache"))
        assert usage["repositories"][0]["repository"] == NAME
        assert NAME in await command("du")
        assert "nothing here matches" in await command("ls", "ghcr.io/**")


async def test_rm_says_what_it_frees_and_frees_it(
    command: Command, upstream: FakeRegistry, ready: Context
) -> None:
    await fill(command, upstream)
    async with ready:
        said = await command.json("rm", "alpine:both", "--dry-run")
        done = await command.json("rm", "alpine:both")
        assert {**said, "dry_run": False} == done
        assert done["freed_bytes"] == BOTH.size_bytes
        assert "is not here" in await command("rm", "alpine:both", code=1)
        assert "say --yes" in await command("rm", "alpine:*", code=2)
        assert f"{NAME}:one removed" in await command("rm", "alpine:*", "--yes")
        assert (await command.json("ls", "--all"))["images"] == []
        assert (await command.json("du"))["stored_bytes"] == 0


async def test_pins_hold_until_they_are_taken_away(
    command: Command, upstream: FakeRegistry
) -> None:
    await fill(command, upstream)
    async with served(command):
        assert "is pinned" in await command("pin", "alpine:on*", "ghcr.io/a/b:v1")
        assert [each["stored"] for each in (await command.json("pins"))["pins"]] == [True, False]
        assert "not here yet" in await command("pins")
        assert "pinned" in await command("ls", "alpine:one")
        assert "is pinned" in await command("rm", "alpine:one", code=1)
        assert "not pinned any more" in await command("unpin", "docker.io/**", "ghcr.io/a/b:v1")
        assert "nothing is pinned" in await command("pins")
        assert "is not pinned" in await command("unpin", "alpine:one", code=1)


async def test_verify_finds_and_repairs_and_gc_collects(
    command: Command, upstream: FakeRegistry, ready: Context
) -> None:
    await fill(command, upstream)
    hex_digits = ONE.layers[0].digest.removeprefix("sha256:")
    layer = command.cache / "blobs/sha256" / hex_digits[:2] / hex_digits
    async with ready:
        assert "nothing wrong" in await command("verify")
        layer.write_bytes(b"x" * layer.stat().st_size)
        text = await command("verify", code=1)
        assert f"wrong content: {ONE.layers[0].digest}" in text
        assert "--repair" in text
        lines = (await command("verify", "--repair", "--json")).splitlines()
        assert json.loads(lines[-1])["repaired"] == 1
        assert not layer.exists()
        assert "Nothing to remove." in await command("gc", "--dry-run")
        assert (await command.json("gc"))["counts"] == {}


async def test_a_name_that_is_none_is_a_misuse(command: Command, upstream: FakeRegistry) -> None:
    await fill(command, upstream)
    async with served(command):
        text = await command("rm", "UPPER/case", code=2)
    assert "alpine:3.20" in text


async def test_without_a_cache_nothing_is_made(command: Command) -> None:
    assert "no cache" in await command("ls", code=1)
    assert not command.cache.exists()


@pytest.mark.parametrize("mutual", [False, True], ids=["server only", "client certificates"])
async def test_a_running_mirror_is_asked_over_tls(
    command: Command, upstream: FakeRegistry, tmp_path: Path, port: int, *, mutual: bool
) -> None:
    await fill(command, upstream)
    authority = Authority(tmp_path)
    tls = authority.server(client_ca=authority.file if mutual else None)
    files = tls.model_dump(mode="json", exclude_none=True)
    command.configure(f"127.0.0.1:{port}", f", admin: {json.dumps({'tls': files})}")
    async with served(command):
        assert len((await command.json("ls"))["images"]) == 2


async def test_a_running_mirror_that_cannot_be_asked_is_named(
    command: Command, upstream: FakeRegistry
) -> None:
    upstream.push("library/alpine", ONE, ["one"])
    async with mirror_of(command.cache, {"docker.io": upstream}):  # at another admin address
        text = await command("ls", code=1)
    assert "in use by a running mirror" in text
    assert "--config" in text


async def test_the_token_is_sent_where_it_is_needed(
    command: Command, tmp_path: Path, port: int
) -> None:
    token = tmp_path / "token"
    token.write_text("made-up\n")
    command.configure(f"0.0.0.0:{port}", f", admin: {{token_file: {token}}}")
    async with served(command):
        assert (await command.json("pins"))["pins"] == []
        command.configure(f"0.0.0.0:{port}")
        assert "token_file" in await command("pins", code=1)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 70, "1048576.0 PiB"),
    ],
)
def test_sizes_are_short(size_bytes: int, text: str) -> None:
    assert human_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "just now"), (59, "just now"), (60, "1m ago"), (7199, "1h ago"), (3e8, "9y ago")],
)
def test_ages_are_short(seconds: float, text: str) -> None:
    assert human_age(seconds) == text


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    text = table(("A", "N"), [("long name", "1"), ("x", "100")], right=(1,))
    assert text.split("\n") == ["A            N", "long name    1", "x          100"]
