"""TOML that a person wrote is changed by adding lines; whether that was right, parsing tells.

So comments and order stay, and nothing is written that means something else than was meant.
"""

import re
import tomllib
from collections.abc import Sequence
from typing import Any, Final

_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f\x7f]*')

Table = dict[str, Any]


def quoted(text: str) -> str:
    """Return a basic string."""
    if not _PLAIN.fullmatch(text):
        raise ValueError(f"{text!r} does not belong into a configuration")
    return f'"{text}"'


def array(texts: Sequence[str]) -> str:
    """Return an array of strings."""
    return f"[{', '.join(quoted(text) for text in texts)}]"


def parsed(text: str) -> Table | None:
    """Return what a text means, or None if it is no TOML."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return None


def with_block_before(text: str, block: str, header: str) -> str:
    """Return *text* with a block before the first table whose header begins so, or at the end."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.lstrip().startswith(header):
            return "".join((*lines[:number], block, "\n", *lines[number:]))
    return with_block_at_end(text, block)


def with_block_at_end(text: str, block: str) -> str:
    """Return *text* with a block after it."""
    if not text.strip():
        return block
    return f"{text}{'' if text.endswith(chr(10)) else chr(10)}\n{block}"


def with_line_in_table(text: str, line: str, headers: Sequence[str]) -> str | None:
    """Return *text* with a line below the first of these table headers; None without one."""
    lines = text.splitlines(keepends=True)
    for number, each in enumerate(lines):
        if each.partition("#")[0].strip() in headers:
            indent = each[: len(each) - len(each.lstrip())]
            ended = each if each.endswith("\n") else f"{each}\n"
            added = f"{indent}  {line}\n"
            return "".join((*lines[:number], ended, added, *lines[number + 1 :]))
    return None
