"""Podman, CRI-O, skopeo and buildah: a file of ours in ``registries.conf.d``.

Source: containers-registries.conf(5), containers-registries.conf.d(5).
"""

from typing import Final

from mirror.clients.plan import Files, Plan, Wish
from mirror.clients.toml_text import parsed, quoted

_SYSTEM: Final = "/etc/containers"
NAME: Final = "10-mirror.conf"
RELOAD_CRIO: Final = "systemctl reload crio"


def plan_podman(wish: Wish, files: Files) -> Plan:
    """Plan for clients that read the files at each call."""
    return _plan(wish, files, None)


def plan_crio(wish: Wish, files: Files) -> Plan:
    """Plan for CRI-O, which must be told to read them again."""
    return _plan(wish, files, RELOAD_CRIO)


def _plan(wish: Wish, files: Files, activate: str | None) -> Plan:
    base = containers_directory(wish.home)
    notes = []
    taken = _taken(base, files)
    registries = []
    for registry in wish.registries:
        if ":" in registry:
            notes.append(f"{registry} is left out: a name with a port cannot stand in a path")
        elif registry in taken:
            notes.append(f"{registry} is left as it is: {taken[registry]} has its own entry for it")
        else:
            registries.append(registry)
    if wish.ca:
        notes.append(f"the authority belongs into {_SYSTEM}/certs.d/{wish.mirror.netloc}/ca.crt")
    text = "# As `mirror client-config` writes it.\n" + "\n".join(
        _registry(wish, registry) for registry in registries
    )
    path = f"{base}/registries.conf.d/{NAME}"
    return Plan({path: text}, tuple(notes), activate)


def containers_directory(home: str | None) -> str:
    """Return where the clients of the system, or of a user, have their configuration."""
    return _SYSTEM if home is None else f"{home}/.config/containers"


def _taken(base: str, files: Files) -> dict[str, str]:
    """Return who else says something about a registry: the last one alone would count."""
    folder = f"{base}/registries.conf.d"
    others = [f"{folder}/{name}" for name in files.names(folder)]
    found = {}
    for path in (f"{base}/registries.conf", *others):
        if not path.endswith(".conf") or path.endswith(f"/{NAME}"):
            continue
        entries = (parsed(files.read(path) or "") or {}).get("registry", [])
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict):
                found[str(entry.get("prefix") or entry.get("location"))] = path
    return found


def _registry(wish: Wish, registry: str) -> str:
    # These clients do not say which registry they mean, so the location carries its name.
    location = quoted(f"{wish.mirror.netloc}/{registry}")
    insecure = ["insecure = true"] if wish.mirror.is_plain else []
    prefix = ["[[registry]]", f"prefix = {quoted(registry)}"]
    if wish.fallback:
        own = wish.server(registry)
        host = registry if registry not in wish.servers else own.partition("://")[2]
        plain = ["insecure = true"] if own.startswith("http://") else []
        prefix += [f"location = {quoted(host)}", *plain, "", "[[registry.mirror]]"]
    return "\n".join((*prefix, f"location = {location}", *insecure)) + "\n"
