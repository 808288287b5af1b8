"""Traces of a mirror as an operator runs it: to a collector, and to one that is not there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .daemon import free_port
from .mirror_process import Mirror

_SERVER = 2
"""The kind of a span, as OTLP counts."""


@contextmanager
def collector() -> Iterator[tuple[int, list[bytes]]]:
    """Take what is sent to ``/v1/traces``."""
    got: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port, got
        finally:
            server.shutdown()
            thread.join()


def traced(work: Path, port: int, workers: int = 1) -> Mirror:
    mirror = Mirror(work, {"docker.io": {"endpoints": [f"http://127.0.0.1:{free_port()}"]}})
    mirror.configure(server={**mirror.settings["server"], "workers": workers})
    mirror.wrapper = ("env", f"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{port}")
    mirror.start()
    return mirror


def test_a_collector_gets_them_at_the_latest_at_the_end(tmp_path: Path) -> None:
    with collector() as (port, got):
        mirror = traced(tmp_path, port)
        assert mirror.get("/v2/library/none/manifests/v1").status == 502
        mirror.stop()
    told = b"".join(got)
    assert b"GET manifest" in told
    assert b"library/none" in told


def test_a_request_to_a_worker_is_one_trace_with_what_the_main_process_does(
    tmp_path: Path,
) -> None:
    digest = f"sha256:{'a' * 64}"
    with collector() as (port, got):
        mirror = traced(tmp_path, port, workers=2)
        assert mirror.get(f"/v2/library/none/blobs/{digest}").status == 502
        mirror.stop()
    spans = [
        span
        for body in got
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    requests = [span for span in spans if span.name == "GET blob" and span.kind == _SERVER]
    fills = [span for span in spans if span.name == "fill"]
    assert len(requests) == len(fills) == 1
    assert fills[0].trace_id == requests[0].trace_id
    assert fills[0].parent_span_id == requests[0].span_id


def test_a_collector_that_is_away_costs_nothing(tmp_path: Path) -> None:
    mirror = traced(tmp_path, free_port())
    assert mirror.get("/v2/").status == 200
    started = time.monotonic()
    mirror.stop()
    assert time.monotonic() - started < 10
