"""Traces by the real SDK, kept in memory: what is told of a pull, and what never is."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mirror.observe import otel, tracing
from mirror.settings import Upstream
from tests.fakes import faults
from tests.fakes.cdn import FakeCdn
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.fakes.wire import Kind
from tests.harness import Mirror, gathered, mirror_of
from tests.unit.upstream.pulling import PASSWORD, REPOSITORY, account, blob, guarded, manifest

IMAGE = image(layer_bytes=200_000)
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


class Kept:
    """The spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def all(self, name: str = "") -> list[ReadableSpan]:
        return [each for each in self.exporter.get_finished_spans() if name in {"", each.name}]

    def only(self, name: str) -> ReadableSpan:
        (found,) = self.all(name)
        return found


@pytest.fixture
def spans() -> Iterator[Kept]:
    kept = Kept()
    tracing.use(otel.OtelTracer(kept.provider))
    yield kept
    tracing.close()


@pytest.fixture
def full(upstream: FakeRegistry) -> FakeRegistry:
    upstream.push(REPOSITORY, IMAGE, tags=["v1"])
    return upstream


def number(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def facts(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


async def test_a_pull_is_one_trace(spans: Kept, mirror: Mirror, full: FakeRegistry) -> None:
    digest = IMAGE.layers[0].digest
    got = await mirror.get(blob(digest), {"traceparent": TRACEPARENT, "X-Request-Id": "abc"})
    assert got.status == 200
    await mirror.settled()
    request, fill = _of("SERVER", spans)[0], spans.only("fill")
    asked = [each for each in _of("CLIENT", spans) if parent(each) == number(fill)]
    assert {
        f"{each.context.trace_id:032x}" for each in (request, fill, *asked) if each.context
    } == {TRACE}
    assert parent(request) == int(SPAN, 16)
    assert parent(fill) == number(request)
    assert len(asked) == 1
    assert request.name == asked[0].name == "GET blob"
    assert facts(request) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.path": blob(digest),
        "client.address": "127.0.0.1",
        "user_agent.original": facts(request)["user_agent.original"],
        "mirror.request_id": "abc",
        "mirror.kind": "blob",
        "mirror.upstream": "docker.io",
        "mirror.repository": REPOSITORY,
        "mirror.reference": digest,
        "mirror.result": "miss",
        "mirror.sent_bytes": len(got.body),
        "mirror.client_left": False,
    }
    assert facts(fill) == {
        "mirror.upstream": "docker.io",
        "mirror.repository": REPOSITORY,
        "mirror.digest": digest,
        "mirror.outcome": "committed",
        "mirror.received_bytes": len(got.body),
    }
    assert facts(asked[0])["http.response.status_code"] == 200
    assert facts(asked[0])["server.port"] == full.port


def _of(kind: str, spans: Kept) -> list[ReadableSpan]:
    return [each for each in spans.all() if each.kind.name == kind]


async def test_followers_link_to_the_fill_of_the_leader(
    spans: Kept, mirror: Mirror, full: FakeRegistry
) -> None:
    digest = IMAGE.layers[0].digest
    gate = full.hold_body(digest, 1000)
    pulls = asyncio.create_task(gathered(5, lambda: mirror.get(blob(digest))))
    await gate.arrivals()
    await mirror.becomes("mirror_fill_readers", 5)
    gate.release()
    await pulls
    await mirror.settled()
    fill = spans.only("fill")
    requests = _of("SERVER", spans)
    leaders = [each for each in requests if number(each) == parent(fill)]
    linked = [[link.context.span_id for link in each.links] for each in requests]
    assert len(requests) == 5
    assert len(leaders) == 1
    assert sorted(linked) == [[], *([[number(fill)]] * 4)]


async def test_trouble_is_told(spans: Kept, mirror: Mirror, full: FakeRegistry) -> None:
    full.fail(faults.status(500))
    got = await mirror.get(manifest())
    assert got.status == 502
    request, *asked = [*_of("SERVER", spans), *_of("CLIENT", spans)]
    assert request.status.status_code.name == "ERROR"
    assert {each.status.description for each in asked} == {"status 500"}
    assert not request.events, "the text of an exception may hold what must not be sent"


async def test_a_download_that_fails(spans: Kept, mirror: Mirror, full: FakeRegistry) -> None:
    digest = IMAGE.layers[0].digest
    full.fail(faults.status(404), kind=Kind.BLOB)
    assert (await mirror.get(blob(digest))).status == 404
    await mirror.settled()
    fill = spans.only("fill")
    assert facts(fill)["mirror.outcome"] == "failed"
    assert fill.status.status_code.name == "ERROR"


@pytest.mark.parametrize("given", ["", "00-zz-yy-01", f"00-{TRACE}-{SPAN}", "x" * 5000])
async def test_a_traceparent_that_is_none_begins_a_trace(
    spans: Kept, mirror: Mirror, full: FakeRegistry, given: str
) -> None:
    assert (await mirror.get(manifest(), {"traceparent": given})).status == 200
    (request,) = _of("SERVER", spans)
    assert request.parent is None


async def test_no_secret_is_told(spans: Kept, tmp_path: Path) -> None:
    async with guarded() as site, FakeCdn() as cdn:
        site.tokens.tokens.users = {"robot": PASSWORD}
        cdn.query = "signature=canary-secret-2"
        cdn.serve_blobs_of(site.registry)
        upstream = site.upstream([account()]).model_copy(update={"redirects": (cdn.host,)})
        async with mirror_of(tmp_path, {"docker.io": upstream}) as mirror:
            await mirror.get(f"{manifest()}?token=canary-secret-3", {"Authorization": "Basic YTpi"})
            await mirror.pull_blobs(REPOSITORY, site.image)
        tokens = [each.token for each in site.tokens.tokens.grants]
    assert tokens
    told = json.dumps([json.loads(each.to_json()) for each in spans.all()])
    assert cdn.url in told
    for secret in (PASSWORD, "canary-secret", "YTpi", *tokens):
        assert secret not in told


@pytest.mark.parametrize("trusted", [False, True], ids=["by default", "trace_context"])
async def test_upstreams_are_told_if_the_operator_wants_it(
    spans: Kept,
    tmp_path: Path,
    full: FakeRegistry,
    trusted: bool,  # noqa: FBT001 -- the two cases
) -> None:
    async with FakeCdn() as cdn:
        cdn.serve_blobs_of(full)
        upstream = Upstream(endpoints=(full.url,), redirects=("127.0.0.1",), trace_context=trusted)
        async with mirror_of(tmp_path, {"docker.io": upstream}) as mirror:
            await mirror.get(blob(IMAGE.layers[0].digest), {"traceparent": TRACEPARENT})
            await mirror.settled()
        elsewhere = [each.header("traceparent") for each in cdn.requests]
    told = [each.header("traceparent") for each in full.requests]
    assert elsewhere == [None]
    if trusted:
        (asked,) = [
            each for each in _of("CLIENT", spans) if facts(each)["server.port"] == full.port
        ]
        assert told == [f"00-{TRACE}-{number(asked):016x}-01"]
    else:
        assert told == [None]


async def test_a_worker_s_request_goes_on_in_the_main_process(spans: Kept) -> None:
    fill = tracing.begin("fill", tracing.Kind.INTERNAL)

    async def answered() -> None:
        tracing.join({"traceparent": TRACEPARENT})
        tracing.current().link(fill)
        tracing.begin("below", tracing.Kind.INTERNAL).end()

    await asyncio.create_task(answered())
    fill.end()
    join, below = spans.only("join"), spans.only("below")
    assert parent(join) == parent(below) == int(SPAN, 16)
    assert [link.context.span_id for link in join.links] == [number(spans.only("fill"))]
    assert spans.only("fill").parent is None


# --- the switch -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "mirror"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
    ids=str,
)
def test_when_there_are_traces(environ: dict[str, str], wanted: bool) -> None:  # noqa: FBT001 -- a table
    assert tracing.is_wanted(environ) is wanted


def test_nothing_is_imported_when_off() -> None:
    program = (
        "import sys; from mirror.observe import tracing; tracing.configure({});"
        "assert not tracing.is_on();"
        "assert not [each for each in sys.modules if each.startswith('opentelemetry')]"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)  # noqa: S603 -- ours
    assert done.returncode == 0


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, log_lines: object
) -> None:
    monkeypatch.setitem(sys.modules, "mirror.observe.otel", None)
    tracing.configure({"OTEL_TRACES_EXPORTER": "otlp"})
    assert not tracing.is_on()
    assert "mirror[otel]" in log_lines.getvalue()  # type: ignore[attr-defined] # a StringIO


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
    ids=str,
)
def test_a_wrong_variable_stops_nothing(environ: dict[str, str], log_lines: object) -> None:
    tracing.configure(environ)
    assert not tracing.is_on()
    assert "OTEL_ variables are wrong" in log_lines.getvalue()  # type: ignore[attr-defined] # as above


def test_spans_reach_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple[str, str | None, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Authorization"], body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20x",
            "OTEL_SERVICE_NAME": "edge",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        tracing.configure(environ)
        assert tracing.is_on()
        tracing.begin("a span", tracing.Kind.INTERNAL).end()
        tracing.close()
        server.shutdown()
        thread.join()
    ((path, authorization, body),) = got
    assert (path, authorization) == ("/v1/traces", "Bearer x")
    assert b"a span" in body
    assert b"edge" in body
    assert not tracing.is_on()
