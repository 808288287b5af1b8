"""Docker: ``daemon.json``, which knows a mirror of Docker Hub only.

Source: dockerd's reference, "Configuration reload behavior".
"""

import json
import re
from typing import Any, Final

from mirror.clients.plan import CannotMergeError, Files, Plan, Wish

_FILE: Final = "daemon.json"
_SYSTEM: Final = "/etc/docker"
_INDENT: Final = re.compile(r"\n([ \t]+)\"")
_HUB: Final = "docker.io"


def plan_docker(wish: Wish, files: Files) -> Plan:
    """Plan Docker's own configuration."""
    path = f"{docker_directory(wish.home)}/{_FILE}"
    notes = []
    if _HUB not in wish.registries:
        raise CannotMergeError(path, "can name a mirror of docker.io only, which is not asked for")
    if others := [name for name in wish.registries if name != _HUB]:
        notes.append(
            f"Docker mirrors docker.io only; for others pull {wish.mirror.netloc}/{others[0]}/…"
        )
    if not wish.fallback:
        notes.append("Docker always goes on to Docker Hub; only the network can forbid that")
    if wish.ca:
        notes.append(
            f"Docker reads the authority from {_SYSTEM}/certs.d/{wish.mirror.netloc}/ca.crt"
        )
    user = "" if wish.home is None else "--user "
    return Plan(
        files={path: _merged(wish, path, files.read(path))},
        notes=tuple(notes),
        activate=f"systemctl {user}reload docker",
    )


def docker_directory(home: str | None) -> str:
    """Return where the daemon of the system, or of a user, has its configuration."""
    return _SYSTEM if home is None else f"{home}/.config/docker"


def _merged(wish: Wish, path: str, before: str | None) -> str:
    old = _object(path, before)
    new = {**old, "registry-mirrors": _with(str(wish.mirror), old.get("registry-mirrors"), path)}
    if wish.mirror.is_plain and not wish.mirror.is_loopback:
        # For a pull by the mirror's own name; Docker trusts plain HTTP on loopback anyway.
        insecure = old.get("insecure-registries")
        new["insecure-registries"] = _with(wish.mirror.netloc, insecure, path)
    if new == old and before is not None:
        return before
    indent = _INDENT.search(before or "")
    return json.dumps(new, indent=indent[1] if indent else 2, ensure_ascii=False) + "\n"


def _object(path: str, before: str | None) -> dict[str, Any]:
    if before is None or not before.strip():
        return {}
    try:
        old = json.loads(before)
    except (ValueError, RecursionError) as error:
        raise CannotMergeError(path, f"is not JSON that Docker could read: {error}") from None
    if not isinstance(old, dict):
        raise CannotMergeError(path, "is not a JSON object")
    return old


def _with(first: str, rest: object, path: str) -> list[object]:
    if rest is not None and not isinstance(rest, list):
        raise CannotMergeError(path, "has a value where Docker wants a list of addresses")
    there = rest or []
    if first in {str(each).rstrip("/") for each in there}:
        return list(there)
    return [first, *there]
