"""The processes that are measured, and what the kernel says of them."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from tests.bench import client
from tests.e2e.daemon import Daemon, free_port

MIRROR: Final = "mirror"
REGISTRY: Final = "docker-registry"
DISTRIBUTION: Final = "distribution v3"
NGINX: Final = "nginx"
DISTRIBUTION_MODULE: Final = "github.com/distribution/distribution/v3/cmd/registry@v3.0.0"

_PROJECT: Final = Path(__file__).parents[2]
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_QUIET_SECONDS: Final = 0.5
_RESTLESS_SECONDS: Final = 300
_POLL_SECONDS: Final = 0.05
_RSS: Final = re.compile(r"^VmRSS:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Certificate:
    """What a server proves itself with."""

    chain: Path
    key: Path


class Server:
    """One server over a directory of its own; entering starts it, leaving stops it for good."""

    def __init__(
        self,
        name: str,
        work: Path,
        command: list[str],
        settings: str,
        port: int,
        *,
        is_secure: bool = False,
        admin_port: int | None = None,
    ) -> None:
        self.name = name
        self.url = f"{'https' if is_secure else 'http'}://127.0.0.1:{port}"
        self.port = port
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        self._work = work
        self._command = command
        self._settings = settings

    def __enter__(self) -> Self:
        self._work.mkdir(parents=True, exist_ok=True)
        config = self._work / "config"
        config.write_text(self._settings, encoding="utf-8")
        command = [*self._command, str(config)]
        self._daemon = Daemon(self.name, command, self._work / "log", directory=_PROJECT)
        self._daemon.wait_until(lambda: client.answers(self.url))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._daemon.stop()
        shutil.rmtree(self._work)

    def cpu_seconds(self) -> float:
        """Return the CPU time of the processes so far, user and system; 10 ms is the grain."""
        return sum(map(_cpu_seconds, self.processes()))

    def written_bytes(self) -> int:
        """Return what the processes have written so far, to sockets above all."""
        return sum(_written_bytes(process) for process in self.processes())

    def rss_bytes(self) -> int:
        """Return the memory of the processes now; what they share counts for each."""
        return sum(_rss_bytes(process) for process in self.processes())

    def wait_until_quiet(self) -> None:
        """Wait until the processes have written nothing for half a second.

        Raises:
            TimeoutError: they do not stop writing.
        """
        before, since = self.written_bytes(), time.monotonic()
        deadline = since + _RESTLESS_SECONDS
        while time.monotonic() - since < _QUIET_SECONDS:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} has been writing for {_RESTLESS_SECONDS} s")
            time.sleep(_POLL_SECONDS)
            now = self.written_bytes()
            if now != before:
                before, since = now, time.monotonic()

    def processes(self) -> list[int]:
        """Return the process and all that it has started."""
        found = [self._daemon.pid]
        for process in found:
            for task in Path(f"/proc/{process}/task").glob("*/children"):
                found += [int(child) for child in _text(task).split()]
        return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has just ended


def _cpu_seconds(process: int) -> float:
    fields = _text(Path(f"/proc/{process}/stat")).rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND if fields else 0.0


def _written_bytes(process: int) -> int:
    lines = dict(
        line.split(": ") for line in _text(Path(f"/proc/{process}/io")).splitlines() if line
    )
    return int(lines.get("wchar", 0))


def _rss_bytes(process: int) -> int:
    match = _RSS.search(_text(Path(f"/proc/{process}/status")))
    return int(match[1]) * 1024 if match else 0


# --- ours ------------------------------------------------------------------------------------


def mirror(
    work: Path,
    *,
    upstream: str,
    certificate: Certificate | None = None,
    more: Mapping[str, Any] | None = None,
    command: Sequence[str] = (sys.executable, "-m", "mirror"),
) -> Server:
    """Return a mirror of one upstream, with the defaults for all that is not the place.

    With a *certificate* it serves over TLS, and trusts an upstream that has the same.
    """
    port, admin_port = free_port(), free_port()
    server: dict[str, Any] = {
        "listen": f"127.0.0.1:{port}",
        "admin_listen": f"127.0.0.1:{admin_port}",
        "limits": {"per_client": 4096},  # all clients here have one address
        **(more or {}),
    }
    origin: dict[str, Any] = {"endpoints": [upstream]}
    if certificate is not None:
        server["tls"] = {"certificate": str(certificate.chain), "key": str(certificate.key)}
        origin["tls"] = {"ca": str(certificate.chain)}
    settings: dict[str, Any] = {
        "server": server,
        "cache": {"directory": str(work / "cache"), "min_free": "1%"},
        "builtin_upstreams": False,
        "upstreams": {"docker.io": origin},
    }
    return Server(
        MIRROR,
        work,
        [*command, "serve", "--config"],
        yaml.safe_dump(settings),
        port,
        is_secure=certificate is not None,
        admin_port=admin_port,
    )


# --- theirs ----------------------------------------------------------------------------------


def registry(
    work: Path,
    *,
    upstream: str | None = None,
    certificate: Certificate | None = None,
    storage: Path | None = None,
    name: str = REGISTRY,
) -> Server:
    """Return docker-registry as Debian sets it up, as a proxy if there is an upstream.

    *storage* is that of another one, which this one serves, too. By *name* it is version 3. With a
    *certificate* it serves over TLS, and trusts an upstream that has the same.
    """
    port = free_port()
    http: dict[str, Any] = {
        "addr": f"127.0.0.1:{port}",
        "secret": "bench",
        "headers": {"X-Content-Type-Options": ["nosniff"]},
    }
    if certificate is not None:
        http["tls"] = {"certificate": str(certificate.chain), "key": str(certificate.key)}
    settings: dict[str, Any] = {
        "version": "0.1",
        "log": {"fields": {"service": "registry"}},
        "storage": {
            "cache": {"blobdescriptor": "inmemory"},
            "filesystem": {"rootdirectory": str(storage or work / "storage")},
            "delete": {"enabled": True},
        },
        "http": http,
    }
    if upstream is not None:
        settings["proxy"] = {"remoteurl": upstream}
    program = "docker-registry" if name == REGISTRY else str(distribution())
    trust = [] if certificate is None else ["env", f"SSL_CERT_FILE={certificate.chain}"]
    return Server(
        name,
        work,
        [*trust, program, "serve"],
        yaml.safe_dump(settings),
        port,
        is_secure=certificate is not None,
    )


def distribution() -> Path | None:
    """Return the program of distribution 3, if ``tests/bench/install`` has built it."""
    program = _cache() / "bin" / "registry"
    return program if program.exists() else None


def _cache() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mirror-bench"
    return Path(os.environ.get("MIRROR_BENCH_CACHE") or default)


def nginx_files(
    work: Path, files: Mapping[str, bytes], *, certificate: Certificate | None = None
) -> Server:
    """Return nginx with *files* by their paths, sent by ``sendfile``."""
    root = work / "files"
    for path, content in files.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    place = f"location / {{ root {root}; default_type application/octet-stream; }}"
    return _nginx(work, place, certificate)


def nginx_cache(work: Path, *, upstream: str, certificate: Certificate | None = None) -> Server:
    """Return nginx as a cache that asks once for what many want.

    With a *certificate* it serves over TLS, and trusts an upstream that has the same.
    """
    trust = ""
    if certificate is not None:
        trust = f"""
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {certificate.chain};
      proxy_ssl_name localhost;  # it compares no addresses"""
    place = f"""
    location / {{
      proxy_pass {upstream};
      proxy_http_version 1.1;
      proxy_cache all;
      proxy_cache_key $request_method$uri;
      proxy_cache_valid 200 60m;
      proxy_cache_lock on;
      proxy_cache_lock_age 300s;
      proxy_cache_lock_timeout 300s;{trust}
    }}"""
    return _nginx(work, place, certificate)


def _nginx(work: Path, place: str, certificate: Certificate | None) -> Server:
    port = free_port()
    listen, tls = f"127.0.0.1:{port}", ""
    if certificate is not None:
        listen += " ssl"
        tls = f"ssl_certificate {certificate.chain}; ssl_certificate_key {certificate.key};"
    settings = f"""
daemon off;
user root;
worker_processes auto;
pid {work}/pid;
error_log {work}/error;
events {{ worker_connections 4096; }}
http {{
  access_log {work}/access;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  client_body_temp_path {work}/body;
  proxy_temp_path {work}/proxy;
  fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi;
  scgi_temp_path {work}/scgi;
  proxy_cache_path {work}/cache keys_zone=all:10m max_size=50g use_temp_path=off;
  server {{
    listen {listen};
    {tls}
    {place}
  }}
}}
"""
    command = ["nginx", "-e", f"{work}/error", "-c"]
    return Server(NGINX, work, command, settings, port, is_secure=certificate is not None)
