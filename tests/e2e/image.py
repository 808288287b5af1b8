"""Builds the image of the Dockerfile on a Debian base, and runs it with a read-only root."""

from __future__ import annotations

import configparser
import io
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .daemon import Daemon, run
from .mirror_process import PROJECT

SUITE = "bookworm"
BASE = "localhost/mirror-e2e-base"
PACKAGES = "python3,python3-venv,ca-certificates"
USER = "65532:65532"
SECONDS = 600
# Everything but the cache is read-only; /proc and /dev are what a container has, too.
RUN = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" &&
mount --bind /dev "$1/dev" && mount -t proc proc "$1/proc" &&
mount --bind "$2" "$1/var/lib/mirror" || exit 99
root=$1; user=$3; shift 3
exec chroot --userspec="$user" "$root" "$@"
"""


class Images:
    """Storage of its own, so that nothing of this machine's is touched."""

    def __init__(self, work: Path) -> None:
        self._storage = (
            *("--root", str(work / "storage"), "--runroot", str(work / "run")),
            *("--storage-driver", "vfs"),
        )

    def buildah(self, *command: str | Path) -> str:
        """Run buildah and return what it prints."""
        return run("buildah", *self._storage, *command, seconds=SECONDS).strip()

    def take(self, archive: Path) -> None:
        """Make the base image from an archive of a root file system."""
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, archive, "/")
        self.buildah("commit", "--quiet", container, BASE)
        self.buildah("rm", container)

    def build(self, name: str, pip_conf: Path) -> Image:
        """Build the Dockerfile; the package index comes by a secret from this environment."""
        self.buildah(
            *("build", "--isolation", "chroot", "--format", "docker"),
            *(
                "--secret",
                f"id=pip.conf,src={pip_conf}",
                "--volume",
                "/etc/ssl/certs:/etc/ssl/certs:ro",
            ),
            *(
                "--build-arg",
                f"BASE={BASE}",
                "--build-arg",
                "VERSION=1.2.3",
                "--tag",
                name,
                PROJECT,
            ),
        )
        container = self.buildah("from", "--pull-never", name)
        described = json.loads(self.buildah("inspect", "--type", "image", name))
        return Image(Path(self.buildah("mount", container)), described["Docker"])

    def discard(self) -> None:
        """Unmount and remove everything."""
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")


class Image:
    """A built image: its root file system and how it is to be run."""

    def __init__(self, root: Path, described: Mapping[str, Any]) -> None:
        self.root = root
        self.settings: dict[str, Any] = described["config"]
        self.layers: list[dict[str, Any]] = described["history"]

    def command(self, data: Path, environment: Mapping[str, str], *arguments: str) -> list[str]:
        """Return the command that runs the image's entry point with a directory as its cache."""
        variables = [
            *self.settings["Env"],
            *(f"{key}={value}" for key, value in environment.items()),
        ]
        command = [*self.settings["Entrypoint"], *(arguments or self.settings["Cmd"])]
        inside = ["/usr/bin/env", "-i", "-C", self.settings["WorkingDir"], *variables, *command]
        user = self.settings["User"]
        return [
            "unshare",
            "--mount",
            "sh",
            "-c",
            RUN,
            "sh",
            str(self.root),
            str(data),
            user,
            *inside,
        ]

    def start(self, data: Path, environment: Mapping[str, str], log: Path) -> Daemon:
        """Start what the image runs by default."""
        return Daemon("image", self.command(data, environment), log)

    def call(
        self, data: Path, environment: Mapping[str, str], arguments: Sequence[str]
    ) -> subprocess.CompletedProcess[str]:
        """Run another command of the image."""
        command = self.command(data, environment, *arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def base_archive(cache: Path) -> Path:
    """Return the archive of a small Debian with Python, made once and kept."""
    archive = cache / f"base-{SUITE}.tar"
    if archive.exists():
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / f"base-{SUITE}.new"
    shutil.rmtree(root, ignore_errors=True)
    run(
        "debootstrap",
        "--variant=minbase",
        f"--include={PACKAGES}",
        SUITE,
        root,
        _debian(),
        seconds=SECONDS,
    )
    for useless in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(root / useless, ignore_errors=True)
    run("tar", "--directory", root, "--create", "--file", f"{archive}.new", ".", seconds=SECONDS)
    Path(f"{archive}.new").rename(archive)
    shutil.rmtree(root)
    return archive


def _debian() -> str:
    """Return where this machine gets its Debian packages from."""
    wanted = ("--format", "$(REPO_URI)", "Created-By: Packages")
    return run("apt-get", "indextargets", *wanted).splitlines()[0]


def pip_conf(path: Path) -> Path:
    """Write the package index and authorities that pip uses here into a file of its own."""
    python = str(PROJECT / ".venv/bin/python")
    found: dict[str, str] = {}
    for line in run(python, "-m", "pip", "config", "list").splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in {"index-url", "extra-index-url", "trusted-host", "proxy", "cert"}:
            found[name] = value.strip("'")
    if found.get("cert", "").startswith("/etc/ssl/certs/") or not found.get("cert"):
        found["cert"] = "/etc/ssl/certs/ca-certificates.crt"
    written = configparser.RawConfigParser()
    written["global"] = found
    with io.StringIO() as text:
        written.write(text)
        path.write_text(text.getvalue(), encoding="utf-8")
    path.chmod(0o600)
    return path
