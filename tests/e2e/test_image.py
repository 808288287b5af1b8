"""The image of the Dockerfile: what is in it, and that it serves with a read-only root."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import oci
from . import seed as names
from .conftest import Upstreams, cache_directory
from .daemon import eventually, free_port
from .image import USER, Image, Images, base_archive, pip_conf
from .mirror_process import PROJECT
from .seed import Seed

PACKAGES_MIB = 100
"""What Mirror and its packages may take in the image, without Python."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    work = tmp_path_factory.mktemp("image")
    images = Images(work)
    images.take(base_archive(cache_directory()))
    yield images.build("localhost/mirror-e2e", pip_conf(work / "pip.conf"))
    images.discard()


def files(root: Path) -> Iterator[Path]:
    for directory, _, found in os.walk(root):
        yield from (Path(directory, name) for name in found)


def test_it_says_how_it_is_to_be_run(image: Image) -> None:
    settings = image.settings
    assert settings["User"] == USER
    assert settings["Entrypoint"] == ["mirror"]
    assert settings["Cmd"] == ["serve"]
    assert settings["Healthcheck"]["Test"] == ["CMD", "mirror", "healthcheck"]
    assert settings["Labels"]["org.opencontainers.image.version"] == "1.2.3"
    assert settings["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_it_needs_no_shell(image: Image) -> None:
    with (image.root / "opt/mirror/bin/mirror").open("rb") as program:
        assert program.readline().startswith(b"#!/opt/mirror/bin/python")
    assert image.settings["Healthcheck"]["Test"][0] == "CMD"  # and not CMD-SHELL


def test_it_holds_no_tools_and_no_secrets(image: Image) -> None:
    inside = image.root / "opt/mirror"
    assert {path.name for path in (inside / "bin").glob("*pip*")} == set()
    assert not (image.root / "source").exists()
    assert not list((image.root / "run").glob("secrets/*"))
    for path in files(inside):
        status = path.lstat()
        assert status.st_uid == 0, path
        assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID), path
        assert stat.S_ISLNK(status.st_mode) or not status.st_mode & stat.S_IWOTH, path
    assert (image.root / "var/lib").stat().st_uid == 0
    cache = (image.root / "var/lib/mirror").stat()
    assert (cache.st_uid, cache.st_gid, stat.S_IMODE(cache.st_mode)) == (65532, 65532, 0o700)


def test_it_is_compiled_and_small(image: Image) -> None:
    inside = image.root / "opt/mirror"
    sources = [path for path in files(inside) if path.suffix == ".py"]
    assert len(sources) > 500
    uncompiled = [
        path
        for path in sources
        if path.stat().st_size and not list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc"))
    ]
    assert uncompiled == []
    size = sum(path.lstat().st_size for path in files(inside))
    whole = sum(path.lstat().st_size for path in files(image.root))
    print(f"image: Mirror and its packages {size / 2**20:.0f} MiB of {whole / 2**20:.0f} MiB")
    assert size < PACKAGES_MIB * 2**20


def test_its_bill_of_materials_is_what_the_lock_says(image: Image) -> None:
    text = (image.root / "opt/mirror/share/sbom/mirror.cdx.json").read_text(encoding="utf-8")
    told = json.loads(text)
    lock = (PROJECT / "requirements/runtime.txt").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z0-9._-]+)(?:\[.*?\])?==(\S+)", lock, re.MULTILINE))
    there = {
        re.sub(r"[-_.]+", "-", each["name"]).lower(): each["version"] for each in told["components"]
    }
    assert there.items() <= locked.items()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.split(r"[<>=[]", line)[0].lower() for line in project["dependencies"]}
    assert wanted <= there.keys()
    assert told["metadata"]["component"]["name"] == "mirror"
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    references = {each["bom-ref"] for each in told["components"]}
    needed = next(
        each for each in told["dependencies"] if each["ref"].startswith("pkg:pypi/mirror@")
    )
    assert set(needed["dependsOn"]) <= references
    assert len(needed["dependsOn"]) == len(wanted)


def test_it_serves_with_a_read_only_root(
    image: Image, upstreams: Upstreams, seed: Seed, tmp_path: Path
) -> None:
    data, port, admin_port = tmp_path / "data", free_port(), free_port()
    data.mkdir(mode=0o700)
    os.chown(data, 65532, 65532)
    environment = {
        "MIRROR_SERVER__LISTEN": f"127.0.0.1:{port}",
        "MIRROR_SERVER__ADMIN_LISTEN": f"127.0.0.1:{admin_port}",
        "MIRROR_CACHE__MAX_SIZE": "1GiB",
        "MIRROR_CACHE__MIN_FREE": "1%",
        "MIRROR_BUILTIN_UPSTREAMS": "false",
        "MIRROR_UPSTREAMS": json.dumps({"docker.io": {"endpoints": [upstreams.plain.url]}}),
    }
    daemon = image.start(data, environment, tmp_path / "image.log")
    try:
        daemon.wait_until(lambda: image.call(data, environment, ["healthcheck"]).returncode == 0)
        pulled = seed.images[names.MANY_LAYERS]
        path = f"http://127.0.0.1:{port}/v2/{pulled.repository}/blobs/{pulled.last_layer}"
        assert oci.digest_of(oci.request(path).body) == pulled.last_layer
        # The second may join the first while that is being stored.
        eventually(lambda: "hit" in oci.request(path).headers["cache-status"], "a hit")
    finally:
        assert daemon.stop() == 0, daemon.tail()
    gone = image.call(data, environment, ["healthcheck"])
    assert gone.returncode == 1
    assert "not ready" in gone.stderr
