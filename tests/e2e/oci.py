"""Just enough of the push side of the registry API to publish what no builder makes."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import tarfile
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
ANY_MANIFEST = f"{INDEX}, {MANIFEST}, {DOCKER_LIST}, {DOCKER_MANIFEST}"

Descriptor = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401  # JSON is anything
        """Return the body as JSON."""
        return json.loads(self.body)


def request(
    url: str, method: str = "GET", *, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Answer:
    """Make one request; any status is an answer."""
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    try:
        target = urllib.parse.urlunsplit(("", "", parts.path, parts.query, ""))
        connection.request(method, target, body or None, dict(headers or {}))
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, names, answer.read())
    finally:
        connection.close()


def digest_of(content: bytes) -> str:
    """Return the sha256 digest of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def describe(media_type: str, content: bytes) -> Descriptor:
    """Return the descriptor of some bytes."""
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def random_layer(size: int) -> bytes:
    """Return an uncompressed layer that holds one file of random bytes."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        entry = tarfile.TarInfo("random")
        entry.size = size
        archive.addfile(entry, io.BytesIO(os.urandom(size)))
    return layer.getvalue()


@dataclass(frozen=True)
class Repository:
    """One repository of a registry that lets everybody push."""

    registry: str
    name: str

    def push_blob(self, media_type: str, content: bytes) -> Descriptor:
        """Upload a blob in one piece."""
        descriptor = describe(media_type, content)
        begun = request(f"{self._url}/blobs/uploads/", "POST", headers={"Content-Length": "0"})
        assert begun.status == http.HTTPStatus.ACCEPTED, begun
        target = f"{begun.headers['location']}&digest={descriptor['digest']}"
        kind = {"Content-Type": "application/octet-stream"}
        done = request(target, "PUT", body=content, headers=kind)
        assert done.status == http.HTTPStatus.CREATED, done
        return descriptor

    def push_manifest(self, tag: str, manifest: dict[str, Any]) -> Descriptor:
        """Upload a manifest or an index under a tag, or by digest if the tag is empty."""
        content = json.dumps(manifest, indent=2).encode()
        descriptor = describe(manifest["mediaType"], content)
        kind = {"Content-Type": manifest["mediaType"]}
        url = f"{self._url}/manifests/{tag or descriptor['digest']}"
        done = request(url, "PUT", body=content, headers=kind)
        assert done.status == http.HTTPStatus.CREATED, done
        return descriptor

    def push_image(self, tag: str, layer: bytes) -> Descriptor:
        """Push an image of one uncompressed layer."""
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.push_blob(CONFIG, json.dumps(config).encode()),
            "layers": [self.push_blob(LAYER, layer)],
        }
        return self.push_manifest(tag, manifest)

    def push_artifact(self, tag: str, kind: str, content: bytes) -> Descriptor:
        """Push an artifact: one blob that is no layer, and no configuration."""
        return self.push_manifest(tag, self._artifact(kind, content))

    def push_referrer(self, subject: Descriptor, kind: str, content: bytes) -> Descriptor:
        """Push an artifact about *subject*, and the tag that lists it.

        The tag is what the specification wants of clients when the registry,
        like this one, has no referrers API.
        """
        artifact = self._artifact(kind, content) | {"subject": subject}
        descriptor = self.push_manifest("", artifact) | {"artifactType": kind}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}
        self.push_manifest(subject["digest"].replace(":", "-"), index)
        return descriptor

    def _artifact(self, kind: str, content: bytes) -> dict[str, Any]:
        return {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": kind,
            "config": self.push_blob(EMPTY, b"{}"),
            "layers": [self.push_blob("text/plain", content)],
        }

    @property
    def _url(self) -> str:
        return f"{self.registry}/v2/{self.name}"
