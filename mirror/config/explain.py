"""Mistakes as pydantic finds them, in the words of the person who wrote the file."""

import difflib
from collections.abc import Iterator
from typing import Final, get_args

from pydantic_core import ErrorDetails

from mirror.config.problems import Location, Problem, notation
from mirror.settings import Settings
from mirror.settings.section import Section

# None of these repeats the input: it may be a secret.
_MESSAGES: Final = {
    "missing": "this key is missing",
    "extra_forbidden": "unknown key",
    "string_type": "must be text",
    "path_type": "must be a path",
    "string_unicode": "must be text that can be written as UTF-8",
    "string_too_short": "must not be empty",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
}
_HINTS: Final = {"string_type": "put it in quotes"}
_HINTS_FOR_VARIABLES: Final = {"string_type": "put it in quotes that the shell leaves: '\"…\"'"}


def section_classes(annotation: object) -> Iterator[type[Section]]:
    """Return the kinds of section that a value of this type can hold."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from section_classes(argument)


def keys(section: type[Section]) -> dict[str, object]:
    """Return the YAML keys of *section*, with their types."""
    return {
        field.alias or name: field.annotation
        for name, field in section.model_fields.items()
        if not field.exclude
    }


def as_written(location: tuple[str | int, ...], data: object) -> Location:
    """Return the place in *data*, where a single mapping may stand for a list of them."""
    place: list[str | int] = []
    for part in location:
        if part == "[key]" or (isinstance(data, dict) and isinstance(part, int)):
            continue
        place.append(part)
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
    return tuple(place)


def explain(
    error: ErrorDetails, location: Location, line: int | None, variable: str | None
) -> Problem:
    """Say what *error* means at *location*, which a variable or a line of the file has set."""
    kind = error["type"]
    message = _MESSAGES.get(kind, "{msg}").format_map({"msg": error["msg"], **error.get("ctx", {})})
    hints = _HINTS if variable is None else _HINTS_FOR_VARIABLES
    hint = _suggestion(location) if kind == "extra_forbidden" else hints.get(kind)
    if variable is not None:
        set_by = f"set by {variable}"
        return Problem(notation(location), message, f"{set_by}; {hint}" if hint else set_by)
    return Problem(notation(location), message, hint, line)


def _section_at(location: Location) -> type[Section] | None:
    section: type[Section] | None = Settings
    # The part after `upstreams` is a name, not a key.
    parts = [part for part in location if isinstance(part, str)]
    if parts[:1] == ["upstreams"]:
        parts[1:2] = []
    for part in parts:
        section = next(section_classes(keys(section).get(part)), None) if section else None
    return section


def _all_keys(section: type[Section], around: Location) -> Iterator[Location]:
    for key, annotation in keys(section).items():
        yield (*around, key)
        if around or key != "upstreams":
            for inner in section_classes(annotation):
                yield from _all_keys(inner, (*around, key))


def _suggestion(location: Location) -> str | None:
    section, wrong = _section_at(location[:-1]), str(location[-1])
    known: list[str] = list(keys(section)) if section else []
    near = difflib.get_close_matches(wrong, known, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    elsewhere = [notation(place) for place in _all_keys(Settings, ()) if place[-1] == wrong]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere[:2])}?"
    return f"known here: {', '.join(known)}" if known else None
