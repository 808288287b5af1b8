"""Which images Kubernetes objects, compose files and lists name."""

from collections.abc import Iterator
from typing import Final

_NOT_LOOKED_AT: Final = frozenset({"metadata", "data", "stringData", "binaryData", "status"})
"""What is text for others, and may hold anything under the key ``image``."""
_DEPTH_MAX: Final = 60
_PLACEHOLDERS: Final = ("{{", "${", "$(")


def images_in(document: object) -> list[str]:
    """Return the images that a document of YAML or JSON names, each once, in order.

    That is what stands under ``image``, as in containers of Pods and in services of compose
    files, and under ``reference`` in volumes of images.
    """
    return list(dict.fromkeys(_images(document, _DEPTH_MAX)))


def _images(value: object, depth: int) -> Iterator[str]:
    if not depth:
        return
    if isinstance(value, list):
        for each in value:
            yield from _images(each, depth - 1)
    if not isinstance(value, dict):
        return
    for key, below in value.items():
        if key == "image" and _is_name(below):
            yield below
        elif key == "image" and isinstance(below, dict) and _is_name(below.get("reference")):
            yield below["reference"]
        elif key not in _NOT_LOOKED_AT:
            yield from _images(below, depth - 1)


def _is_name(value: object) -> bool:
    is_text = isinstance(value, str) and bool(value.strip())
    return is_text and not any(each in str(value) for each in _PLACEHOLDERS)


def images_listed(text: str) -> list[str]:
    """Return the images of a list: one a line, ``#`` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def platforms_of_nodes(document: object) -> tuple[str, ...]:
    """Return the platforms of a list of Kubernetes nodes, in order."""
    items = document.get("items") if isinstance(document, dict) else None
    found = set()
    for item in items if isinstance(items, list) else ():
        match item:
            case {"status": {"nodeInfo": {"operatingSystem": str(os), "architecture": str(cpu)}}}:
                found.add(f"{os}/{cpu}")
            case _:
                continue
    return tuple(sorted(found))
