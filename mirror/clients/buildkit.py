"""BuildKit: ``buildkitd.toml``.

Source: BuildKit docs/buildkitd.toml.md.
"""

from typing import Final

from mirror.clients.plan import CannotMergeError, Files, Plan, Wish
from mirror.clients.toml_text import (
    array,
    parsed,
    quoted,
    with_block_at_end,
    with_line_in_table,
)

RESTART_BUILDKIT: Final = "systemctl restart buildkit (with --user for one of a user)"
_FILE: Final = "buildkitd.toml"


def plan_buildkit(wish: Wish, files: Files) -> Plan:
    """Plan the daemon's configuration."""
    path = f"{buildkit_directory(wish.home)}/{_FILE}"
    before = files.read(path) or ""
    notes = []
    if not wish.fallback:
        notes.append("BuildKit always goes on to the registry; only the network can forbid that")
    old = parsed(before)
    if old is None or not isinstance(old.get("registry", {}), dict):
        raise CannotMergeError(path, "is no TOML that BuildKit could read")
    text = before
    for registry in wish.registries:
        text = _with_mirror(text, path, registry, wish.mirror.netloc)
    text = _with_access(text, path, wish)
    return Plan({path: text}, tuple(notes), RESTART_BUILDKIT)


def buildkit_directory(home: str | None) -> str:
    """Return where the daemon of the system, or of a user, has its configuration."""
    return "/etc/buildkit" if home is None else f"{home}/.config/buildkit"


def _with_mirror(text: str, path: str, registry: str, mirror: str) -> str:
    entry = (parsed(text) or {}).get("registry", {}).get(registry)
    if isinstance(entry, dict) and mirror in entry.get("mirrors", []):
        return text
    line = f"mirrors = {array([mirror])}"
    if isinstance(entry, dict) and "mirrors" in entry:
        reason = f"has mirrors for {registry} already; put {mirror} before them by hand"
        raise CannotMergeError(path, reason, line)
    return _with_lines(text, path, registry, [line])


def _with_access(text: str, path: str, wish: Wish) -> str:
    lines = ["http = true"] if wish.mirror.is_plain else []
    lines += [f"ca = {array([wish.ca])}"] if wish.ca else []
    there = (parsed(text) or {}).get("registry", {}).get(wish.mirror.netloc, {})
    lines = [line for line in lines if line.partition(" ")[0] not in there]
    return _with_lines(text, path, wish.mirror.netloc, lines) if lines else text


def _with_lines(text: str, path: str, registry: str, lines: list[str]) -> str:
    header = f"[registry.{quoted(registry)}]"
    block = "".join(f"{line}\n" for line in [header, *(f"  {line}" for line in lines)])
    old = parsed(text) or {}
    if registry in old.get("registry", {}):
        new: str | None = text
        for line in reversed(lines):
            new = with_line_in_table(new or "", line, [header, header.replace('"', "'")])
    else:
        new = with_block_at_end(text, block)
    own = (parsed(block) or {})["registry"][registry]
    registries = dict(old.get("registry", {}))
    registries[registry] = {**registries.get(registry, {}), **own}
    if new is None or parsed(new) != {**old, "registry": registries}:
        raise CannotMergeError(path, "has a form to which nothing can be added", block)
    return new
