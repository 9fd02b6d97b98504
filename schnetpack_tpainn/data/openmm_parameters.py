"""The numbers in an OpenMM force-field file that can be fitted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from schnetpack_tpainn.data.openmm_system import POLARIZATION, model_files
from schnetpack_tpainn.data.openmm_topology import require_openmm
from schnetpack_tpainn.errors import DataError

__all__ = ["Parameters"]

FITTED = {  # force and its entries -> attributes, each fitted by a factor of its own
    "HarmonicBondForce/Bond": ("length", "k"),
    "HarmonicAngleForce/Angle": ("angle", "k"),
    "PeriodicTorsionForce/Proper": ("k1", "k2", "k3", "k4", "k5", "k6"),
    "PeriodicTorsionForce/Improper": ("k1", "k2", "k3", "k4", "k5", "k6"),
    "RBTorsionForce/Proper": ("c0", "c1", "c2", "c3", "c4", "c5"),
    "RBTorsionForce/Improper": ("c0", "c1", "c2", "c3", "c4", "c5"),
    "NonbondedForce/Atom": ("sigma", "epsilon"),
    "AmoebaBondForce/Bond": ("length", "k"),
    "AmoebaAngleForce/Angle": ("angle1", "k"),
    "AmoebaUreyBradleyForce/UreyBradley": ("d", "k"),
    "AmoebaVdwForce/Vdw": ("sigma", "epsilon"),
    "AmoebaMultipoleForce/Polarize": ("polarizability",),
}
CHARGES = {  # attributes that one factor fits for all, so that every molecule keeps its charge
    "NonbondedForce/Atom": ("charge",),
    "Residues/Residue/Atom": ("charge",),
    "AmoebaMultipoleForce/Multipole": (
        *("c0", "d1", "d2", "d3"),
        *("q11", "q21", "q22", "q31", "q32", "q33"),
    ),
}
MOST = 200  # parameters, each of which costs an evaluation of all labels at every step


class Parameters:
    """The numbers in a force-field file that are fitted, each by a factor, all charges by one.

    Args:
        model: as in :func:`~schnetpack_tpainn.data.openmm_system.model_files`, one file.

    Attributes:
        names: of the factors.

    Raises:
        DataError: the file cannot be read, there are several, or it has no such numbers or more
            than 200.
        LabelError: OpenMM is not installed.
    """

    def __init__(self, model: str | Sequence[str]) -> None:
        path, self._root = _read(model)
        if model == "iamoeba":
            self._root.set(POLARIZATION, "direct")
        self.names: list[str] = []
        self._places: list[list[tuple[Any, str, float]]] = []
        for place, attributes in FITTED.items():
            for k, entry in enumerate(self._root.findall(place), 1):
                for attribute in attributes:
                    self._add(f"{place} {k} {_types(entry)} {attribute}", [(entry, attribute)])
        charged = [
            (e, names) for place, names in CHARGES.items() for e in self._root.findall(place)
        ]
        self._add("charges", [(entry, name) for entry, names in charged for name in names])
        if not 0 < len(self.names) <= MOST:
            raise DataError(
                f"expected from 1 to {MOST} parameters of bonds, angles, torsions, charges and "
                f"Lennard-Jones terms, got {len(self.names)} in {path}; leave in it those of "
                "your molecules alone"
            )

    def _add(self, name: str, places: Sequence[tuple[Any, str]]) -> None:
        """A factor of all numbers at some places, but those that are absent or without effect."""
        values = [(entry, key, _value(entry, key)) for entry, key in places]
        if any(value != 0 for *_, value in values):
            self.names.append(name)
            self._places.append([place for place in values if place[2] != 0])

    def xml(self, factors: np.ndarray) -> str:
        """The file with every number times its factor.

        Args:
            factors: in the order of ``names``.

        Returns:
            OpenMM's XML.
        """
        for places, factor in zip(self._places, factors, strict=True):
            for entry, attribute, value in places:
                entry.set(attribute, repr(value * float(factor)))
        return ElementTree.tostring(self._root, encoding="unicode") + "\n"

    def changes(self, factors: np.ndarray) -> dict[str, Any]:
        """What factors change.

        Args:
            factors: in the order of ``names``.

        Returns:
            By name the value before and after; the factor where one is for many.
        """
        return {
            name: [places[0][2], places[0][2] * float(f)] if len(places) == 1 else float(f)
            for name, places, f in zip(self.names, self._places, factors, strict=True)
        }


def _types(entry: Any) -> str:
    """Atom types or classes that an entry is for."""
    keys = sorted(k for k in entry.attrib if k.startswith(("class", "type")))
    return "-".join(entry.get(k) for k in keys)


def _value(entry: Any, key: str) -> float:
    """A number of an entry; 0 if it is not there, or a radius without a depth."""
    radius = key == "sigma" and float(entry.get("epsilon", 1)) == 0
    return 0.0 if radius else float(entry.get(key, 0))


def _read(model: str | Sequence[str]) -> tuple[Path, Any]:
    """Path and root of a force field's only file."""
    files = model_files(model)
    if len(files) != 1:
        raise DataError(
            f"expected a force field in one file, got {', '.join(files)}; put what is to be "
            "fitted into one"
        )
    path = Path(files[0])
    if not path.is_file():
        path = Path(require_openmm().app.__file__).parent / "data" / path
    try:
        return path, ElementTree.parse(path).getroot()  # noqa: S314 - one's own force field
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(
            f"expected an OpenMM force-field file, cannot read {path}: {error}; correct --model"
        ) from error
