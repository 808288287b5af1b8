"""Writes docs/configuration.md: ``python -m tests.tools.configuration_reference``."""

import sys
from collections.abc import Iterator
from typing import Any, Final

from mirror.config import schema

INTRO: Final = """\
# Configuration

<!-- Written by `python -m tests.tools.configuration_reference`, from the schema in
`mirror/settings/`. -->

Mirror needs no configuration: it then mirrors the well-known registries anonymously and keeps its
cache in `$XDG_CACHE_HOME/mirror` (else `~/.cache/mirror`). `mirror config init` writes
[a commented file](../config/mirror.yaml) to begin with.

## Where it comes from

The first of these is read: the file named by `--config`, the file named by `MIRROR_CONFIG`,
`./mirror.yaml`, `/etc/mirror/mirror.yaml`. A file that was named must exist. Relative paths are
relative to the directory in which Mirror was started.

Environment variables win over the file. Their names are in the tables below; the value is read
like a single value in YAML (`"123"`, with its quotes, is text), and as JSON where a key holds a
list or a mapping, which it replaces as a whole. An empty variable counts as not set. Other
variables that begin with `MIRROR_`, such as those that Kubernetes sets for a service called
`mirror`, are ignored; an unknown key of a known section is a mistake.

## How values are written

| Kind | Examples |
|---|---|
| duration | `500ms`, `90s`, `10m`, `1h30m`, `6h`, `7d`; a plain number is in seconds |
| size | `64MiB`, `50GiB`, `10GB`, `50Gi`; a plain number is in bytes |
| size or share | a size, or a share of the file system such as `80%` |
| address | `0.0.0.0:5000`, `[::1]:5000`; `:5000` is every address of the machine |
| pattern | `library/alpine`, `library/*`, `**` |

The file is YAML. `no` and `12:30` are text, as in YAML 1.2. A key without a value has its default.
An unknown key and a key that occurs twice are mistakes.

## Mistakes

`mirror config check` (and every command that reads the configuration) names all mistakes at once,
with file, line and key, and never repeats a value that might be a secret. Exit codes: 0 all is
well, 1 it failed at run time, 2 the command line or the configuration is wrong.
`mirror config show` prints what is in effect, with `********` in place of secrets.
`mirror config schema` prints a JSON schema for editors. Should Mirror itself make a mistake, then
`MIRROR_TRACEBACK=1` makes it say where.
"""

WELL_KNOWN: Final = """\
The registries docker.io, ghcr.io, quay.io, registry.k8s.io, gcr.io, mcr.microsoft.com,
public.ecr.aws and nvcr.io are known: their entries are merged key by key with those of the file,
`quay.io: null` removes one, and `builtin_upstreams: false` leaves out those that the file does not
name. `policy` of an upstream has the keys of [`policy`](#policy) that differ for it.
"""

Schema = dict[str, Any]


def reference() -> str:
    """Return the document."""
    whole = schema()
    parts = [INTRO]
    for path, section in _sections(whole, whole, ()):
        title = ".".join(path) or "Top level"
        parts.append(f"## `{title}`\n" if path else f"## {title}\n")
        parts.append(f"{section['description']}\n" if path else "")
        parts.append(_table(whole, path, section))
        if path == ("upstreams", "<name>"):
            parts.append(WELL_KNOWN)
    return "\n".join(part for part in parts if part)


def _sections(
    whole: Schema, section: Schema, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Schema]]:
    yield path, section
    for key, value in section["properties"].items():
        # `policy` of an upstream has the same keys as that of all.
        if path[:1] == ("upstreams",) and key == "policy":
            continue
        inner, place = _inside(whole, value), _place(value, (*path, key))
        if inner is not None:
            yield from _sections(whole, inner, place)


def _place(value: Schema, path: tuple[str, ...]) -> tuple[str, ...]:
    if "additionalProperties" in value:
        return (*path, "<name>")
    choices = [value, *value.get("anyOf", ())]
    if any("items" in choice for choice in choices):
        return (*path[:-1], f"{path[-1]}[]")
    return path


def _inside(whole: Schema, value: Schema) -> Schema | None:
    """Return the section that *value* holds, however deep."""
    if "$ref" in value:
        found: Schema = whole["$defs"][value["$ref"].rpartition("/")[2]]
        return found
    inner = [value[key] for key in ("items", "additionalProperties") if value.get(key)]
    candidates = [_inside(whole, choice) for choice in [*inner, *value.get("anyOf", ())]]
    return next((found for found in candidates if found), None)


def _table(whole: Schema, path: tuple[str, ...], section: Schema) -> str:
    lines = ["| Key | Default | Meaning | Environment variable |", "|---|---|---|---|"]
    for key, value in section["properties"].items():
        if _inside(whole, value) is not None and "$ref" in value:
            continue
        needed = key in section.get("required", ())
        default = "required" if needed else _default(value)
        cells = (f"`{key}`", default, _meaning(value), _variable(path, key))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _default(value: Schema) -> str:
    default = value.get("default")
    if default in (None, [], {}):
        return "none"
    if isinstance(default, list):
        return ", ".join(f"`{item}`" for item in default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _meaning(value: Schema) -> str:
    marks = []
    choices = next((c["enum"] for c in [value, *value.get("anyOf", ())] if "enum" in c), None)
    unit = next((c["x-unit"] for c in [value, *value.get("anyOf", ())] if "x-unit" in c), None)
    if choices:
        marks.append(" or ".join(f"`{choice}`" for choice in choices))
    if unit:
        marks.append(unit)
    text = str(value["description"]).replace("|", "\\|")
    return f"{text} ({'; '.join(marks)})" if marks else text


def _variable(path: tuple[str, ...], key: str) -> str:
    """Return the variable of a key, or of the list or mapping of sections it is in."""
    whole = []
    for part in path:
        if part == "<name>":
            break
        whole.append(part.removesuffix("[]"))
        if part.endswith("[]"):
            break
    else:
        return f"`{_spelt([*whole, key])}`"
    return f"in `{_spelt(whole)}`"


def _spelt(parts: list[str]) -> str:
    return f"MIRROR_{'__'.join(parts).upper()}"


if __name__ == "__main__":
    sys.stdout.write(reference())
