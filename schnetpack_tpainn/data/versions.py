"""Versions of the software that makes data and models, for provenance."""

import platform
from importlib import metadata

__all__ = ["software_versions"]

PACKAGES = (
    "schnetpack-tpainn",
    "schnetpack",
    "torch",
    "pytorch-lightning",
    "e3nn",
    "ase",
    "rdkit",
    "openmm",
    "pyscf",
    "tblite",
)


def software_versions() -> dict[str, str]:
    """Version of Python and of every relevant package that is installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
