"""Reading YAML: plain data, the line of every key, and all mistakes of form.

Of YAML 1.1 only what people mean is kept: ``no`` and ``12:30`` are text, as in YAML 1.2, and a
key that occurs twice is a mistake.
"""

import re
from dataclasses import dataclass, field
from typing import Final

import yaml

from mirror.config.problems import Location, Problem, notation

MAX_BYTES: Final = 1024 * 1024
# Aliases can make a short file into a long configuration.
_MAX_NODES: Final = 100_000
_MAX_INT_CHARS: Final = 40
_TAG: Final = "tag:yaml.org,2002:"
_COLLECTIONS: Final = {f"{_TAG}map", f"{_TAG}seq"}
_QUOTES: Final = {"'", '"'}
NO_TAGS: Final = "a value that begins with ! goes in quotes"
_QUOTED: Final = re.compile(r"""'[^']*'|"[^"]*\"""")
# What PyYAML says about punctuation: one character, an escape, or the kind of a token.
_HARMLESS: Final = re.compile(r"'(?:.|\\.|<[a-z ]+>)'")
_NEEDS_QUOTES: Final = re.compile("alias|anchor|tag|cannot start any token")

SCALARS: Final = (
    (f"{_TAG}null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    (f"{_TAG}bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    (f"{_TAG}int", re.compile(r"[-+]?[0-9]+\Z"), list("-+0123456789")),
    (
        f"{_TAG}float",
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
        list("-+0123456789."),
    ),
)


class _Loader(yaml.SafeLoader):
    """A loader of which only the composer is used."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 -- so in PyYAML


for _tag, _pattern, _first in SCALARS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)


@dataclass
class Document:
    """What a file says."""

    data: dict[str, object] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, location: Location) -> int | None:
        """Return the line of the key at *location*, or of the nearest one around it."""
        for length in range(len(location), 0, -1):
            line = self.lines.get(location[:length])
            if line is not None:
                return line
        return None


def parse_document(content: bytes) -> Document:
    """Read a whole file."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Document(problems=[Problem("", "this is not UTF-8 text", line=line)])
    try:
        root = yaml.compose(text, _Loader)
        return _Reader().read(root) if root is not None else Document()
    except yaml.YAMLError as error:
        return Document(problems=[_syntax_problem(error)])
    except RecursionError:
        return Document(problems=[Problem("", "this is nested too deeply")])


def plain_scalar(text: str) -> object:
    """Return what *text* means where YAML has a single value; what is quoted is text."""
    if text[:1] in _QUOTES and text[-1:] == text[:1]:
        return _unquoted(text)
    for tag, pattern, _ in SCALARS:
        if pattern.match(text):
            return _scalar(tag, text)
    return text


def _unquoted(text: str) -> str:
    try:
        node = yaml.compose(text, _Loader)
    except yaml.YAMLError:
        return text
    # Two words in quotes are no single value: they stay as they are.
    if isinstance(node, yaml.ScalarNode) and node.end_mark.index == len(text):
        return str(node.value)
    return text


def _syntax_problem(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark else None
    said = getattr(error, "problem", None) or "there are characters YAML forbids"
    hint = "put values that begin with * & ! % @ in quotes" if _NEEDS_QUOTES.search(said) else None
    if "'\\t'" in said:
        hint = "indent with spaces, not with tabs"
    # Words of the file are left out: such a word may be a password.
    said = _QUOTED.sub(lambda word: word[0] if _HARMLESS.fullmatch(word[0]) else "…", said)
    return Problem("", f"this is not YAML: {said}", hint, line)


def _scalar(tag: str, text: str) -> object:
    kind = tag.removeprefix(_TAG)
    if kind == "str":
        return text
    if not any(tag == known and pattern.match(text) for known, pattern, _ in SCALARS):
        raise ValueError
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int" and len(text) <= _MAX_INT_CHARS:
        return int(text)
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


class _Reader:
    """Turns nodes into data; mistakes are collected, and reading goes on."""

    def __init__(self) -> None:
        self._document = Document()
        self._open: set[int] = set()
        self._nodes = 0

    def read(self, root: yaml.Node) -> Document:
        if isinstance(root, yaml.MappingNode):
            self._document.data = self._mapping(root, ())
        elif root.tag != f"{_TAG}null":
            self._problem((), "the file must be a mapping, as in `cache: {max_size: 20GiB}`", root)
        return self._document

    def _problem(self, location: Location, message: str, node: yaml.Node) -> None:
        line = node.start_mark.line + 1
        self._document.problems.append(Problem(notation(location), message, line=line))

    def _value(self, node: yaml.Node, location: Location) -> object:
        self._nodes += 1
        if id(node) in self._open or self._nodes > _MAX_NODES:
            if self._nodes <= _MAX_NODES + 1:
                self._problem(location, "this alias makes the configuration endless", node)
            return None
        self._open.add(id(node))
        try:
            return self._inside(node, location)
        finally:
            self._open.discard(id(node))

    def _inside(self, node: yaml.Node, location: Location) -> object:
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
            self._problem(location, NO_TAGS, node)
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self._document.lines[(*location, number)] = item.start_mark.line + 1
            return [self._value(item, (*location, n)) for n, item in enumerate(node.value)]
        try:
            return _scalar(node.tag, node.value)
        except ValueError:
            self._problem(location, NO_TAGS, node)
            return None

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(location, "a key is a single word", key_node)
                continue
            key = key_node.value
            inner = (*location, key)
            if key in result:
                first = self._document.lines[inner]
                self._problem(inner, f"this key occurs twice, first in line {first}", key_node)
                continue
            self._document.lines[inner] = key_node.start_mark.line + 1
            result[key] = self._value(value_node, inner)
        return result
