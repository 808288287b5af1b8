"""The files in which container clients are told of a mirror, read for the addresses in them.

Source: containerd ``docs/hosts.md``, Docker's ``daemon.json``, containers-registries.conf(5),
the k3s documentation of ``registries.yaml``.
"""

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, Final

import yaml


class ClientFileError(ValueError):
    """A file is not what its name promises; the client ignores it, or does not start."""


def mirrors_in(path: PurePath, text: str) -> list[str]:
    """Return the addresses that a client is told to try first, in their order.

    Raises:
        ClientFileError: the client cannot read the file either.
    """
    read, find = _READERS.get(path.name, (tomllib.loads, _registries))
    try:
        document = read(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ClientFileError(
            f"this is not {_LANGUAGE.get(path.suffix, 'TOML')}: {error}"
        ) from None
    try:
        return list(find(document))
    except (AttributeError, KeyError, TypeError):
        raise ClientFileError("this is not in the form that the client expects") from None


def _hosts(document: Any) -> Iterator[str]:  # noqa: ANN401 -- whatever the file holds
    yield from document.get("host", {}).keys()


def _daemon(document: Any) -> Iterator[str]:  # noqa: ANN401 -- as above
    yield from map(str, document.get("registry-mirrors", []))


def _registries(document: Any) -> Iterator[str]:  # noqa: ANN401 -- as above
    for registry in document.get("registry", []):
        mirrors = registry.get("mirror", [])
        if registry.get("location", registry.get("prefix")) != registry.get("prefix"):
            # Another address takes the place of the registry: so it is in an air gap.
            mirrors = [*mirrors, registry]
        for mirror in mirrors:
            scheme = "http" if mirror.get("insecure") else "https"
            yield f"{scheme}://{mirror['location']}"


def _endpoints(document: Any) -> Iterator[str]:  # noqa: ANN401 -- as above
    for mirror in ((document or {}).get("mirrors") or {}).values():
        yield from map(str, (mirror or {}).get("endpoint") or [])


_LANGUAGE: Final = {".json": "JSON", ".yaml": "YAML"}
_READERS: Final[dict[str, tuple[Callable[[str], Any], Callable[[Any], Iterator[str]]]]] = {
    "hosts.toml": (tomllib.loads, _hosts),
    "daemon.json": (json.loads, _daemon),
    "registries.yaml": (yaml.safe_load, _endpoints),
}
