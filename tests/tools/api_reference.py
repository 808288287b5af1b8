"""Writes docs/api.md: ``python -m tests.tools.api_reference``.

From the OpenAPI document of a mirror that runs for it, as ``/api/v1/openapi.json`` gives it.
"""

import asyncio
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.harness import mirror_of

Document = Mapping[str, Any]

INTRO: Final = """\
# Admin API

<!-- Written by `python -m tests.tools.api_reference`, from `/api/v1/openapi.json`. -->

On the admin listener (`server.admin_listen`, port 5001). The mirror describes it by itself, with
every type, at `/api/v1/openapi.json` (OpenAPI 3.1); this page is made from that. Who may use it,
and which header a change needs: [cache.md](cache.md#admin-api). What the fields of the overview
mean: [dashboard.md](dashboard.md#what-the-numbers-mean).

`*` marks a parameter or a field that must be given. A switch is `0` or `1`; a text may be repeated
where it says "any number". Fields in `…_bytes` are integers, times are seconds since 1970. Every
answer that is not 2xx is a `ProblemBody`: `{"error": {"code": …, "message": …, "hint": …}}`.
"""


async def document() -> Document:
    """Return what a running mirror says of itself."""
    with tempfile.TemporaryDirectory() as directory:
        upstreams = {"docker.io": "http://127.0.0.1:9"}
        async with mirror_of(Path(directory), upstreams) as mirror:
            url = f"{mirror.admin_url}/api/v1/openapi.json"
            async with mirror.session.get(url) as response:
                described: Document = await response.json()
                return described


def reference(described: Document) -> str:
    """Return the page."""
    parts = [INTRO, "## Operations\n"]
    for path, operations in described["paths"].items():
        parts += [_operation(f"{method.upper()} {path}", of) for method, of in operations.items()]
    parts.append("## Types\n")
    for name, schema in sorted(described["components"]["schemas"].items(), key=_by_short_name):
        parts.append(_type(name, schema))
    return "\n".join(parts).rstrip() + "\n"


def _operation(name: str, operation: Document) -> str:
    lines = [f"### {name}", "", operation["summary"], ""]
    rows = [_parameter(each) for each in operation["parameters"]]
    if rows:
        lines += ["| Query | Is | Meaning |", "|---|---|---|", *rows, ""]
    if "requestBody" in operation:
        lines.append(f"Takes {_content(operation['requestBody'])}.")
    lines += [f"Gives {_content(operation['responses']['200'])}.", ""]
    return "\n".join(lines)


def _parameter(parameter: Document) -> str:
    kind = "any number" if parameter["schema"]["type"] == "array" else "switch"
    mark = "*" if parameter["required"] else ""
    return f"| `{parameter['name']}`{mark} | {kind} | {_cell(parameter['description'])} |"


def _content(body: Document) -> str:
    (kind, content), *_ = body["content"].items()
    return f"`{kind}`: {_kind(content['schema'])}"


def _type(name: str, schema: Document) -> str:
    lines = [f"### {_short(name)}", "", _cell(schema.get("description", "")), ""]
    required = schema.get("required", ())
    rows = [
        f"| `{field}`{'*' if field in required else ''} | {_kind(of)} |"
        for field, of in schema.get("properties", {}).items()
    ]
    if rows:
        lines += ["| Field | Is |", "|---|---|", *rows, ""]
    elif "enum" in schema:
        lines += [f"One of {_values(schema['enum'])}.", ""]
    return "\n".join(lines)


def _kind(schema: Document) -> str:
    if "$ref" in schema:
        short = _short(schema["$ref"].rsplit("/", 1)[-1])
        return f"[{short}](#{short.lower().replace(' ', '-')})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return _values(schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}" if "items" in schema else "list"
    if schema.get("additionalProperties"):
        return f"object of {_kind(schema['additionalProperties'])}"
    return str(schema.get("type", "anything"))


def _values(values: list[Any]) -> str:
    return ", ".join(f"`{each}`" for each in values)


def _short(name: str) -> str:
    """Two types of one name are told apart by their modules."""
    *module, last = name.split(".")
    return f"{last} of {module[-1]}".replace("_", " ") if module else last


def _by_short_name(item: tuple[str, Document]) -> str:
    return _short(item[0])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference(asyncio.run(document())))
