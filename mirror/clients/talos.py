"""Talos: a patch of the machine configuration; the machine has no files that one could write.

Source: the Talos reference, ``machine.registries`` (all versions; since 1.12 there are
``RegistryMirrorConfig`` documents besides).
"""

from typing import Any, Final, NoReturn

import yaml

from mirror.clients.plan import Files, NoFilesError, Plan, Wish

PATCH: Final = "mirror.patch.yaml"
_APPLY: Final = f"talosctl patch machineconfig --patch @{PATCH}"


def plan_talos(wish: Wish, _files: Files) -> Plan:
    """Plan a patch for ``talosctl``."""
    fallback = {} if wish.fallback else {"skipFallback": True}
    names = [*wish.registries, *(["*"] if wish.catch_all else [])]
    registries: dict[str, Any] = {
        "mirrors": {name: {"endpoints": [str(wish.mirror)], **fallback} for name in names}
    }
    text = yaml.safe_dump({"machine": {"registries": registries}}, sort_keys=False)
    notes = []
    if wish.ca:
        notes.append(
            "the authority goes into the patch itself: registries.config.….tls.ca, in base64"
        )
    return Plan({PATCH: text}, tuple(notes), _APPLY)


def talos_directory(_home: str | None, _files: Files) -> NoReturn:
    """Refuse: there is no directory to write into."""
    raise NoFilesError(
        "the files of a Talos machine cannot be written: save what `mirror client-config talos` "
        f"prints as {PATCH}, and run `{_APPLY}`"
    )
