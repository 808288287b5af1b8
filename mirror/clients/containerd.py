"""containerd and nerdctl: ``certs.d/<registry>/hosts.toml``, and where containerd looks for it.

Source: containerd docs/hosts.md, core/remotes/docker/config/hosts.go and config_unix.go.
"""

from posixpath import normpath
from typing import Any, Final

from mirror.clients.plan import DIAL_TIMEOUT, CannotMergeError, Files, Plan, Wish
from mirror.clients.toml_text import (
    Table,
    array,
    parsed,
    quoted,
    with_block_at_end,
    with_block_before,
    with_line_in_table,
)

CONFIG: Final = "/etc/containerd/config.toml"
CERTS: Final = "/etc/containerd/certs.d"
RESTART: Final = "systemctl restart containerd"
_CATCH_ALL: Final = "_default"
_CERTIFICATES: Final = ("ca", "client")
"""The keys that name files, which may be relative to the directory."""
_CAPABILITIES: Final = ("pull", "resolve")
# The section of the images' registries by the version of the configuration.
_SECTIONS: Final = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.images"}
_CONTAINERD_2: Final = 3
"""The version of its configuration."""
_OLD: Final = ("mirrors", "configs", "auths", "headers")


def plan_containerd(wish: Wish, files: Files) -> Plan:
    """Plan what containerd's CRI and ``ctr --hosts-dir`` read."""
    path, config, notes = _configured(files)
    hosts = plan_hosts(wish, files, path)
    return Plan(
        files={**({CONFIG: config} if config is not None else {}), **hosts.files},
        notes=(*notes, *hosts.notes),
        activate=RESTART,
        activate_for=CONFIG,
    )


def plan_nerdctl(wish: Wish, files: Files) -> Plan:
    """Plan what nerdctl reads; it looks into the directory whatever containerd is told."""
    return plan_hosts(wish, files, certs_directory(files, wish.home))


def certs_directory(files: Files, home: str | None = None) -> str:
    """Return the directory in which hosts.toml files are looked for."""
    if home is not None:
        return f"{home}/.config/containerd/certs.d"
    try:
        return _configured(files)[0]
    except CannotMergeError:
        return CERTS


def plan_hosts(wish: Wish, files: Files, directory: str) -> Plan:
    """Plan the ``hosts.toml`` of each registry in a directory."""
    planned: dict[str, str] = {}
    notes = []
    there = files.names(directory)
    # The registry for which most would wait is told first.
    registries = sorted(wish.registries, key=lambda name: name != "docker.io")
    for registry in [*registries, *([_CATCH_ALL] if wish.catch_all else [])]:
        folder = _folder(registry, there)
        try:
            planned[f"{directory}/{folder}/hosts.toml"] = _hosts(
                wish, registry, files, f"{directory}/{folder}", is_there=folder in there
            )
        except CannotMergeError as error:
            notes.append(f"{registry} is left as it is: {error.path} {error.reason}")
    return Plan(planned, tuple(notes), owned=directory)


def _folder(registry: str, there: list[str]) -> str:
    # A colon may be written as it is, too; the other form would hide what is there.
    return (
        registry if registry in there or ":" not in registry else f"{registry.replace(':', '_')}_"
    )


def _hosts(wish: Wish, registry: str, files: Files, folder: str, *, is_there: bool) -> str:
    path = f"{folder}/hosts.toml"
    before = files.read(path)
    if before is not None and wish.fallback:
        return _merged_hosts(wish, path, before)
    if not is_there and wish.fallback and registry != _CATCH_ALL:
        return _hosts_of_all(wish, registry, files, folder)
    # Without a way back to the registry, nobody else in the file may be one.
    return _new_hosts(wish, registry, _certificates(files.names(folder)))


def _hosts_of_all(wish: Wish, registry: str, files: Files, folder: str) -> str:
    """Return what a registry needs for which containerd has used ``_default`` so far.

    Of the directories for a registry it takes the first that is there, and nothing of the others.
    """
    common = f"{folder.rpartition('/')[0]}/{_CATCH_ALL}"
    path = f"{common}/hosts.toml"
    before = files.read(path)
    if not before:
        beside = _certificates(files.names(common), f"../{_CATCH_ALL}/")
        return _new_hosts(wish, registry, beside)
    moved = _moved(path, before, f"../{_CATCH_ALL}/")
    if registry in wish.servers and "server" not in (parsed(moved) or {}):
        # Where it is cannot be guessed from its name, as containerd would.
        moved = f"server = {quoted(wish.server(registry))}\n{moved}"
    return _merged_hosts(wish, path, moved)


def _moved(path: str, text: str, way: str) -> str:
    """Return a ``hosts.toml`` for another directory: certificates are looked for beside it."""
    old = parsed(text)
    if old is None:
        raise CannotMergeError(path, "is no TOML that containerd could read")
    hosts = old.get("host", {})
    tables = [old, *(hosts.values() if isinstance(hosts, dict) else ())]
    names: set[str] = set()
    for table in tables:
        for key in _CERTIFICATES:
            if isinstance(table, dict) and key in table:
                table[key] = _relative(table[key], way, names)
    for name in names:
        for quote in "\"'":
            text = text.replace(f"{quote}{name}{quote}", f"{quote}{way}{name}{quote}")
    if parsed(text) != old:
        raise CannotMergeError(path, "names certificates in a form that cannot be copied")
    return text


def _relative(value: object, way: str, names: set[str]) -> object:
    """Return files as they are named from elsewhere, and note which ones are."""
    if isinstance(value, list):
        return [_relative(each, way, names) for each in value]
    if not isinstance(value, str) or not value or value.startswith("/"):
        return value
    names.add(value)
    return way + value


def _host(wish: Wish) -> str:
    url = quoted(str(wish.mirror))
    ca = [f"  ca = {quoted(wish.ca)}"] if wish.ca else []
    lines = (
        f"[host.{url}]",
        f"  capabilities = {array(_CAPABILITIES)}",
        f'  dial_timeout = "{DIAL_TIMEOUT}"',
        *ca,
    )
    return "\n".join(lines) + "\n"


def _new_hosts(wish: Wish, registry: str, certificates: list[str]) -> str:
    lines = []
    if not wish.fallback:
        # What is tried last is the mirror again: the registry is never asked.
        lines = [
            f"server = {quoted(str(wish.mirror))}",
            *([f"ca = {quoted(wish.ca)}"] if wish.ca else []),
        ]
    elif registry != _CATCH_ALL:
        lines = [f"server = {quoted(wish.server(registry))}", *certificates]
    head = "\n".join(lines) + "\n\n" if lines else ""
    return f"# As `mirror client-config` writes it.\n{head}{_host(wish)}"


def _certificates(beside: list[str], way: str = "") -> list[str]:
    """Return what containerd would take from the directory if there were no hosts.toml."""
    authorities = [f"{way}{name}" for name in beside if name.endswith(".crt")]
    pairs = [
        array([f"{way}{name}", f"{way}{key}"])
        for name in beside
        if name.endswith(".cert") and (key := f"{name.removesuffix('.cert')}.key") in beside
    ]
    lines = [f"ca = {array(authorities)}"] if authorities else []
    return lines + ([f"client = [{', '.join(pairs)}]"] if pairs else [])


def _merged_hosts(wish: Wish, path: str, before: str) -> str:
    url = str(wish.mirror)
    old = parsed(before)
    if old is None or not isinstance(old.get("host", {}), dict):
        raise CannotMergeError(path, "is no TOML that containerd could read")
    if url in old.get("host", {}):
        return before
    merged = with_block_before(before, _host(wish), "[host.")
    new = parsed(merged)
    ours = (parsed(_host(wish)) or {})["host"]
    if new != {**old, "host": {**ours, **old.get("host", {})}} or next(iter(new["host"])) != url:
        raise CannotMergeError(path, "has a form to which nothing can be added", _host(wish))
    return merged


def _configured(files: Files) -> tuple[str, str | None, list[str]]:
    """Return the directory in which containerd looks, its own file if that must change, notes."""
    before = files.read(CONFIG)
    config = parsed(before or "")
    if config is None:
        raise CannotMergeError(CONFIG, "is no TOML that containerd could read")
    version = config.get("version", 1 if (before or "").strip() else 2)
    if version not in _SECTIONS:
        raise CannotMergeError(
            CONFIG,
            f"has version {version}, which has no hosts.toml: `containerd config migrate` helps "
            "(ctr and nerdctl do not need it: `mirror client-config nerdctl`)",
        )
    section = _SECTIONS[version]
    registry = _table(config, "plugins", section, "registry")
    if configured := str(registry.get("config_path") or ""):
        first, *others = configured.split(":")
        first = normpath(first)  # as the ledger has it: a slash at the end is usual
        if not others:
            return first, before, []
        return first, *_with_one_directory(before or "", config, version, files)
    if any(registry.get(key) for key in _OLD):
        raise CannotMergeError(
            CONFIG,
            "has registry.mirrors or registry.configs, with which containerd refuses config_path",
            f"move them to {CERTS}/<registry>/hosts.toml, and then set config_path",
        )
    return CERTS, _with_config_path(before or "", config, version), []


def _with_config_path(before: str, config: Table, version: int) -> str:
    name = quoted(_SECTIONS[version])
    line = f"config_path = {quoted(CERTS)}"
    headers = [f"[plugins.{quote}.registry]" for quote in (name, name.replace('"', "'"))]
    block = f"{headers[0]}\n  {line}\n"
    new = with_line_in_table(before, line, headers) or with_block_at_end(
        before if before.strip() else "version = 2\n", block
    )
    wanted: Table = {"version": 2, **config}
    _put(wanted, CERTS, "plugins", _SECTIONS[version], "registry", "config_path")
    found = parsed(new)
    if found != wanted:
        found, new = _replaced(before, "", CERTS, wanted)
    if found != wanted:
        raise CannotMergeError(CONFIG, "has a form to which config_path cannot be added", block)
    return new


def _with_one_directory(
    before: str, config: Table, version: int, files: Files
) -> tuple[str, list[str]]:
    """Leave the first of several directories, which containerd 2.2 ignores all.

    Source: https://github.com/containerd/containerd/issues/12808, and tried with 2.2.0.
    """
    configured = _table(config, "plugins", _SECTIONS[version], "registry")["config_path"]
    first, *others = configured.split(":")
    why = "containerd 2.2 ignores a config_path of several directories"
    wanted = dict(config)
    _put(wanted, first, "plugins", _SECTIONS[version], "registry", "config_path")
    found, new = _replaced(before, configured, first, wanted)
    if version < _CONTAINERD_2 or found is None or any(files.names(each) for each in others):
        return before, [f"{CONFIG}: {why}; leave {first} alone there"]
    return new, [f"{CONFIG}: only {first} stays: {why}"]


def _replaced(before: str, old: str, new: str, wanted: Table) -> tuple[Table | None, str]:
    """Replace one ``config_path``, that of the registries; there are others in the file."""
    line = f"config_path = {quoted(new)}"
    for found in (f'config_path = "{old}"', f"config_path = '{old}'"):
        parts = before.split(found)
        for number in range(1, len(parts)):
            text = f"{found.join(parts[:number])}{line}{found.join(parts[number:])}"
            if parsed(text) == wanted:
                return wanted, text
    return None, before


def _table(config: Table, *keys: str) -> Table:
    found: Any = config
    for key in keys:
        found = found.get(key, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) else {}


def _put(config: Table, value: str, *keys: str) -> None:
    """Set a value deep in a table, of which every table on the way is copied."""
    *path, last = keys
    for key in path:
        config[key] = dict(config.get(key, {}))
        config = config[key]
    config[last] = value
