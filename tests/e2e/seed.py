"""What the upstream registries hold; built once and kept in a directory across runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from . import oci
from .daemon import free_port, run
from .registry import Registry

BUSYBOX = Path("/bin/busybox")
GREETING = "hello through the mirror"
BIG_BYTES = 500_000_000
RANGES_BYTES = 128 * 1024 * 1024
FLIP_BYTES = 8 * 1024 * 1024
LAYERS = 40

HELLO = "docker.io/library/hello:v1"
MULTI = "docker.io/team/multi:v1"
DOCKER_LIST = "docker.io/team/list:v1"
MANY_LAYERS = "docker.io/team/layers:v1"
ZSTD = "docker.io/team/zstd:v1"
BIG = "docker.io/team/big:v1"
RANGES = "docker.io/team/ranges:v1"
FLIP = "docker.io/team/flip:v1"
ARTIFACT = "docker.io/team/artifact:v1"
SAME_NAME = "docker.io/same/name:v1"
OTHER_SAME_NAME = "ghcr.io/same/name:v1"
SECRET = "private.example/team/secret:v1"


@dataclass(frozen=True)
class Image:
    """An image as a person names it, and what its own registry says of it."""

    reference: str
    digest: str
    media_type: str
    last_layer: str
    last_layer_bytes: int

    @property
    def upstream(self) -> str:
        """The registry's name."""
        return self.reference.split("/", 1)[0]

    @property
    def repository(self) -> str:
        """The name between registry and tag."""
        return self.reference.split("/", 1)[1].rpartition(":")[0]

    @property
    def tag(self) -> str:
        """The tag."""
        return self.reference.rpartition(":")[2]


@dataclass(frozen=True)
class Seed:
    """The storage directories of the registries and the images in them."""

    directory: Path
    images: dict[str, Image]
    referrer: str

    def storage(self, upstream: str) -> Path:
        """Return the storage directory of one registry."""
        return self.directory / upstream


def seeded(cache: Path) -> Seed:
    """Return the seed, building it unless an equal one is in the cache."""
    sources = (Path(__file__), Path(oci.__file__))
    version = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    directory = cache / f"seed-{version}"
    if not directory.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as work:
            Builder(Path(work)).build()
            for old in cache.glob("seed-*"):
                shutil.rmtree(old)
            (Path(work) / "seed").replace(directory)
    return load(directory)


def load(directory: Path) -> Seed:
    """Return the seed that was built in a directory."""
    facts = json.loads((directory / "seed.json").read_text(encoding="utf-8"))
    images = {name: Image(**image) for name, image in facts["images"].items()}
    return Seed(directory, images, facts["referrer"])


class Builder:
    """Builds the seed: buildah and skopeo where they can, by hand where they cannot."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._images: dict[str, Image] = {}
        self._port = free_port()
        self._target = f"127.0.0.1:{self._port}"
        self._url = f"http://{self._target}"

    def build(self) -> None:
        """Fill ``<work>/seed``."""
        try:
            referrer = self._build_docker_io()
            self._build_namesake()
            self._build_secret()
        finally:
            shutil.rmtree(self._work / "buildah", ignore_errors=True)
        images = {name: asdict(image) for name, image in self._images.items()}
        facts = json.dumps({"images": images, "referrer": referrer}, indent=2)
        (self._work / "seed" / "seed.json").write_text(facts, encoding="utf-8")

    def _build_docker_io(self) -> str:
        registry = self._open_registry("docker.io")
        try:
            self._build_runnable()
            self._build_platforms()
            self._build_many_layers()
            self._recompress()
            for reference, size in ((BIG, BIG_BYTES), (RANGES, RANGES_BYTES), (FLIP, FLIP_BYTES)):
                self._repository(reference).push_image("v1", oci.random_layer(size))
                self._note(reference)
            self._namesake(SAME_NAME)
            return self._artifact()
        finally:
            registry.stop()

    def _build_namesake(self) -> None:
        registry = self._open_registry("ghcr.io")
        try:
            self._namesake(OTHER_SAME_NAME)
        finally:
            registry.stop()

    def _build_secret(self) -> None:
        registry = self._open_registry("private.example")
        try:
            self._namesake(SECRET)
        finally:
            registry.stop()

    def _open_registry(self, upstream: str) -> Registry:
        storage = self._work / "seed" / upstream
        registry = Registry(self._work / f"log-{upstream}", storage, self._port)
        registry.start()
        return registry

    def _build_runnable(self) -> None:
        self._context("hello", f'ENTRYPOINT ["/bin/busybox", "echo", "{GREETING}"]')
        self._buildah("build", "--isolation", "chroot", "--tag", "hello", self._work / "hello")
        self._push("hello", HELLO)

    def _build_platforms(self) -> None:
        self._context("multi", 'ENTRYPOINT ["/bin/busybox", "true"]')
        platforms = ("--platform", "linux/amd64,linux/arm64")
        self._buildah("build", *platforms, "--manifest", "multi", self._work / "multi")
        for reference, form in ((MULTI, "oci"), (DOCKER_LIST, "v2s2")):
            target = f"docker://{self._target}/{_path(reference)}"
            options = ("--all", "--tls-verify=false", "--format", form)
            self._buildah("manifest", "push", *options, "multi", target)
            self._note(reference)

    def _build_many_layers(self) -> None:
        names = [f"file-{number}" for number in range(1, LAYERS)]
        context = self._context("layers", *(f"COPY {name} /{name}" for name in names))
        for name in names:
            (context / name).write_bytes(os.urandom(10_000))
        self._buildah("build", "--layers", "--tag", "layers", context)
        self._push("layers", MANY_LAYERS)

    def _recompress(self) -> None:
        # By way of a directory: between repositories of one registry the layers
        # would be mounted as they are.
        source, target = (f"docker://{self._target}/{_path(name)}" for name in (HELLO, ZSTD))
        layout = f"oci:{self._work / 'zstd'}:v1"
        zstd = ("--dest-compress", "--dest-compress-format", "zstd")
        run("skopeo", "copy", "--src-tls-verify=false", *zstd, source, layout)
        run("skopeo", "copy", "--dest-tls-verify=false", "--preserve-digests", layout, target)
        self._note(ZSTD)
        assert self._images[ZSTD].last_layer != self._images[HELLO].last_layer

    def _namesake(self, reference: str) -> None:
        self._repository(reference).push_image("v1", oci.random_layer(100_000))
        self._note(reference)

    def _artifact(self) -> str:
        repository = self._repository(ARTIFACT)
        subject = repository.push_artifact("v1", "application/vnd.example.report", b"all is well")
        self._note(ARTIFACT)
        referrer = repository.push_referrer(subject, "application/vnd.example.signature", b"signed")
        return str(referrer["digest"])

    def _context(self, name: str, *lines: str) -> Path:
        context = self._work / name
        context.mkdir()
        shutil.copy(BUSYBOX, context / "busybox")
        steps = ["FROM scratch", "COPY busybox /bin/busybox", *lines]
        (context / "Containerfile").write_text("\n".join(steps), encoding="utf-8")
        return context

    def _push(self, local: str, reference: str) -> None:
        target = f"docker://{self._target}/{_path(reference)}"
        self._buildah("push", "--tls-verify=false", local, target)
        self._note(reference)

    def _buildah(self, *command: str | Path) -> None:
        state = self._work / "buildah"
        where = ("--root", state / "root", "--runroot", state / "run", "--storage-driver", "vfs")
        run("buildah", *where, *command)

    def _repository(self, reference: str) -> oci.Repository:
        return oci.Repository(self._url, _path(reference).rpartition(":")[0])

    def _note(self, reference: str) -> None:
        name, _, tag = _path(reference).rpartition(":")
        answer = _manifest(f"{self._url}/v2/{name}/manifests/{tag}")
        manifest = answer.json()
        if "manifests" in manifest:
            child = manifest["manifests"][0]["digest"]
            manifest = _manifest(f"{self._url}/v2/{name}/manifests/{child}").json()
        layer = manifest["layers"][-1]
        self._images[reference] = Image(
            reference,
            answer.headers["docker-content-digest"],
            answer.headers["content-type"],
            layer["digest"],
            layer["size"],
        )


def _path(reference: str) -> str:
    return reference.split("/", 1)[1]


def _manifest(url: str) -> oci.Answer:
    answer = oci.request(url, headers={"Accept": oci.ANY_MANIFEST})
    assert answer.status == 200, answer
    assert oci.digest_of(answer.body) == answer.headers["docker-content-digest"]
    return answer
