"""Real images, indexes and artifacts: the same seed gives the same bytes."""

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import zstandard

Compression = Literal["none", "gzip", "zstd"]
Descriptor = dict[str, object]

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
OCTETS: Final = "application/octet-stream"

_OCI_LAYER: Final[dict[Compression, str]] = {
    "none": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
_DOCKER_LAYER: Final[dict[Compression, str]] = {
    "none": "application/vnd.docker.image.rootfs.diff.tar",
    "gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "zstd": "application/vnd.docker.image.rootfs.diff.tar.zstd",
}


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Bytes that a manifest refers to."""

    content: bytes = field(repr=False)
    media_type: str
    digest: str

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def descriptor(self, **more: object) -> Descriptor:
        return {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": len(self.content),
            **more,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Blob):
    """A JSON document that a registry serves under /manifests/."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image(Manifest):
    """A manifest with everything it refers to."""

    config: Blob
    layers: tuple[Blob, ...]
    architecture: str = ""

    @property
    def blobs(self) -> tuple[Blob, ...]:
        return (self.config, *self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index(Manifest):
    """An OCI index or a Docker manifest list, with the manifests in it."""

    manifests: tuple["Manifest", ...]


def blob(
    size_bytes: int = 1000,
    seed: int = 0,
    *,
    media_type: str = OCTETS,
    algorithm: str = "sha256",
) -> Blob:
    """Return *size_bytes* of noise; quick enough for many MiB."""
    content = random.Random(f"blob {seed}").randbytes(size_bytes)
    return Blob(content=content, media_type=media_type, digest=digest_of(content, algorithm))


def _tar(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _pack(content: bytes, compression: Compression) -> bytes:
    if compression == "gzip":
        return gzip.compress(content, compresslevel=1, mtime=0)
    if compression == "zstd":
        return zstandard.ZstdCompressor(level=1).compress(content)
    return content


def layer(
    size_bytes: int = 1000,
    seed: int = 0,
    *,
    compression: Compression = "gzip",
    docker: bool = False,
    algorithm: str = "sha256",
) -> tuple[Blob, str]:
    """Return a tar with one file of *size_bytes* that can be unpacked, and its diff ID."""
    noise = random.Random(f"layer {seed}").randbytes(size_bytes)
    archive = _tar(f"files/{seed}", noise)
    content = _pack(archive, compression)
    media_type = (_DOCKER_LAYER if docker else _OCI_LAYER)[compression]
    digest = digest_of(content, algorithm)
    return Blob(content=content, media_type=media_type, digest=digest), digest_of(archive)


def _json(document: Mapping[str, object]) -> bytes:
    # Indented on purpose: a mirror that serialises it anew changes the digest.
    return json.dumps(document, indent=3).encode()


def _config(
    diff_ids: Sequence[str], architecture: str, *, docker: bool, algorithm: str, seed: int
) -> Blob:
    content = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"], "Labels": {"seed": str(seed)}},
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        }
    )
    media_type = DOCKER_CONFIG if docker else OCI_CONFIG
    return Blob(content=content, media_type=media_type, digest=digest_of(content, algorithm))


def image(
    seed: int = 0,
    *,
    layers: int = 2,
    layer_bytes: int = 1000,
    docker: bool = False,
    compression: Compression = "gzip",
    algorithm: str = "sha256",
    architecture: str = "amd64",
    subject: Blob | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Image:
    """Build an image whose digests are all right and whose layers can be unpacked."""
    made = [
        layer(
            layer_bytes,
            seed * 1000 + number,
            compression=compression,
            docker=docker,
            algorithm=algorithm,
        )
        for number in range(layers)
    ]
    diff_ids = [diff_id for _, diff_id in made]
    config = _config(diff_ids, architecture, docker=docker, algorithm=algorithm, seed=seed)
    return _image(
        config,
        [packed for packed, _ in made],
        media_type=DOCKER_MANIFEST if docker else OCI_MANIFEST,
        algorithm=algorithm,
        architecture=architecture,
        more=_more(subject, annotations),
    )


def _more(subject: Blob | None, annotations: Mapping[str, str] | None) -> dict[str, object]:
    more: dict[str, object] = {}
    if subject is not None:
        more["subject"] = subject.descriptor()
    if annotations is not None:
        more["annotations"] = dict(annotations)
    return more


def _image(
    config: Blob,
    layers: Sequence[Blob],
    *,
    media_type: str,
    algorithm: str,
    architecture: str,
    more: Mapping[str, object],
) -> Image:
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        **more,
        "config": config.descriptor(),
        "layers": [packed.descriptor() for packed in layers],
    }
    content = _json(document)
    return Image(
        content=content,
        media_type=media_type,
        digest=digest_of(content, algorithm),
        config=config,
        layers=tuple(layers),
        architecture=architecture,
    )


def index(
    manifests: Sequence[Manifest],
    *,
    docker: bool = False,
    algorithm: str = "sha256",
    subject: Blob | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Index:
    """Build an OCI index, or a Docker manifest list, of *manifests*."""
    media_type = DOCKER_LIST if docker else OCI_INDEX
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        **_more(subject, annotations),
        "manifests": [_entry(manifest) for manifest in manifests],
    }
    content = _json(document)
    return Index(
        content=content,
        media_type=media_type,
        digest=digest_of(content, algorithm),
        manifests=tuple(manifests),
    )


def _entry(manifest: Manifest) -> Descriptor:
    if isinstance(manifest, Image) and manifest.architecture:
        # Builders put attestations beside images as of no platform.
        os = "unknown" if manifest.architecture == "unknown" else "linux"
        platform = {"architecture": manifest.architecture, "os": os}
        return manifest.descriptor(platform=platform)
    return manifest.descriptor()


def artifact(
    subject: Blob | None = None,
    *,
    artifact_type: str = "application/vnd.example.sbom+json",
    content: bytes = b'{"sbom": true}',
    annotations: Mapping[str, str] | None = None,
    algorithm: str = "sha256",
) -> Image:
    """Build an OCI artifact, which refers to *subject* if there is one."""
    empty = Blob(content=b"{}", media_type=OCI_EMPTY, digest=digest_of(b"{}", algorithm))
    payload = Blob(content=content, media_type=artifact_type, digest=digest_of(content, algorithm))
    return _image(
        empty,
        [payload],
        media_type=OCI_MANIFEST,
        algorithm=algorithm,
        architecture="",
        more={"artifactType": artifact_type, **_more(subject, annotations)},
    )
