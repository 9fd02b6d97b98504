"""Liquids as boxes of whole molecules: topologies, start structures, checks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.geometry import find_mic
from ase.neighborlist import natural_cutoffs, neighbor_list
from ase.units import _amu
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from schnetpack_tpainn.errors import DataError, LabelError

__all__ = ["Molecules", "bonded_pairs", "box_length", "density", "water_box", "waters"]

BOND = 1.3  # times the sum of covalent radii: 1.26 Å for O-H
STRETCH = 1.5  # times the sum of covalent radii: 1.46 Å for O-H
WATER = np.array([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]])  # Å
GRAM_PER_CM3 = _amu * 1e27  # u/Å³


def density(atoms: Atoms) -> float:
    """Density of a periodic structure.

    Args:
        atoms: the structure (Å).

    Returns:
        Density in g/cm³.
    """
    return float(atoms.get_masses().sum() / atoms.get_volume() * GRAM_PER_CM3)


def box_length(mass_u: float, density_g_per_cm3: float) -> float:
    """Edge of a cube with a mass and a density.

    Args:
        mass_u: mass in atomic mass units.
        density_g_per_cm3: density in g/cm³.

    Returns:
        Edge in Å.
    """
    return float((mass_u * GRAM_PER_CM3 / density_g_per_cm3) ** (1 / 3))


def water_box(n_molecules: int, density_g_per_cm3: float, seed: int = 0) -> Atoms:
    """Cubic box of water: molecules turned at random, on randomly chosen points of a lattice.

    Args:
        n_molecules: number of molecules.
        density_g_per_cm3: density in g/cm³.
        seed: seed of the draws.

    Returns:
        Periodic structure (Å), atoms ordered O, H, H.
    """
    rng = np.random.default_rng(seed)
    atoms = Atoms("OH2" * n_molecules, pbc=True)
    length = box_length(atoms.get_masses().sum(), density_g_per_cm3)
    edge = np.ceil(n_molecules ** (1 / 3) - 1e-9)  # points along it
    points = np.stack(np.unravel_index(rng.permutation(int(edge**3)), [int(edge)] * 3), axis=1)
    turned = Rotation.random(n_molecules, rng=rng).as_matrix() @ WATER.T  # (M, 3, 3)
    sites = (points[:n_molecules] + 0.5) * length / edge  # (M, 3)
    atoms.set_cell([length] * 3)
    atoms.positions = (sites[:, None] + turned.transpose(0, 2, 1)).reshape(-1, 3)
    return atoms


def bonded_pairs(atoms: Atoms) -> np.ndarray:
    """Bonds: pairs closer than 1.3 times the sum of covalent radii, a hydrogen's shortest alone.

    Args:
        atoms: the structure (Å), periodic or not.

    Returns:
        Pairs of atoms, the smaller index first, shape (B, 2); once for each image that is bonded.
    """
    i, j, d = neighbor_list("ijd", atoms, natural_cutoffs(atoms, mult=BOND))
    shortest = np.full(len(atoms), np.inf)
    np.minimum.at(shortest, i, d)
    hydrogen = atoms.numbers == atomic_numbers["H"]
    near = np.where(hydrogen[i], d <= shortest[i], True)
    near &= np.where(hydrogen[j], d <= shortest[j], True)
    return np.stack([i, j], axis=1)[near & (i < j)]


def waters(n_molecules: int) -> "Molecules":
    """Topology of water, atoms ordered O, H, H.

    Args:
        n_molecules: number of molecules.

    Returns:
        Elements and bonds.
    """
    oxygens = 3 * np.arange(n_molecules)
    bonds = np.stack([np.repeat(oxygens, 2), np.repeat(oxygens, 2) + [1, 2] * n_molecules], axis=1)
    return Molecules(np.tile([8, 1, 1], n_molecules), bonds)


@dataclass
class Molecules:
    """What a force field takes for granted of a structure: elements, order and bonds.

    Attributes:
        numbers: atomic numbers, shape (N,).
        bonds: bonded atoms, shape (B, 2).
        part: molecule of every atom, shape (N,).
        levels: known and next atoms of every step outwards from each molecule's first atom.
        longest_ang: length in Å at which a bond counts as broken, shape (B,).
    """

    numbers: np.ndarray
    bonds: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.numbers)
        i, j = self.bonds.T
        graph = coo_array((np.ones(len(i)), (i, j)), shape=(n, n))
        self.part = connected_components(graph, directed=False)[1]  # (N,)
        self.levels = self._walk()
        radii = covalent_radii[self.numbers]
        self.longest_ang = STRETCH * (radii[i] + radii[j])  # Å, (B,)

    def _walk(self) -> list[tuple[np.ndarray, np.ndarray]]:
        known = np.zeros(len(self.numbers), dtype=bool)
        known[np.unique(self.part, return_index=True)[1]] = True
        both = np.concatenate([self.bonds, self.bonds[:, ::-1]])
        levels = []
        while not known.all():
            here, there = both[known[both[:, 0]] & ~known[both[:, 1]]].T
            there, first = np.unique(there, return_index=True)
            levels.append((here[first], there))
            known[there] = True
        return levels

    def whole(self, atoms: Atoms) -> np.ndarray:
        """Positions with no molecule cut by the cell's faces.

        Args:
            atoms: the structure (Å).

        Returns:
            Positions in Å, shape (N, 3).

        Raises:
            LabelError: other elements or another order than the topology's, or a broken bond.
        """
        self._check_order(atoms)
        positions = atoms.get_positions()
        for here, there in self.levels:
            steps = positions[there] - positions[here]
            positions[there] = positions[here] + find_mic(steps, atoms.cell, atoms.pbc)[0]
        i, j = self.bonds.T
        lengths = np.linalg.norm(positions[i] - positions[j], axis=1)
        broken = np.flatnonzero(~(lengths < self.longest_ang))
        if len(broken):
            symbols = atoms.symbols
            few = ", ".join(
                f"{symbols[i[b]]}{i[b]}-{symbols[j[b]]}{j[b]} {lengths[b]:.2f} Å"
                for b in broken[:4]
            )
            raise LabelError(
                f"expected whole molecules, got {len(broken)} of {len(lengths)} bonds longer than "
                f"{STRETCH:g} times the sum of covalent radii ({few}): a molecule is dissociated, "
                "or the atoms are not in the topology's order (for water O, H, H of each molecule)"
            )
        return positions

    def _check_order(self, atoms: Atoms) -> None:
        if len(atoms) != len(self.numbers):
            raise LabelError(
                f"expected the {len(self.numbers)} atoms of the topology, got {len(atoms)}"
            )
        wrong = np.flatnonzero(atoms.numbers != self.numbers)
        if len(wrong):
            wanted = Atoms(self.numbers[:3]).symbols
            raise LabelError(
                f"expected atoms in the order of the topology ({', '.join(wanted)}, ...), got "
                f"{', '.join(atoms.symbols[:3])}, ...; first difference at atom {wrong[0]}: sort "
                "the atoms molecule by molecule, oxygen first in water"
            )

    def at_density(self, atoms: Atoms, density_g_per_cm3: float | None) -> Atoms:
        """Copy of a periodic structure with its molecules moved apart or together.

        Args:
            atoms: the structure (Å).
            density_g_per_cm3: density in g/cm³; None: the structure's own.

        Returns:
            The structure, its molecules as they were and its cell scaled.

        Raises:
            DataError: the structure has no cell.
        """
        if not atoms.pbc.all() or atoms.cell.rank < 3:
            raise DataError(
                "expected a periodic structure with a cell, got none; the PDB file "
                "needs a CRYST1 record"
            )
        own = density(atoms)
        factor = (own / (density_g_per_cm3 or own)) ** (1 / 3)
        positions = self.whole(atoms)
        sizes = np.bincount(self.part)[:, None]  # (M, 1)
        centres = np.zeros((len(sizes), 3))
        np.add.at(centres, self.part, positions)
        centres /= sizes
        scaled: Any = atoms.copy()
        scaled.set_cell(atoms.cell * factor)
        scaled.positions = positions + ((factor - 1) * centres)[self.part]
        return scaled
