"""Where the names of images come from: arguments, lists, manifests, a cluster."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import typer
import yaml

from mirror.cli.options import FAILED, MISUSED, complain
from mirror.domain.workloads import images_in, images_listed, platforms_of_nodes

STDIN: Final = "-"
_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
_WORKLOADS: Final = "pods,deployments,statefulsets,daemonsets,jobs,cronjobs"
_KUBECTL_SECONDS: Final = 120


def from_lists(paths: list[str]) -> list[str]:
    """Return the images of files with one a line; ``-`` is standard input."""
    return [name for path in paths for name in images_listed(_read(path))]


def from_manifests(paths: list[str]) -> list[str]:
    """Return the images of YAML and JSON files, and of directories of them."""
    found: list[str] = []
    for path in paths:
        for file in _files(path):
            try:
                documents = list(yaml.load_all(_read(file), _LOADER))
            except yaml.YAMLError:
                complain(f"{file} is left out: it is not YAML (a chart? use `helm template`)")
                continue
            found += images_in(documents)
    return list(dict.fromkeys(found))


def from_cluster(context: str | None) -> tuple[list[str], tuple[str, ...]]:
    """Return the images of a cluster's workloads, and the platforms of its nodes."""
    images = images_in(_kubectl(context, "get", _WORKLOADS, "--all-namespaces"))
    # An image that a node knows by its ID only has no name that could be pulled.
    names = [name for name in images if not name.startswith("sha256:")]
    return names, platforms_of_nodes(_kubectl(context, "get", "nodes", needed=False))


def _read(path: str) -> str:
    if path == STDIN:
        return sys.stdin.read()
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        complain(f"{path}: {getattr(error, 'strerror', None) or 'this is not text'}")
        raise typer.Exit(MISUSED) from None


def _files(path: str) -> Iterator[str]:
    if path == STDIN or not Path(path).is_dir():
        yield path
        return
    for file in sorted(Path(path).rglob("*")):
        if file.suffix in _SUFFIXES and file.is_file():
            yield str(file)


def _kubectl(context: str | None, *arguments: str, needed: bool = True) -> object:
    program = shutil.which("kubectl")
    if program is None:
        complain("kubectl is not installed", "give a list of images instead: -f FILE")
        raise typer.Exit(FAILED)
    chosen = [] if context is None else [f"--context={context}"]
    try:
        done = subprocess.run(  # noqa: S603 -- kubectl, with arguments of ours
            [program, *chosen, *arguments, "-o", "json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_KUBECTL_SECONDS,
            check=True,
        )
        return json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
    except subprocess.TimeoutExpired:
        reason = f"it has not answered for {_KUBECTL_SECONDS} s"
    except ValueError:
        reason = "its answer is not JSON"
    if not needed:
        return {}
    complain(f"kubectl: {reason[:500]}")
    raise typer.Exit(FAILED)


_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
