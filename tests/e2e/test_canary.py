"""No secret gets out of a real mirror process, wherever it was given and whatever goes wrong.

A canary stands in every place of a credential; then everything is looked through that the
process has said: logs, answers with all headers, metrics, the admin API, all commands, and the
files of the cache directory.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import aiohttp
import bcrypt
import pytest
import yaml
from yarl import URL

from tests.fakes import faults
from tests.fakes.answers import Answer, text
from tests.fakes.auth import BasicGuard, FakeTokenServer, TokenService
from tests.fakes.clouds import FakeAws, Key
from tests.fakes.content import image
from tests.fakes.origin import Origin
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.fakes.wire import Recorded

from .daemon import answers

PROJECT = Path(__file__).parents[2]
CANARY = "Canary7f3aQx"
IMAGE = image(7)
REPOSITORY = "team/app"
USER = "robot"
PAIR = base64.b64encode(f"{USER}:{CANARY}".encode()).decode()
JUNK = base64.urlsafe_b64encode(b'{"alg":"RS256","iss":"x"}').decode().rstrip("=")
PATIENCE = aiohttp.ClientTimeout(total=20)

FAULTS: dict[str, Fault] = {
    "401": faults.status(401),
    "403": faults.status(403),
    "429": faults.too_many_requests(1),
    "500": faults.status(500),
    "said": faults.body(f'{{"errors":"{CANARY}","token":5}}'.encode()),
    "in a header": faults.broken_header(),
    "cut": faults.cut(3),
    "gone": faults.no_answer(),
    "challenge": faults.challenge(f'Bearer realm="http://u:{CANARY}@h/{CANARY}?x={CANARY}"'),
    "signed redirect": faults.redirect(f"http://127.0.0.1:1/x?X-Amz-Signature={CANARY}"),
    "redirect with a user": faults.redirect(f"http://u:{CANARY}@127.0.0.1:1/"),
}

# What an error of ours would look like: a traceback, with secrets in the variables around it.
BROKEN = """
import sys
from mirror.upstream import exchange

async def ask(self, endpoint, question, account, door):
    secret = account.basic() or account.token
    raise RuntimeError("a mistake in the program")

exchange.Exchange.ask = ask
from mirror.cli import run
sys.exit(run(sys.argv[1:]))
"""


class CanaryTokens(TokenService):
    """Issues tokens with the canary in them."""

    def _token(self) -> str:
        return f"{CANARY}-{len(self.grants)}"


class Proxy(Origin):
    """An HTTP proxy that reaches nobody."""

    def answer(self, request: Recorded) -> Answer:
        return text(502, "no")


class Collector(Origin):
    """Takes traces and events, except where it is told to fail."""

    def answer(self, request: Recorded) -> Answer:
        return text(200, "")


def leaks(said: str) -> list[str]:
    """Return the forms of the canary that occur in a text."""
    forms = (CANARY, PAIR, PAIR.rstrip("="), quote(PAIR), CANARY.encode().hex())
    return [form for form in forms if form in said]


@dataclass
class Town:
    """Upstreams that know the canary, and what was configured with it."""

    work: Path
    registry: FakeRegistry
    tokens: FakeTokenServer
    aws: FakeAws
    proxy: Proxy
    collector: Collector
    heard: list[str] = field(default_factory=list)
    """All that came out anywhere."""

    def secret(self, name: str, content: str = CANARY) -> str:
        path = self.work / name
        path.write_text(content, encoding="utf-8")
        path.chmod(0o700)
        return str(path)

    def upstreams(self) -> dict[str, object]:
        url, realms = self.registry.url, [self.tokens.host]
        helper = self.secret(
            "docker-credential-canary",
            f"#!/bin/sh\ncat >/dev/null\necho {CANARY} >&2\n"
            f'echo \'{{"Username":"{USER}","Secret":"{CANARY}"}}\'\n',
        )
        broken = self.secret(
            "docker-credential-broken", f"#!/bin/sh\necho {CANARY}; echo {CANARY} >&2; exit 1\n"
        )
        docker = self.secret(
            "config.json", json.dumps({"auths": {"docker.example": {"auth": PAIR}}})
        )
        credentials: dict[str, dict[str, str]] = {
            "password": {"username": USER, "password": CANARY},
            "file": {"username": USER, "password_file": self.secret("password")},
            "token": {"token": CANARY},
            "tokenfile": {"token_file": self.secret("token")},
            "docker": {"docker_config": docker},
            "badconfig": {"docker_config": self.secret("bad.json", f'{{"auths": "{CANARY}"')},
            "helper": {"helper": helper},
            "broken": {"helper": broken},
            "cloud": {"cloud": "ecr"},
        }
        return {
            **{
                f"{name}.example": {"endpoints": [url], "realms": realms, "credentials": given}
                for name, given in credentials.items()
            },
            "proxied.example": {"endpoints": ["http://proxied.invalid"]},
        }

    def environment(self) -> dict[str, str]:
        plain = {
            key: value
            for key, value in os.environ.items()
            if not key.lower().endswith("_proxy") and not key.startswith(("AWS_", "MIRROR_"))
        }
        return plain | {
            "AWS_ACCESS_KEY_ID": "AKIDTEST",
            "AWS_SECRET_ACCESS_KEY": CANARY,
            "AWS_SESSION_TOKEN": CANARY,
            "AWS_REGION": "eu-west-1",
            "AWS_ENDPOINT_URL": self.aws.url,
            "HTTP_PROXY": f"http://{USER}:{CANARY}@{self.proxy.authority}",
            "NO_PROXY": "127.0.0.1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"Authorization=Bearer%20{CANARY}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "PYTHONASYNCIODEBUG": "1",
            "PYTHONDEVMODE": "1",
            "MIRROR_TRACEBACK": "1",
        }


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        tokens = await stack.enter_async_context(
            FakeTokenServer(CanaryTokens(users={USER: CANARY}))
        )
        registry = await stack.enter_async_context(FakeRegistry())
        aws = await stack.enter_async_context(FakeAws(lambda: 2e9))
        aws.keys["AKIDTEST"] = Key(CANARY, CANARY)
        proxy = await stack.enter_async_context(Proxy())
        collector = await stack.enter_async_context(Collector())
        collector.fail(faults.status(400), faults.body(CANARY.encode()), times=2)
        registry.push(REPOSITORY, IMAGE, tags=["v1"])
        yield Town(tmp_path, registry, tokens, aws, proxy, collector)


@dataclass
class Process:
    """A mirror that runs, with what it writes."""

    config: Path
    registry_url: str
    admin_url: str
    town: Town
    process: asyncio.subprocess.Process
    session: aiohttp.ClientSession

    async def ask(self, method: str, url: str, **headers: str) -> int:
        async with self.session.request(method, URL(url, encoded=True), headers=headers) as got:
            try:
                body = await got.text(errors="replace")
            except aiohttp.ClientPayloadError:
                body = ""
            self.town.heard.append(f"{got.status} {got.headers} {body}")
            return got.status

    async def all_kinds(self, upstream: str, **headers: str) -> None:
        digest = IMAGE.digest
        asked = [
            (method, f"{self.registry_url}/v2/{upstream}/{REPOSITORY}/{path}")
            for method in ("GET", "HEAD")
            for path in (
                f"manifests/v1?token={CANARY}",
                f"manifests/{digest}",
                f"blobs/{IMAGE.layers[0].digest}",
                "tags/list",
                f"referrers/{digest}",
            )
        ]
        await asyncio.gather(*(self.ask(method, url, **headers) for method, url in asked))

    async def admin_paths(self) -> list[str]:
        """Return what the admin API says that it can be asked for."""
        shown = {"Authorization": f"Bearer {CANARY}-of-the-admin"}
        url = f"{self.admin_url}/api/v1/openapi.json"
        async with self.session.get(url, headers=shown) as got:
            described = await got.json()
        return [
            path
            for path, methods in described["paths"].items()
            if "get" in methods and "{" not in path and "events" not in path
        ]


def free_ports() -> list[int]:
    """Return two ports from below those that the system gives to outgoing connections."""
    ports: list[int] = []
    while len(ports) < 2:
        port = random.randrange(20_000, 32_000)
        if port not in ports and not answers(port):
            ports.append(port)
    return ports


def configuration(town: Town, **more: object) -> dict[str, object]:
    ports = free_ports()
    return {
        "server": {
            "listen": f"127.0.0.1:{ports[0]}",
            "admin_listen": f"127.0.0.1:{ports[1]}",
            "shutdown_grace": "1s",
            "admin": {"token_file": town.secret("admin-token", f"{CANARY}-of-the-admin")},
        },
        "cache": {"directory": str(town.work / "cache"), "max_size": "1GiB", "min_free": "0%"},
        "policy": {
            "timeouts": {"connect": "300ms", "response": "1s", "revalidate": "300ms", "idle": "1s"},
            "tag_ttl": "1ms",
            "negative_ttl": "1ms",
        },
        "builtin_upstreams": False,
        "default_upstream": "password.example",
        "upstreams": town.upstreams(),
        "log": {"format": "json", "level": "debug"},
        "webhooks": [
            {
                "url": f"{town.collector.url}/hook",
                "secret_file": town.secret("webhook", f"{CANARY}-of-the-webhook"),
            }
        ],
        **more,
    }


@asynccontextmanager
async def running(
    town: Town, settings: dict[str, object], program: tuple[str, ...] = ("-m", "mirror")
) -> AsyncIterator[Process]:
    config = town.work / "mirror.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    server = settings["server"]
    assert isinstance(server, dict)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        "serve",
        "--config",
        str(config),
        cwd=PROJECT,
        env=town.environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    reading = asyncio.create_task(process.communicate())
    async with aiohttp.ClientSession(timeout=PATIENCE, auto_decompress=False) as session:
        urls = (f"http://{server['listen']}", f"http://{server['admin_listen']}")
        mirror = Process(config, *urls, town, process, session)
        try:
            await _ready(mirror, reading)
            yield mirror
        finally:
            if process.returncode is None:
                process.terminate()
            output, _ = await reading
            town.heard.append(output.decode("utf-8", "replace"))


async def _ready(mirror: Process, reading: asyncio.Task[tuple[bytes, bytes]]) -> None:
    async with asyncio.timeout(30):
        while not reading.done():
            with suppress(aiohttp.ClientError):
                if await mirror.ask("GET", f"{mirror.admin_url}/readyz") == 200:
                    return
            await asyncio.sleep(0.05)
    raise AssertionError(reading.result()[0].decode())


async def command(town: Town, config: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mirror",
        *arguments,
        "--config",
        str(config),
        cwd=PROJECT,
        env=town.environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    town.heard.append(said := output.decode("utf-8", "replace"))
    return said


def assert_kept_secret(town: Town) -> None:
    """Look through all that was heard, and what is on the disk of the cache."""
    for said in town.heard:
        assert leaks(said) == [], said[:2000]
    for path in _files(town.work / "cache"):
        assert leaks(path.read_bytes().decode("latin-1")) == [], path


def command_lines() -> list[str]:
    """Return the command lines of all processes, which everybody on the machine can see."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            lines.append(path.read_text(errors="replace"))
    return lines


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize(("log_format", "workers"), [("json", 1), ("console", 2)])
async def test_whatever_goes_wrong_upstream(town: Town, log_format: str, workers: int) -> None:
    settings = configuration(town, log={"format": log_format, "level": "debug"})
    server = settings["server"]
    assert isinstance(server, dict)
    server["workers"] = workers
    shown = f"Bearer {CANARY}-of-a-client"
    async with running(town, settings) as mirror:
        for guard in (None, BasicGuard(users={USER: CANARY}), town.tokens.guard()):
            town.registry.guard = guard
            for upstream in town.upstreams():
                await mirror.all_kinds(upstream, Authorization=shown, Cookie=f"session={CANARY}")
        for place in (town.registry, town.tokens, town.aws):
            for fault in FAULTS.values():
                rule = place.fail(fault)
                upstream = "cloud.example" if place is town.aws else "password.example"
                await mirror.all_kinds(upstream, Authorization=f"Basic {PAIR}")
                rule.cancel()
        town.heard += command_lines()
        for path in ("/metrics", "/", *await mirror.admin_paths()):
            for token in (f"{CANARY}-of-the-admin", CANARY):
                await mirror.ask("GET", mirror.admin_url + path, Authorization=f"Bearer {token}")
        for arguments in (
            ("config", "show"),
            ("config", "check"),
            ("explain", f"password.example/{REPOSITORY}:v1"),
            ("ratelimit",),
            ("cache", "ls"),
            ("doctor",),
        ):
            await command(town, mirror.config, *arguments)
    asked = str([(each.headers, each.body) for each in town.registry.requests])
    assert CANARY in asked  # as a bearer token
    assert PAIR in asked
    assert "of-a-client" not in asked
    assert any(PAIR in str(each.headers) for each in town.proxy.requests)
    assert town.aws.requests
    spans = b"".join(each.body for each in town.collector.requests)
    assert b"GET manifest" in spans
    events = [each for each in town.collector.requests if each.path == "/hook"]
    assert events
    town.heard += [spans.decode("latin-1"), str([each.headers for each in events])]
    assert "upstream trouble" in "".join(town.heard)
    assert "docker-credential-broken" in "".join(town.heard)
    assert_kept_secret(town)


async def test_a_bad_configuration_and_a_mistake_in_the_program(town: Town) -> None:
    settings = configuration(town)
    program = ("-c", BROKEN)
    async with running(town, settings, program) as mirror:
        statuses = [
            await mirror.ask(
                "GET", f"{mirror.registry_url}/v2/{upstream}/{REPOSITORY}/manifests/v1"
            )
            for upstream in ("password.example", "token.example")
        ]
        for bad in bad_configurations(settings):
            mirror.config.write_text(bad, encoding="utf-8")
            mirror.process.send_signal(signal.SIGHUP)
            said = await command(town, mirror.config, "config", "check")
            assert said.strip(), bad
        await mirror.ask("GET", f"{mirror.admin_url}/metrics")
    heard = "".join(town.heard)
    assert min(statuses) >= 500
    assert "a mistake in the program" in heard
    assert "RuntimeError" in heard
    assert_kept_secret(town)


def bad_configurations(settings: dict[str, object]) -> Iterator[str]:
    """Yield configurations whose mistake is beside a secret, or is the secret's own."""
    good = yaml.safe_dump(settings)
    url = f"http://{USER}:{CANARY}@127.0.0.1:1"
    yield f"{good}\nupstreams: {{x.example: {{credentials: {{password: {CANARY}"
    yield f"{good}\nwhat: {CANARY}\n"
    yield f"password: &a !!python/object {CANARY}\n"
    upstreams: list[dict[str, object]] = [
        {"endpoints": [url]},
        {"proxy": url},
        {"credentials": {"password": CANARY}},
        {"credentials": {"username": USER, "password": CANARY, "token": CANARY}},
        {"credentials": {"pasword": CANARY}},
        {"credentials": {"token": [CANARY]}},
        {"credentials": CANARY},
        {"credentials": {"helper": f"docker-credential-x --password={CANARY}"}},
    ]
    for upstream in upstreams:
        yield yaml.safe_dump({**settings, "upstreams": {"x.example": upstream}})
    yield yaml.safe_dump({**settings, "webhooks": [{"url": f"{url}/?token={CANARY}"}]})


async def test_what_clients_show_to_prove_who_they_are(town: Town) -> None:
    """Known and unknown credentials of clients, also where the registry itself is asked."""
    tokens = town.secret("client-tokens", f"ci:{CANARY}-of-a-client\nbroken {CANARY}\n")
    hashed = bcrypt.hashpw(CANARY.encode(), bcrypt.gensalt(4)).decode()
    users = town.secret("htpasswd", f"{USER}:{hashed}\nbroken:{CANARY}\n")
    verified = {"endpoints": [town.registry.url], "policy": {"access": "verify"}}
    settings = configuration(town, upstreams={**town.upstreams(), "verified.example": verified})
    server = settings["server"]
    assert isinstance(server, dict)
    server["auth"] = {
        "challenge": "ping",
        "tokens": {"file": tokens},
        "htpasswd": {"file": users},
        "oidc": [{"issuer": town.registry.url, "audience": "mirror"}],
    }
    town.registry.guard = BasicGuard(users={USER: CANARY})
    statuses = {}
    async with running(town, settings) as mirror:
        for shown in (
            f"Bearer {CANARY}-of-a-client",
            f"Bearer {CANARY}",
            f"Bearer {JUNK}.{JUNK}.{CANARY}",
            f"Basic {PAIR}",
            f"Basic {CANARY}",
            f"Digest {CANARY}",
        ):
            ping = f"{mirror.registry_url}/v2/"
            statuses[shown] = await mirror.ask("GET", ping, Authorization=shown)
            scope = f"service=mirror&account={CANARY}&scope=repository:{REPOSITORY}:pull"
            endpoint = f"{mirror.registry_url}/token?{scope}"
            await mirror.ask("GET", endpoint, Authorization=shown)
            for upstream in ("password.example", "verified.example"):
                await mirror.all_kinds(upstream, Authorization=shown)
        await mirror.ask("GET", f"{mirror.admin_url}/metrics")
    assert statuses[f"Bearer {CANARY}-of-a-client"] == statuses[f"Basic {PAIR}"] == 200
    assert statuses[f"Bearer {CANARY}"] == statuses[f"Basic {CANARY}"] == 401
    assert_kept_secret(town)
