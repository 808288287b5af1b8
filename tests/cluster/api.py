"""A kube-apiserver with its etcd, and a client that applies."""

from __future__ import annotations

import json
import secrets
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import yaml

from tests.e2e.conftest import tool
from tests.e2e.daemon import Daemon, free_port, run

Document = dict[str, Any]
_START_SECONDS = 120


class RefusedError(Exception):
    """The API server does not take it; the message is its own."""


@dataclass
class Cluster:
    """A running API server."""

    url: str
    token: str
    certificate: Path
    kubeconfig: Path
    warnings: list[str] = field(default_factory=list)
    """What the server warned of, such as Pods that break the standard of their namespace."""

    def request(self, method: str, path: str, body: Document | None = None) -> Document:
        """Ask the server; raises RefusedError."""
        request = urllib.request.Request(  # noqa: S310 -- our own
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/apply-patch+yaml"
                if method == "PATCH"
                else "application/json",
            },
            method=method,
        )
        context = ssl.create_default_context(cafile=self.certificate)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(request, timeout=30) as answer:
                self.warnings += answer.headers.get_all("Warning") or []
                told: Document = json.load(answer)
                return told
        except HTTPError as error:
            raise RefusedError(error.read().decode()) from None

    def apply(self, document: Document, manager: str = "test") -> Document:
        """Apply on the server's side; a field that it does not know is an error."""
        query = f"fieldManager={manager}&force=true&fieldValidation=Strict"
        return self.request("PATCH", f"{self._path(document)}?{query}", document)

    def delete(self, document: Document) -> None:
        """Delete what was applied."""
        self.request("DELETE", self._path(document))

    def names(self, path: str) -> list[str]:
        """Return the names of what is listed at a path."""
        return [each["metadata"]["name"] for each in self.request("GET", path)["items"]]

    def is_ready(self) -> bool:
        """Return whether it answers."""
        try:
            self.request("GET", "/api/v1/namespaces/default")
        except (OSError, URLError, RefusedError):
            return False
        return True

    def _path(self, document: Document) -> str:
        group = document["apiVersion"]
        base = f"/apis/{group}" if "/" in group else f"/api/{group}"
        (kind,) = (
            each
            for each in self.request("GET", base)["resources"]
            if each["kind"] == document["kind"] and "/" not in each["name"]
        )
        metadata = document["metadata"]
        within = f"/namespaces/{metadata['namespace']}" if kind["namespaced"] else ""
        return f"{base}{within}/{kind['name']}/{metadata['name']}"


@contextmanager
def cluster(work: Path) -> Iterator[Cluster]:
    """Run an API server."""
    etcd, port, token = f"http://127.0.0.1:{free_port()}", free_port(), secrets.token_hex(16)
    keys = work / "keys"
    keys.mkdir()
    run("openssl", "genrsa", "-out", keys / "accounts.key", "2048")
    (keys / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    peer = f"http://127.0.0.1:{free_port()}"
    database = Daemon(
        "etcd",
        [
            *(tool("etcd"), "--data-dir", work / "etcd", "--unsafe-no-fsync"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}"),
        ],
        work / "etcd.log",
    )
    server = Daemon("kube-apiserver", _server(etcd, port, keys), work / "kube-apiserver.log")
    url = f"https://127.0.0.1:{port}"
    config = _kubeconfig(url, token, keys / "apiserver.crt")
    up = Cluster(url, token, keys / "apiserver.crt", work / "kubeconfig")
    up.kubeconfig.write_text(yaml.safe_dump(config))
    try:
        server.wait_until(up.is_ready, seconds=_START_SECONDS)
        yield up
    finally:
        server.stop()
        database.stop()


def _server(etcd: str, port: int, keys: Path) -> list[str | Path]:
    return [
        tool("kube-apiserver"),
        f"--etcd-servers={etcd}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={keys}",
        f"--token-auth-file={keys / 'tokens.csv'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys / 'accounts.key'}",
        f"--service-account-signing-key-file={keys / 'accounts.key'}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=RBAC",
        # A controller makes the accounts of a namespace, and there is none.
        "--disable-admission-plugins=ServiceAccount",
    ]


def _kubeconfig(url: str, token: str, certificate: Path) -> Document:
    place = {"server": url, "certificate-authority": str(certificate)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": place}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
