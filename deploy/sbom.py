"""Writes what is installed beside this interpreter as a CycloneDX 1.6 bill of materials.

``python sbom.py FILE`` runs while the image is built, with the interpreter of the environment
that it describes and nothing but the standard library. The same packages give the same bytes:
there is no serial number and no time in it.
Source of the fields: https://cyclonedx.org/docs/1.6/json/ and, for the package URLs,
https://github.com/package-url/purl-spec (type pypi).
"""

import json
import re
import sys
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path
from typing import Any, Final

PRODUCT: Final = "mirror"
_REQUIREMENT: Final = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA: Final = re.compile(r"""extra\s*==\s*['"]""")


def canonical(name: str) -> str:
    """Return a name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def reference(distribution: Distribution) -> str:
    """Return the package URL, which is also the identity within the document."""
    return f"pkg:pypi/{canonical(distribution.metadata['Name'])}@{distribution.version}"


def field(metadata: PackageMetadata, name: str) -> str:
    """Return a field of a package's metadata, empty if it has none."""
    # Read so because the type of the metadata of Python 3.11 has no get().
    return metadata[name].strip() if name in metadata else ""


def licences(metadata: PackageMetadata) -> list[dict[str, Any]]:
    """Return the licence: an SPDX expression if the package has one, else what it calls it."""
    if expression := field(metadata, "License-Expression"):
        return [{"expression": expression}]
    classifiers = metadata.get_all("Classifier") or []
    names = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License :: ")]
    stated = field(metadata, "License")
    if not names and stated and "\n" not in stated:
        names = [stated]
    return [{"license": {"name": name}} for name in sorted(set(names))]


def component(distribution: Distribution) -> dict[str, Any]:
    """Return one package."""
    described: dict[str, Any] = {
        "type": "application" if distribution.metadata["Name"] == PRODUCT else "library",
        "bom-ref": reference(distribution),
        "name": distribution.metadata["Name"],
        "version": distribution.version,
        "purl": reference(distribution),
    }
    if summary := field(distribution.metadata, "Summary"):
        described["description"] = summary
    if found := licences(distribution.metadata):
        described["licenses"] = found
    return described


def document(installed: list[Distribution]) -> dict[str, Any]:
    """Return the bill of materials of some packages, of which one is the product."""
    by_name = {canonical(each.metadata["Name"]): each for each in installed}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component(by_name[PRODUCT])},
        "components": [component(by_name[name]) for name in sorted(by_name) if name != PRODUCT],
        "dependencies": [
            {"ref": reference(by_name[name]), "dependsOn": _needs(by_name[name], by_name)}
            for name in sorted(by_name)
        ],
    }


def _needs(distribution: Distribution, by_name: dict[str, Distribution]) -> list[str]:
    needed = set()
    for requirement in distribution.requires or []:
        name = _REQUIREMENT.match(requirement)
        if name is None or _EXTRA.search(requirement):
            continue
        # A marker may leave a package out on this system: then it is not here.
        if (found := by_name.get(canonical(name[0]))) is not None:
            needed.add(reference(found))
    return sorted(needed)


if __name__ == "__main__":
    text = json.dumps(document(list(distributions())), indent=1, ensure_ascii=False)
    Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")
