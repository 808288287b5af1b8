"""From files and environment to settings, with all mistakes named at once."""

import importlib.resources
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from mirror.config.document import MAX_BYTES, SCALARS, Document, parse_document
from mirror.config.environment import read_environment
from mirror.config.explain import as_written, explain
from mirror.config.problems import ConfigError, Location, Problem
from mirror.settings import Settings
from mirror.settings.fields import FILE_PROBLEM

__all__ = [
    "ConfigError",
    "Loaded",
    "Problem",
    "example",
    "load",
    "load_what_is_right",
    "schema",
    "show",
]

VARIABLE: Final = "MIRROR_CONFIG"
SEARCHED: Final = (Path("mirror.yaml"), Path("/etc/mirror/mirror.yaml"))


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and the file they came from, if any."""

    settings: Settings
    source: Path | None


def load(path: Path | None, environ: Mapping[str, str], *, with_files: bool = True) -> Loaded:
    """Read the configuration that *path*, MIRROR_CONFIG or the usual places give.

    Args:
        path: the file that was named, if any.
        environ: the environment.
        with_files: look whether the files that it names can be read. Whoever needs none of them
            may be somebody who may not read them.

    Raises:
        ConfigError: with everything that is wrong.
    """
    source = _source(path, environ)
    document = Document() if source is None else _read(source)
    overrides = read_environment(environ)
    data = overrides.applied_to(document.data)
    problems = document.problems + overrides.problems
    if document.problems and not document.data:
        raise ConfigError(problems, source)
    if source is None:
        data = _with_own_directory(data, environ)
    try:
        settings = _validated(data, with_files=with_files)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            location = as_written(detail["loc"], data)
            line, variable = document.line(location), overrides.variable(location)
            problems.append(explain(detail, location, line, variable))
    if problems:
        raise ConfigError(problems, source)
    return Loaded(settings, source)


def load_what_is_right(
    path: Path | None, environ: Mapping[str, str]
) -> tuple[Loaded, ConfigError | None]:
    """Read the configuration; what is wrong in it stays at its default, and is named beside.

    For looking at what is there: a mirror that runs by half a configuration helps nobody.
    """
    try:
        return load(path, environ), None
    except ConfigError as error:
        return Loaded(_salvaged(error.source, environ), error.source), error


def _salvaged(source: Path | None, environ: Mapping[str, str]) -> Settings:
    try:
        document = Document() if source is None else _read(source)
    except ConfigError:
        document = Document()
    data = read_environment(environ).applied_to(document.data)
    if source is None:
        data = _with_own_directory(data, environ)
    while True:  # what is wrong goes, until nothing is wrong or nothing is left
        try:
            return _validated(data)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            smaller = data
            for location in [as_written(detail["loc"], data) for detail in details]:
                smaller = _without(smaller, location)
            data = {} if smaller == data else smaller


def _without(data: dict[str, Any], location: Location) -> dict[str, Any]:
    """Return *data* without a key, or without the nearest one around it that is there."""
    key, below = next(iter(location), ""), location[1:]
    inner = data.get(str(key))
    if isinstance(inner, dict) and below and below[0] in inner:
        return {**data, str(key): _without(inner, below)}
    return {name: value for name, value in data.items() if name != key}


def _validated(data: Mapping[str, object], *, with_files: bool = True) -> Settings:
    context = {FILE_PROBLEM: _file_problem} if with_files else {}
    return Settings.model_validate(data, by_name=False, context=context)


def _source(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    if environ.get(VARIABLE):
        return Path(environ[VARIABLE])
    return next((candidate for candidate in SEARCHED if _exists(candidate)), None)


def _exists(path: Path) -> bool:
    # Not Path.exists(), which from Python 3.14 on says no for whatever we may not look at.
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        # It is there, but not for us: reading it says why.
        return True
    return True


def _read(source: Path) -> Document:
    try:
        with source.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        hint = "`mirror config init FILE` writes a configuration to begin with"
        raise ConfigError([Problem(str(source), _said(error), hint)], source) from None
    if len(content) > MAX_BYTES:
        raise ConfigError([Problem(str(source), "this file is larger than 1 MiB")], source)
    return parse_document(content)


def _said(error: OSError | ValueError) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return f"cannot be read: {text or 'not a path'}"


def _file_problem(path: Path) -> str | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "is not a file"
        with path.open("rb") as file:
            file.read(1)
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except (OSError, ValueError) as error:
        return _said(error)
    return None


def _with_own_directory(data: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Put the cache where a user may write, for somebody who just tries Mirror."""
    home, cache = environ.get("HOME", ""), environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if cache.startswith("/") else Path(home, ".cache")
    if not base.is_absolute():
        return data
    return {**data, "cache": {"directory": str(base / "mirror"), **data.get("cache", {})}}


def schema() -> dict[str, Any]:
    """Return the JSON schema of the file."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **Settings.model_json_schema(by_alias=True)}


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or the loader here would take for a number."""


for _tag, _pattern, _first in SCALARS:
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


def show(settings: Settings) -> str:
    """Return the effective configuration as YAML; secrets are not in it."""
    data = settings.model_dump(mode="json")
    for upstream in data["upstreams"].values():
        # Only what differs, so that the policy for all stands in one place.
        upstream["policy"] = _difference(upstream["policy"], data["policy"])
    data["upstreams"].update(dict.fromkeys(settings.removed_upstreams))
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return text


def _difference(own: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    result = {}
    for key, value in own.items():
        if value != base[key]:
            both = isinstance(value, dict) and isinstance(base[key], dict)
            result[key] = _difference(value, base[key]) if both else value
    return result


def example() -> str:
    """Return the commented default configuration."""
    return importlib.resources.files("mirror.config").joinpath("mirror.yaml").read_text("utf-8")
