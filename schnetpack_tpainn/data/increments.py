"""Counts of atoms, bonds, rings and groups: what an additive energy of a molecule is made of."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from ase import Atoms

from schnetpack_tpainn.data.shrinkage import fit_increments
from schnetpack_tpainn.data.topology import smiles_of
from schnetpack_tpainn.errors import DataError

__all__ = ["SCHEMES", "features", "linear_baseline", "table"]

LEVELS = ("bonds", "atoms", "rings", "ring atoms", "groups", "ring groups", "bonded pairs")
SCHEMES: dict[str, tuple[str, ...]] = {
    "composition": ("composition",),
    "bonds": ("composition", "bonds"),
    "groups": ("composition", *LEVELS),
}
ORDERS = {1.0: "-", 1.5: ":", 2.0: "=", 3.0: "#"}
WIDE = 6  # rings of this size and larger have no strain worth telling apart


def features(molecule: str | Atoms, scheme: str = "groups") -> Counter[str]:
    r"""Increments that a molecule is made of, with their numbers.

    They form levels, from coarse to fine; the energy is a sum over all of them:

    - ``composition``: elements;
    - ``bonds``: elements and order (``C-H``, ``C=O``, ``C:N``; ``:`` is aromatic);
    - ``atoms``: element, orders of its bonds and charge of each heavier atom, which is its
      hybridisation;
    - ``rings``: size, and for two rings that share atoms both sizes and the number shared;
    - ``ring atoms``: atoms, with the size of the smallest ring through them (3, 4, 5, 6 or more);
    - ``groups``: heavier atoms with the elements and orders of all neighbours, as Benson's (Benson
      and Buss, J. Chem. Phys. 29, 546, 1958);
    - ``ring groups``: groups, with the size of the smallest ring;
    - ``bonded pairs``: bonds, with ``atoms`` on both sides.

    Args:
        molecule: SMILES string, or a structure (Å) with the string in its ``info``, as
            :func:`~schnetpack_tpainn.data.structures.read_frames` or ASE's database puts it
            there; without, its bonds are perceived.
        scheme: ``composition``, ``bonds`` (the first two levels) or ``groups`` (all).

    Returns:
        ``level:increment`` -> number.

    Raises:
        DataError: the scheme or the string is none, or RDKit is not installed.
    """
    if scheme not in SCHEMES:
        raise DataError(f"expected a scheme out of {', '.join(SCHEMES)}, got {scheme!r}")
    if scheme == "composition" and isinstance(molecule, Atoms):  # needs no bonds
        return Counter(f"composition:{symbol}" for symbol in molecule.get_chemical_symbols())
    smiles = molecule if isinstance(molecule, str) else smiles_of(molecule)
    return Counter(
        {name: n for name, n in _counted(smiles).items() if _level(name) in SCHEMES[scheme]}
    )


def _level(name: str) -> str:
    return name.partition(":")[0]


@lru_cache(maxsize=1024)
def _counted(smiles: str) -> Mapping[str, int]:
    """All levels of a SMILES string."""
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise DataError("increments need RDKit: pip install 'schnetpack-tpainn[molecules]'") from (
            error
        )
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise DataError(f"expected a SMILES string that RDKit can read, got {smiles!r}")
    atoms, bonds = list(molecule.GetAtoms()), list(molecule.GetBonds())
    rings = molecule.GetRingInfo()
    kinds = [_kind(atom) for atom in atoms]
    names: list[str] = []
    for atom, kind in zip(atoms, kinds, strict=True):
        symbol, n_added = atom.GetSymbol(), atom.GetTotalNumHs()
        size = min(rings.MinAtomRingSize(atom.GetIdx()), WIDE) or ""
        around = sorted([*map(_neighbour, [atom] * atom.GetDegree(), atom.GetBonds())])
        group = f"{symbol}({','.join(sorted([*around, *['-H'] * n_added]))})"
        names += [f"composition:{symbol}", *["composition:H"] * n_added]
        names += ["bonds:" + "-".join(sorted((symbol, "H")))] * n_added
        names += [f"atoms:{kind}", f"groups:{group}", f"ring groups:{size}{group}"]
        names += [f"ring atoms:{size}{kind}"]
    for bond in bonds:
        a, b, order = bond.GetBeginAtom(), bond.GetEndAtom(), _order(bond)
        names.append("bonds:" + order.join(sorted((a.GetSymbol(), b.GetSymbol()))))
        pair = sorted((kinds[a.GetIdx()], kinds[b.GetIdx()]))
        names.append(f"bonded pairs:{pair[0]} {order} {pair[1]}")
    return Counter(names + _rings([set(ring) for ring in rings.AtomRings()]))


def _order(bond: Any) -> str:
    return ORDERS.get(bond.GetBondTypeAsDouble(), "~")


def _neighbour(atom: Any, bond: Any) -> str:
    return _order(bond) + bond.GetOtherAtom(atom).GetSymbol()


def _kind(atom: Any) -> str:
    """Element, orders of all bonds and charge."""
    orders = [_order(bond) for bond in atom.GetBonds()] + ["-"] * atom.GetTotalNumHs()
    charge = atom.GetFormalCharge()
    return atom.GetSymbol() + "".join(sorted(orders)) + (f"{charge:+d}" if charge else "")


def _rings(rings: Sequence[set[int]]) -> list[str]:
    names = [f"rings:{len(ring)}" for ring in rings]
    for i, ring in enumerate(rings):
        for other in rings[:i]:
            if shared := len(ring & other):
                small, large = sorted((len(ring), len(other)))
                names.append(f"rings:{small}/{large} share {shared}")
    return names


def table(
    molecules: Sequence[Mapping[str, int]], names: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Numbers of increments as a matrix.

    Args:
        molecules: what :func:`features` gives, per molecule.
        names: increments that have a column, others are left out; all that occur when None.

    Returns:
        Numbers, float64, shape (M, P), and the names of the columns.
    """
    columns = sorted({n for m in molecules for n in m}) if names is None else list(names)
    place = {name: j for j, name in enumerate(columns)}
    counts = np.zeros((len(molecules), len(columns)))
    for row, molecule in zip(counts, molecules, strict=True):
        for name, n in molecule.items():
            if name in place:
                row[place[name]] = n
    return counts, columns


def linear_baseline(
    train: Sequence[Mapping[str, int]],
    energies_ev: Sequence[float] | np.ndarray,
    test: Sequence[Mapping[str, int]],
) -> np.ndarray:
    """Predictions of an additive energy that knows the training labels alone.

    Args:
        train: what :func:`features` gives, per labelled molecule.
        energies_ev: their energies in eV, shape (N,). Those of free atoms are best subtracted
            before: an element that no labelled molecule has gets the energy zero.
        test: what :func:`features` gives, per molecule to predict.

    Returns:
        Energies in eV, shape (M,).
    """
    x, names = table(train)
    return np.asarray(table(test, names)[0] @ fit_increments(x, energies_ev, names).values)
