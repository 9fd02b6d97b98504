"""Bonds of a molecule as a SMILES string whose atoms are those of the structure, in its order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.db import connect
from ase.neighborlist import build_neighbor_list, natural_cutoffs
from scipy.sparse.csgraph import connected_components

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.errors import LabelError

__all__ = ["bonds", "known_smiles", "n_written", "rotors", "smiles_of", "with_smiles"]

BOND = 1.15  # times the sum of covalent radii
MATCHES = 64  # ways to lay a molecule onto a structure that are looked at
ROTOR = "[!D1;!$(*#*)]-;!@[!D1;!$(*#*)]"  # hydrogens count as neighbours


def bonds(atoms: Atoms) -> np.ndarray:
    """Bonds by covalent radii.

    Args:
        atoms: the structure (Å), not much distorted.

    Returns:
        1 for bonded atoms, shape (N, N).
    """
    neighbours = build_neighbor_list(
        atoms, natural_cutoffs(atoms, mult=BOND), skin=0.0, self_interaction=False, bothways=True
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

    The atoms are matched to those of a string by their bonds alone, so that their order need not
    agree with the string's. Bonds are perceived, which takes longer, where no string fits.

    Args:
        atoms: the molecule (Å), its bonds intact.
        known: SMILES strings that it may have been made from, besides that in its ``info``.
        engine: perceives the bonds if it was made from none of these.

    Returns:
        The molecule, its atoms in the order of the SMILES string, added hydrogens last.

    Raises:
        LabelError: the bonds cannot be perceived.
    """
    from rdkit import Chem

    found = bonds(atoms)
    given = atoms.info.get("smiles")
    for smiles in [*([given] if given else []), *known]:
        read = _read(smiles)
        order = None if read is None else _order(Chem.AddHs(read), atoms, found)
        if order is not None:
            return _named(atoms, order, smiles)
    perceived = engine._perceive(atoms)
    smiles = Chem.MolToSmiles(Chem.RemoveHs(perceived))
    match = perceived.GetSubstructMatch(Chem.AddHs(_read(smiles)))
    if len(match) != len(atoms):
        raise LabelError(
            f"expected a molecule that a SMILES string describes, got "
            f"{atoms.get_chemical_formula()} ({smiles}); give the calculator its `smiles`"
        )
    return _named(atoms, list(match), smiles)


def _named(atoms: Atoms, order: list[int], smiles: str) -> Atoms:
    named = atoms[order]
    named.info = {**atoms.info, "smiles": smiles}
    return named


def _order(molecule: Any, atoms: Atoms, found: np.ndarray) -> list[int] | None:
    """Atom of the structure for each of a molecule with the same bonds; None if they differ.

    Of several ways to lay the molecule onto the structure, that with the shortest multiple bonds
    is right: the double bonds of cyclooctatetraene fit in two. The atoms' own order comes first.
    """
    from rdkit import Chem

    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    wanted = Chem.GetAdjacencyMatrix(molecule)
    if sorted(numbers) != sorted(atoms.numbers) or wanted.sum() != found.sum():
        return None
    same = np.array_equal(numbers, atoms.numbers) and np.array_equal(wanted, found)
    ways = [list(range(len(atoms)))] if same else []
    skeleton = _skeleton(atoms.numbers, found)
    for image in skeleton.GetSubstructMatches(
        _skeleton(numbers, wanted), uniquify=False, maxMatches=MATCHES
    ):
        way = _with_hydrogens(image, (numbers, wanted), (atoms.numbers, found))
        ways += [way] if sorted(way) == list(range(len(atoms))) else []
    multiple = [bond for bond in molecule.GetBonds() if bond.GetBondTypeAsDouble() > 1.5]
    ends = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in multiple], int).reshape(
        -1, 2
    )

    def length(way: list[int]) -> float:
        i, j = np.array(way)[ends].T
        return round(
            float(np.linalg.norm(atoms.positions[i] - atoms.positions[j], axis=1).sum()), 3
        )

    return min(ways, key=length, default=None)


Graph = tuple[np.ndarray, np.ndarray]  # atomic numbers (N,), 1 for bonded atoms (N, N)


def _with_hydrogens(image: Sequence[int], a: Graph, b: Graph) -> list[int]:
    """Atom of b for each of a, given that of the heavier ones; -1 where there is none."""
    heavy_a, heavy_b = (np.flatnonzero(numbers > 1) for numbers, _ in (a, b))
    way = np.full(len(a[0]), -1)
    for i, j in zip(heavy_a, heavy_b[list(image)], strict=True):
        way[i] = j
        ours, theirs = (np.flatnonzero(g[1][k] & (g[0] == 1)) for g, k in ((a, i), (b, j)))
        way[ours] = theirs
    return [int(j) for j in way]


def _skeleton(numbers: np.ndarray, bonded: np.ndarray) -> Any:
    """RDKit molecule of the heavier atoms, single bonds only; hydrogens are counted as isotope."""
    from rdkit import Chem

    heavy = np.flatnonzero(numbers > 1)
    hydrogens = bonded[:, numbers == 1].sum(1)
    skeleton = Chem.RWMol()
    for i in heavy:
        atom = Chem.Atom(int(numbers[i]))
        atom.SetIsotope(int(hydrogens[i]) + 1)
        skeleton.AddAtom(atom)
    for i, j in np.argwhere(np.triu(bonded[np.ix_(heavy, heavy)])):
        skeleton.AddBond(int(i), int(j), Chem.BondType.SINGLE)
    return skeleton


def rotors(atoms: Atoms) -> list[tuple[int, int, np.ndarray]]:
    """Single bonds outside rings that a part of the molecule can be turned about.

    Args:
        atoms: the molecule, in the order of the SMILES string in its ``info``.

    Returns:
        Per bond its ends i and j, and which atoms lie on j's side, shape (N,).
    """
    from rdkit import Chem

    molecule = Chem.AddHs(_read(atoms.info["smiles"]))
    found = []
    for i, j in molecule.GetSubstructMatches(Chem.MolFromSmarts(ROTOR)):
        rest = Chem.GetAdjacencyMatrix(molecule)
        rest[i, j] = rest[j, i] = 0
        part = connected_components(rest, directed=False)[1]  # (N,)
        found.append((i, j, part == part[j]))
    return found


def smiles_of(atoms: Atoms) -> str:
    """SMILES string of a structure: that in its ``info``, or of bonds found from the geometry.

    Args:
        atoms: the molecule (Å), not much distorted.

    Returns:
        The string.
    """
    given = atoms.info.get("smiles") or atoms.info.get("key_value_pairs", {}).get("smiles")
    return str(given or with_smiles(atoms, [], RDKitForceField()).info["smiles"])
