"""Keys of the configuration that are set by environment variables."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mirror.config.document import plain_scalar
from mirror.config.problems import Location, Problem, notation
from mirror.settings import Settings
from mirror.settings.section import Section

PREFIX: Final = "MIRROR_"
_SEPARATOR: Final = "__"


@dataclass
class Overrides:
    """The values found, where each belongs, and the variable it came from."""

    values: dict[Location, object] = field(default_factory=dict)
    variables: dict[Location, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def variable(self, location: Location) -> str | None:
        """Return the variable that set *location*, something around it, or something below."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.variables:
                return self.variables[location[:length]]
        # MIRROR_LOG__LEVEL__X makes a mapping of log.level. A whole section has other sources.
        below = [place for place in self.variables if place[: len(location)] == location]
        return self.variables[below[0]] if below and len(location) > 1 else None

    def applied_to(self, data: Mapping[str, object]) -> dict[str, Any]:
        """Return *data* with the values laid over it."""
        result = dict(data)
        for location, value in self.values.items():
            if not _put(result, location, value):
                variable = self.variables.pop(location)
                around = notation(location[:-1])
                self.problems.append(Problem(variable, f"{around} is not a mapping"))
        return result


def read_environment(environ: Mapping[str, str]) -> Overrides:
    """Find the variables of ours; all others, such as those of Kubernetes, are left alone."""
    found = Overrides()
    for location, variable, text in _ours(environ):
        found.variables[location] = variable
        if not text:
            # `-e MIRROR_X=` and `${X:-}` mean that nothing was set.
            continue
        try:
            found.values[location] = _value(text, is_json=location in _JSON)
        except (ValueError, RecursionError) as error:
            message = str(error) if isinstance(error, _JsonError) else "this is not JSON"
            found.problems.append(Problem(variable, message))
    return found


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


_FIELDS: Final = {name: field.annotation for name, field in Settings.model_fields.items()}
_SECTIONS: Final = {name for name, kind in _FIELDS.items() if _is_section(kind)}
_JSON: Final = {
    (name,) for name in _FIELDS if name not in _SECTIONS and _FIELDS[name] not in {str, bool}
}


def _ours(environ: Mapping[str, str]) -> Iterator[tuple[Location, str, str]]:
    for variable, text in sorted(environ.items()):
        name, separator, rest = variable.removeprefix(PREFIX).partition(_SEPARATOR)
        top = name.lower()
        if not variable.startswith(PREFIX) or name != name.upper() or top not in _FIELDS:
            continue
        if separator:
            yield (top, *rest.lower().split(_SEPARATOR)), variable, text
        elif top not in _SECTIONS:
            yield (top,), variable, text


class _JsonError(ValueError):
    """A mistake that JSON itself allows."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _JsonError("a key occurs twice in one object")
    return result


def _value(text: str, *, is_json: bool) -> object:
    if is_json:
        return json.loads(text, object_pairs_hook=_unique)
    if text.startswith(("[", "{")):
        try:
            return json.loads(text, object_pairs_hook=_unique)
        except _JsonError:
            raise
        except (ValueError, RecursionError):
            # `[::1]:5000` is an address.
            return text
    return plain_scalar(text)


def _put(data: dict[str, Any], location: Location, value: object) -> bool:
    *around, last = (str(part) for part in location)
    for key in around:
        inner = data.get(key)
        if inner is not None and not isinstance(inner, dict):
            return False
        data[key] = dict(inner or {})
        data = data[key]
    data[last] = value
    return True
