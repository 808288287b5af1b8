"""``mirror version``."""

import importlib.metadata
import json
import platform
import re
from typing import Any

from mirror import __version__
from mirror.cli.options import ConfigOption, JsonOption, Output, OutputOption, write


def version(
    *,
    config: ConfigOption = None,  # noqa: ARG001 -- every command takes it
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Print the version of Mirror, of Python and of the libraries in use."""
    facts = _facts()
    if output is Output.JSON:
        write(json.dumps(facts, indent=2))
        return
    write(f"mirror {facts['version']} (Python {facts['python']}, {facts['platform']})")
    for name, installed in facts["libraries"].items():
        write(f"  {name} {installed}")


def _facts() -> dict[str, Any]:
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": _libraries(),
    }


def _libraries() -> dict[str, str]:
    try:
        required = importlib.metadata.requires("mirror") or []
    except importlib.metadata.PackageNotFoundError:
        # Run from a source tree that is not installed.
        return {}
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in required]
    return {name: importlib.metadata.version(name) for name in names}
