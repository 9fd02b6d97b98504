"""An additive energy as a function of a structure, and databases read in Å and eV."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.db import connect

from schnetpack_tpainn.data.increments import features, table
from schnetpack_tpainn.data.offsets import Z_MAX
from schnetpack_tpainn.data.shrinkage import Increments, fit_increments
from schnetpack_tpainn.data.store import labelled
from schnetpack_tpainn.data.structures import to_angstrom
from schnetpack_tpainn.data.topology import smiles_of
from schnetpack_tpainn.data.units import unit_factor
from schnetpack_tpainn.errors import DataError

__all__ = ["AdditiveEnergy", "free_atoms", "read_labelled"]


def read_labelled(
    path: Path, rows: Sequence[int] | None = None, where: str | None = None
) -> Iterator[Atoms]:
    """Frames of a SchNetPack database with their labels.

    Args:
        path: the database.
        rows: rows to read, from 0; all when None.
        where: ASE's selection of rows instead.

    Yields:
        Atoms: structure (Å) with energy (eV) and, where there are any, forces (eV/Å); key-value
        pairs in ``info``.

    Raises:
        DataError: a unit or an energy is absent, or a unit is not known.
    """
    with connect(str(path), use_lock_file=False) as db:
        metadata = db.metadata
        units = metadata.get("_property_unit_dict") or {}
        if "energy" not in units:
            raise DataError(
                f"expected the property 'energy' with its unit in the metadata of {path}, got "
                f"{', '.join(units) or 'none'}; import the data set with stated units"
            )
        to_ev = unit_factor(units["energy"], "energy")
        to_ev_per_ang = unit_factor(units["forces"], "forces") if "forces" in units else 1.0
        found = db.select(where) if rows is None else (db.get(id=row + 1) for row in rows)
        for row in found:
            atoms = Atoms(row.numbers, row.positions, cell=row.cell, pbc=row.pbc)
            to_angstrom(atoms, metadata)
            energy, forces = row.data.get("energy"), row.data.get("forces")
            if energy is None:
                raise DataError(f"expected an energy in every row of {path}, row {row.id} has none")
            yield labelled(
                atoms,
                float(np.asarray(energy).item()) * to_ev,
                None if forces is None else np.asarray(forces) * to_ev_per_ang,
                **row.key_value_pairs,
            )


def free_atoms(path: Path) -> np.ndarray:
    """Energies of free atoms that a database's metadata name.

    Args:
        path: SchNetPack database.

    Returns:
        eV per atomic number, shape (100,); zero where there are none.
    """
    with connect(str(path), use_lock_file=False) as db:
        metadata = db.metadata
    named = (metadata.get("atomrefs") or {}).get("energy") or []
    energies = np.zeros(Z_MAX)
    if len(named):
        unit = metadata["_property_unit_dict"]["energy"]
        energies[: len(named)] = np.asarray(named) * unit_factor(unit, "energy")
    return energies


class AdditiveEnergy:
    r"""Sum of increments and of energies of atoms, fitted to labels.

    Fitted is :math:`E_{DFT} - E_{base}`, less the energies of the atoms; what the sum
    over a molecule's increments gives then has them put back.

    Args:
        molecules: labelled structures with energy (eV).
        base_ev: energy of each that the sum corrects, shape (N,).
        atoms_ev: energies of atoms in the labels less those in the base, per atomic number, shape
            (100,): what an element costs that no label has.
        scheme: ``composition``, ``bonds`` or ``groups``.

    Raises:
        DataError: a SMILES string does not fit its structure.
    """

    def __init__(
        self, molecules: Sequence[Atoms], base_ev: np.ndarray, atoms_ev: np.ndarray, scheme: str
    ) -> None:
        self.scheme, self.atoms_ev = scheme, atoms_ev
        counts, names = table([self._features(atoms) for atoms in molecules])
        energies = [atoms.get_potential_energy() for atoms in molecules]
        free = [atoms_ev[atoms.numbers].sum() for atoms in molecules]
        self.fit: Increments = fit_increments(counts, np.array(energies) - base_ev - free, names)
        self.values: Mapping[str, float] = dict(zip(names, self.fit.values.tolist(), strict=True))
        self.elements = {symbol for atoms in molecules for symbol in atoms.symbols}
        self.foreign: Counter[str] = Counter()

    def _features(self, atoms: Atoms) -> Counter[str]:
        smiles = smiles_of(atoms)
        found = features(smiles, self.scheme)
        elements = {s: found[f"composition:{s}"] for s in set(atoms.symbols)}
        if elements != Counter(atoms.symbols):
            raise DataError(
                f"expected a SMILES string of {atoms.get_chemical_formula()}, got {smiles!r}; "
                "correct the row's key-value pair `smiles`"
            )
        return found

    def energy(self, atoms: Atoms) -> float:
        """Energy of a structure's increments and free atoms in eV.

        Args:
            atoms: the structure; without a SMILES string in its ``info`` its bonds are perceived.

        Returns:
            The sum. Increments that no labelled molecule has count as zero; structures with
            elements that none has are counted in ``foreign``.
        """
        self.foreign.update(set(atoms.symbols) - self.elements)
        found = self._features(atoms)
        total = sum(self.values.get(name, 0.0) * n for name, n in found.items())
        return float(total + self.atoms_ev[atoms.numbers].sum())

    def provenance(self) -> dict[str, Any]:
        """What to keep of the fit beside a data set."""
        return {
            "increments_ev": {name: value for name, value in self.values.items() if value},
            "n_increments": len(self.values),
            "rank": self.fit.rank,
            "loo_mae_ev": self.fit.loo_mae,
            "widths_ev": self.fit.widths,
            "noise_ev": self.fit.noise,
        }
