"""Bonds of a molecule as a SMILES string whose atoms are those of the structure, in its order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.db import connect
from ase.neighborlist import build_neighbor_list, natural_cutoffs

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.errors import LabelError

__all__ = ["bonds", "known_smiles", "n_written", "with_smiles"]

BOND = 1.15  # times the sum of covalent radii


def bonds(atoms: Atoms) -> np.ndarray:
    """Bonds by covalent radii.

    Args:
        atoms: the structure (Å), not much distorted.

    Returns:
        1 for bonded atoms, shape (N, N).
    """
    neighbours = build_neighbor_list(
        atoms, natural_cutoffs(atoms, mult=BOND), self_interaction=False, bothways=True
    )
    return np.asarray(neighbours.get_connectivity_matrix(sparse=False))


def _read(smiles: str) -> Any:
    """RDKit molecule as written, or None."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        return Chem.MolFromSmiles(smiles)


def n_written(smiles: str) -> int:
    """Atoms that a SMILES string holds; RDKit puts the hydrogens that it adds behind them.

    Args:
        smiles: the string.

    Returns:
        Their number.
    """
    return int(_read(smiles).GetNumAtoms())


def known_smiles(path: str | Path) -> list[str]:
    """SMILES strings that a database was sampled from.

    Args:
        path: database of an :class:`~schnetpack_tpainn.data.sampling.MDSampler`, or any other.

    Returns:
        They; empty where the metadata name none.
    """
    with connect(str(path), use_lock_file=False) as db:
        named = db.metadata.get("structures") or []
    return [s for s in named if isinstance(s, str) and _read(s) is not None]


def with_smiles(atoms: Atoms, known: Sequence[str], engine: RDKitForceField) -> Atoms:
    """Copy of a molecule with its SMILES string in ``info``.

    Args:
        atoms: the molecule (Å), its bonds intact.
        known: SMILES strings that it may have been made from.
        engine: perceives the bonds if it was made from none of these.

    Returns:
        The molecule, its atoms in the order of the SMILES string, added hydrogens last.

    Raises:
        LabelError: the bonds cannot be perceived.
    """
    from rdkit import Chem

    found = bonds(atoms)
    for smiles in [atoms.info.get("smiles"), *known]:
        molecule = None if smiles is None else Chem.AddHs(_read(smiles))
        if (
            molecule is not None
            and [a.GetAtomicNum() for a in molecule.GetAtoms()] == list(atoms.numbers)
            and np.array_equal(Chem.GetAdjacencyMatrix(molecule), found)
        ):
            named = atoms.copy()
            named.info["smiles"] = smiles
            return named
    perceived = engine._perceive(atoms)
    smiles = Chem.MolToSmiles(Chem.RemoveHs(perceived))
    order = perceived.GetSubstructMatch(Chem.AddHs(_read(smiles)))
    if len(order) != len(atoms):
        raise LabelError(
            f"expected a molecule that a SMILES string describes, got "
            f"{atoms.get_chemical_formula()} ({smiles}); give the calculator its `smiles`"
        )
    named = atoms[list(order)]
    named.info = {**atoms.info, "smiles": smiles}
    return named
