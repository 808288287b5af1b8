"""k3s and RKE2: ``registries.yaml``, of which they write containerd's files at their start.

Source: the k3s documentation, "Private Registry Configuration".
"""

from typing import Any, Final

import yaml

from mirror.clients.plan import CannotMergeError, Files, Plan, Wish

RESTART_K3S: Final = "systemctl restart k3s (k3s-agent on agents)"
RESTART_RKE2: Final = "systemctl restart rke2-server (rke2-agent on agents)"
_FILE: Final = "registries.yaml"
_CATCH_ALL: Final = "*"
_NO_FALLBACK: Final = "disable-default-registry-endpoint: true\n"


def plan_k3s(wish: Wish, files: Files) -> Plan:
    """Plan for k3s."""
    return _plan(wish, files, "k3s", RESTART_K3S)


def plan_rke2(wish: Wish, files: Files) -> Plan:
    """Plan for RKE2."""
    return _plan(wish, files, "rke2", RESTART_RKE2)


def _plan(wish: Wish, files: Files, name: str, activate: str) -> Plan:
    base = rancher_directory(name)
    path = f"{base}/{_FILE}"
    planned = {path: _merged(wish, path, files.read(path))}
    notes = []
    if not wish.fallback:
        # Known since January 2024 (1.26.13, 1.27.10, 1.28.6, 1.29.1).
        planned[f"{base}/config.yaml.d/90-mirror.yaml"] = _NO_FALLBACK
    if wish.servers:
        notes.append(f"{name} knows no other address of a registry than https://<its name>")
    return Plan(planned, tuple(notes), activate)


def rancher_directory(name: str) -> str:
    """Return where k3s or rke2 has its configuration."""
    return f"/etc/rancher/{name}"


def _entries(wish: Wish) -> dict[str, Any]:
    names = [*wish.registries, *([_CATCH_ALL] if wish.catch_all else [])]
    entries: dict[str, Any] = {
        "mirrors": {name: {"endpoint": [str(wish.mirror)]} for name in names}
    }
    if wish.ca:
        entries["configs"] = {wish.mirror.netloc: {"tls": {"ca_file": wish.ca}}}
    return entries


def _dump(data: object) -> str:
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return text


def _merged(wish: Wish, path: str, before: str | None) -> str:
    ours = _entries(wish)
    if before is None or not before.strip():
        return f"# As `mirror client-config` writes it.\n{_dump(ours)}"
    old = _parsed(path, before)
    wanted = _united(path, old, ours)
    if wanted == old:
        return before
    added = _with_lines(before, old, ours)
    if added is not None and _loaded(added) == wanted:
        return added
    if "#" in before:
        raise CannotMergeError(
            path, "has comments that would be lost; put the mirror first by hand", _dump(ours)
        )
    return _dump(wanted)


def _loaded(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None


def _parsed(path: str, before: str) -> dict[str, Any]:
    old = _loaded(before)
    if old is None and all(_says_nothing(line) for line in before.splitlines()):
        return {}
    if not isinstance(old, dict):
        raise CannotMergeError(path, "is no YAML that the server could read")
    return old


def _says_nothing(line: str) -> bool:
    return line.strip() in {"", "---"} or line.lstrip().startswith("#")


def _united(path: str, old: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    mirrors = dict(old.get("mirrors") or {})
    for name, entry in ours["mirrors"].items():
        there = mirrors.get(name) or {}
        if not isinstance(there, dict) or not isinstance(there.get("endpoint") or [], list):
            raise CannotMergeError(path, f"says something unknown about {name}")
        endpoints = there.get("endpoint") or []
        first = [each for each in entry["endpoint"] if each not in endpoints]
        mirrors[name] = {**there, "endpoint": [*first, *endpoints]}
    united = {**old, "mirrors": mirrors}
    if "configs" in ours:
        united["configs"] = {**ours["configs"], **(old.get("configs") or {})}
    return united


def _with_lines(before: str, old: dict[str, Any], ours: dict[str, Any]) -> str | None:
    """Return *before* with lines for the registries that it does not name; comments stay."""
    lines = before.splitlines(keepends=True)
    missing = {
        name: entry
        for name, entry in ours["mirrors"].items()
        if name not in (old.get("mirrors") or {})
    }
    if "configs" in ours:
        return None
    if "mirrors" not in old:
        end = "" if before.endswith("\n") else "\n"
        return before + end + _dump({"mirrors": missing})
    for number, line in enumerate(lines[:-1]):
        if line.partition("#")[0].rstrip() == "mirrors:":
            below = next((each for each in lines[number + 1 :] if not _says_nothing(each)), "")
            indent = " " * (len(below) - len(below.lstrip(" ")))
            added = [f"{indent}{each}\n" for each in _dump(missing).splitlines()]
            return "".join((*lines[: number + 1], *added, *lines[number + 1 :]))
    return None
