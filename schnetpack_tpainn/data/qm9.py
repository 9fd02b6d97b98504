"""QM9, from the PyPI package `qm9pack`: no download at run time."""

import csv
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.units import Hartree, __codata_version__

from schnetpack_tpainn.data.offsets import element_values
from schnetpack_tpainn.data.store import fingerprint, labelled, write_database
from schnetpack_tpainn.errors import DataError

__all__ = ["ATOMS_HARTREE", "N_MOLECULES", "QM9"]

N_MOLECULES = 130_831  # 133,885 less 3,054 whose relaxed geometry is another molecule's
FILES = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")
COLUMNS = {"U0": "InternalEnergy_0K_au"}
ATOMS_HARTREE = {  # `atomref.txt` of the data set, doi:10.6084/m9.figshare.978904
    "U0": {"H": -0.500273, "C": -37.846772, "N": -54.583861, "O": -75.064579, "F": -99.718730}
}
PROVENANCE = {
    "level_of_theory": "B3LYP/6-31G(2df,p)",
    "quantities": {"U0": "electronic energy at the relaxed geometry + harmonic ZPVE"},
    "smiles": "of GDB-17, without stereochemistry",
    "hartree_ev": Hartree,
    "codata": __codata_version__,
    "package": "qm9pack, https://pypi.org/project/qm9pack (MIT; data: CC0)",
    "citation": "Ramakrishnan, Dral, Rupp, von Lilienfeld, Sci. Data 1, 140022 (2014)",
    "doi": "10.1038/sdata.2014.22",
}
PUNCTUATION = str.maketrans("", "", "[]' ")


class QM9:
    """Relaxed molecules of up to nine C, N, O and F atoms with their energies, at B3LYP.

    The energy of the database, U0, is the electronic energy plus the harmonic zero-point energy,
    in eV; there are no forces. Every row has the key-value pairs ``qm9_index`` (1 to 133,885),
    ``smiles`` (of GDB-17, without stereochemistry) and ``zpve_ev``; U0 less ``zpve_ev`` is the
    potential energy at the minimum. Energies of the isolated atoms, at the same level, are in the
    metadata (Ramakrishnan et al., Scientific Data 1, 140022, 2014).

    .. code-block:: yaml

        source:
          _target_: schnetpack_tpainn.data.QM9
          n_molecules: 12000

    Args:
        n_molecules: size of a random subset, which is part of every larger one of the same seed;
            all 130,831 molecules when None. The rows are in the order of ``qm9_index``.
        property: quantity stored as ``energy``: ``U0``.
        seed: seed of the subset.

    Raises:
        DataError: there is no such property, or no such number of molecules.
    """

    def __init__(
        self,
        n_molecules: int | None = None,
        property: str = "U0",  # noqa: A002 - as SchNetPack names it
        seed: int = 0,
    ) -> None:
        if property not in COLUMNS:
            raise DataError(
                f"expected data.source.property to be {' or '.join(COLUMNS)}, got {property!r}"
            )
        n = N_MOLECULES if n_molecules is None else n_molecules
        if not isinstance(n, int) or not 1 <= n <= N_MOLECULES:
            raise DataError(
                f"expected data.source.n_molecules from 1 to {N_MOLECULES}, or null for all, "
                f"got {n_molecules}"
            )
        self.settings: dict[str, Any] = {
            "source": "QM9",
            "property": property,
            "n_molecules": n,
            "seed": seed if n < N_MOLECULES else None,
        }

    def make(self, path: str | Path) -> Path:
        """Write the database; it must not exist.

        Args:
            path: the SchNetPack database to make.

        Returns:
            ``path``.

        Raises:
            DataError: the package ``qm9pack`` is not installed, or is not whole.
        """
        spec = find_spec("qm9pack")  # its code needs what newer setuptools lack
        if spec is None or not spec.submodule_search_locations:
            raise DataError(
                "expected the package qm9pack, which holds the data of QM9, got none; "
                "pip install 'schnetpack-tpainn[qm9]'"
            )
        folder = Path(spec.submodule_search_locations[0], "data")
        atoms = ATOMS_HARTREE[self.settings["property"]]
        atomrefs = {"energy": element_values({z: e * Hartree for z, e in atoms.items()})}
        metadata = PROVENANCE | self.settings | {"fingerprint": fingerprint(self.settings)}
        return write_database(path, self._frames(folder), metadata, atomrefs)

    def _chosen(self) -> np.ndarray:
        """Which molecules belong to the subset, shape (130831,)."""
        order = np.random.default_rng(self.settings["seed"]).permutation(N_MOLECULES)
        return order.argsort() < self.settings["n_molecules"]

    def _frames(self, folder: Path) -> Iterator[Atoms]:
        column = COLUMNS[self.settings["property"]]
        try:
            for chosen, row in zip(self._chosen(), _rows(folder), strict=True):
                if chosen:
                    yield _frame(row, column)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"expected {N_MOLECULES} molecules in {', '.join(FILES)} of {folder}, cannot read "
                f"them: {error}; reinstall qm9pack"
            ) from error


def _rows(folder: Path) -> Iterator[dict[str, str]]:
    for name in FILES:
        with (folder / name).open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)


def _frame(row: dict[str, str], column: str) -> Atoms:
    symbols = row["Elements"].translate(PUNCTUATION).split(",")
    positions = np.array(row["XYZ_Ang"].translate(PUNCTUATION).split(","), dtype=float)
    return labelled(
        Atoms([atomic_numbers[symbol] for symbol in symbols], positions.reshape(-1, 3)),
        float(row[column]) * Hartree,
        None,
        qm9_index=int(row["Index"]),
        smiles=row["SMILES"],
        zpve_ev=float(row["ZPVE_au"]) * Hartree,
    )
