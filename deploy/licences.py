"""Lists the licences of what the mirror is shipped with, and refuses one that nobody has looked at.

``python licences.py requirements/otel.txt`` runs with an interpreter that has the packages of
the lock, and writes Markdown. Exit code 1: a licence is unknown, or is not one of those below.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

ACCEPTED: Final = {
    "Apache-2.0": "https://spdx.org/licenses/Apache-2.0.html",
    "BSD-2-Clause": "https://spdx.org/licenses/BSD-2-Clause.html",
    "BSD-3-Clause": "https://spdx.org/licenses/BSD-3-Clause.html",
    "ISC": "https://spdx.org/licenses/ISC.html",
    "MIT": "https://spdx.org/licenses/MIT.html",
    "MIT-0": "https://spdx.org/licenses/MIT-0.html",
    "MPL-2.0": "https://spdx.org/licenses/MPL-2.0.html",
    "PSF-2.0": "https://spdx.org/licenses/PSF-2.0.html",
}
"""What may be shipped beside Apache-2.0 without changing it."""

_OLD_NAMES: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
}
"""What packages write that have no SPDX expression."""

_LOOKED_UP: Final = {"aiocache": "BSD-3-Clause"}
"""Packages whose metadata says nothing: what the licence file in them is."""

_LOCKED: Final = re.compile(r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==", re.MULTILINE)
_WORD: Final = re.compile(r"[A-Za-z0-9.+-]+")

INTRO: Final = """\
# Licences

<!-- Written by `python deploy/licences.py requirements/otel.txt`; a test compares it. -->

Mirror is under [Apache-2.0](../LICENSE). It is shipped with these packages, some of them with the
extra `otel` only. Their licence texts are in their `.dist-info` directories, their versions in
`requirements/` and in the bill of materials that comes with an image or a release.

| Package | Licence |
|---|---|
"""


def licence(package: Distribution) -> str:
    """Return the SPDX expression of a package; empty if it is not known."""
    metadata = package.metadata
    name = metadata["Name"]
    if "License-Expression" in metadata:
        return metadata["License-Expression"].strip()
    classifiers = metadata.get_all("Classifier") or []
    old = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License :: ")]
    stated = metadata["License"].strip() if "License" in metadata else ""
    known = [_OLD_NAMES.get(each, "") for each in (*old, stated)]
    candidates = [*known, stated, _LOOKED_UP.get(name, "")]
    return next((each for each in candidates if is_accepted(each)), "")


def is_accepted(expression: str) -> bool:
    """Tell whether every licence that an SPDX expression names may be shipped."""
    words = [word for word in _WORD.findall(expression) if word not in {"AND", "OR"}]
    return bool(words) and all(word in ACCEPTED for word in words)


def installed(lock: str) -> Iterator[Distribution]:
    """Yield the packages of a lock that are here; markers leave out some on each system."""
    for name in _LOCKED.findall(lock):
        try:
            yield distribution(name)
        except PackageNotFoundError:
            continue


def listed(packages: list[Distribution]) -> tuple[str, list[str]]:
    """Return the list, and the names of packages whose licence is not accepted."""
    found = {package.metadata["Name"]: licence(package) for package in packages}
    rows = [f"| {name} | {found[name]} |\n" for name in sorted(found, key=str.lower)]
    return INTRO + "".join(rows), [name for name, each in found.items() if not is_accepted(each)]


if __name__ == "__main__":
    text, unknown = listed(list(installed(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    sys.stdout.write(text)
    if unknown:
        sys.exit(f"nobody has accepted the licence of {', '.join(unknown)}: see deploy/licences.py")
