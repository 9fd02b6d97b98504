"""Closest approaches of atoms, and hydrogen bonds."""

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from tqdm import tqdm
from vesin import NeighborList

from schnetpack_tpainn.analysis.molecules import MolecularTrajectory
from schnetpack_tpainn.errors import AnalysisError

__all__ = ["HBOND_ANG", "HBOND_DEGREES", "Contacts", "find_contacts"]

HBOND_ANG, HBOND_DEGREES = 3.5, 30.0
OVERLAP = 0.6  # times the sum of covalent radii
HYDROGEN, OXYGEN = 1, 8


@dataclass(frozen=True)
class Contacts:
    """Distances below 3.5 Å, over all frames.

    Attributes:
        between_ang: elements, such as ``H-O`` -> smallest distance of such atoms in different
            molecules in Å; None where none came below 3.5 Å.
        within_ang: the same within a molecule.
        overlaps: elements -> frames in which such a pair came closer than 0.6 times the sum of
            covalent radii; pairs that never did are left out.
        hydrogen_bonds: per molecule and frame, shape (T,); None without O-H bonds.
    """

    between_ang: dict[str, float | None]
    within_ang: dict[str, float | None]
    overlaps: dict[str, int]
    hydrogen_bonds: np.ndarray | None

    def mean_hydrogen_bonds(self) -> np.ndarray:
        """Hydrogen bonds per molecule and frame.

        Returns:
            Shape (T,).

        Raises:
            AnalysisError: the molecules have no O-H bond.
        """
        if self.hydrogen_bonds is None:
            raise AnalysisError("expected molecules with O-H bonds, for hydrogen bonds, got none")
        return self.hydrogen_bonds


def find_contacts(system: MolecularTrajectory) -> Contacts:
    """Search all frames for close atoms and hydrogen bonds.

    Molecules share a hydrogen bond when two of their oxygens are less than 3.5 Å apart and the
    hydrogen of one lies less than 30° off the line to the other (Luzar and Chandler, Nature 379,
    55, 1996). Each counts for both molecules: twice their number by that of all molecules.

    Args:
        system: the trajectory.

    Returns:
        What was found.
    """
    trajectory = system.trajectory
    radii = covalent_radii[trajectory.numbers]
    elements = np.unique(trajectory.numbers)
    kind = np.searchsorted(elements, trajectory.numbers)
    n = len(elements)
    smallest = np.full((2, n * n), np.inf)  # between and within molecules
    overlaps = np.zeros(n * n, dtype=int)
    hydrogens = _hydrogens(system)
    bonds = np.zeros(trajectory.n_frames)
    for t in tqdm(range(trajectory.n_frames), "close atoms", unit="frame", disable=None):
        i, j, d, vectors = _pairs(system, t)
        pair = np.minimum(kind[i], kind[j]) * n + np.maximum(kind[i], kind[j])
        inside = (system.part[i] == system.part[j]).astype(int)
        np.minimum.at(smallest, (inside, pair), d)
        overlaps[np.unique(pair[d < OVERLAP * (radii[i] + radii[j])])] += 1
        if hydrogens is not None:
            oxygens = (trajectory.numbers[i] == OXYGEN) & (trajectory.numbers[j] == OXYGEN)
            keep = oxygens & (inside == 0)
            for donor, vector in ((i[keep], vectors[keep]), (j[keep], -vectors[keep])):
                bonds[t] += _donated(system.whole[t], hydrogens, donor, vector)
    named = {
        f"{chemical_symbols[elements[a]]}-{chemical_symbols[elements[b]]}": a * n + b
        for a, b in combinations_with_replacement(range(n), 2)
    }
    between, within = (
        {name: float(d[p]) if np.isfinite(d[p]) else None for name, p in named.items()}
        for d in smallest
    )
    return Contacts(
        between_ang=between,
        within_ang=within,
        overlaps={name: int(overlaps[p]) for name, p in named.items() if overlaps[p]},
        hydrogen_bonds=None if hydrogens is None else 2 * bonds / len(system.masses),
    )


def _pairs(
    system: MolecularTrajectory, t: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every pair below 3.5 Å of a frame once: i, j (P,), distances (P,), vectors (P, 3) in Å."""
    trajectory = system.trajectory
    cell, pbc = trajectory.cells[t], trajectory.pbc
    positions = trajectory.positions[t]
    if pbc.any():
        positions = positions - (np.floor(positions @ np.linalg.inv(cell)) * pbc) @ cell
    search = NeighborList(cutoff=HBOND_ANG, full_list=False, n_threads=1)
    i, j, d, vectors = search.compute(positions, cell, pbc, "ijdD")
    return i.astype(int), j.astype(int), d, vectors


def _hydrogens(system: MolecularTrajectory) -> np.ndarray | None:
    """Hydrogens of every atom that is an oxygen, -1 for none, shape (N, most); None without."""
    numbers = system.trajectory.numbers
    both = np.concatenate([system.molecules.bonds, system.molecules.bonds[:, ::-1]])
    oxygen, hydrogen = both[(numbers[both[:, 0]] == OXYGEN) & (numbers[both[:, 1]] == HYDROGEN)].T
    if not len(oxygen):
        return None
    found = np.full((len(numbers), np.bincount(oxygen).max()), -1)
    for o in np.unique(oxygen):
        mine = hydrogen[oxygen == o]
        found[o, : len(mine)] = mine
    return found


def _donated(
    positions: np.ndarray, hydrogens: np.ndarray, donor: np.ndarray, vectors: np.ndarray
) -> int:
    """Hydrogen bonds along vectors (P, 3) from donors (P,) to other oxygens."""
    candidates = hydrogens[donor]  # (P, most)
    arms = positions[candidates] - positions[donor][:, None]  # (P, most, 3)
    lengths = np.linalg.norm(arms, axis=2) * np.linalg.norm(vectors, axis=1)[:, None]
    along = np.einsum("pkx,px->pk", arms, vectors)
    close = along > np.cos(np.radians(HBOND_DEGREES)) * lengths
    return int((close & (candidates >= 0)).sum())
