"""Molecules of a trajectory: whole, followed through the cell's faces, and whether they last."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase.symbols import Symbols

from schnetpack_tpainn.analysis.trajectory import Trajectory
from schnetpack_tpainn.data.liquid import Molecules, bonded_pairs
from schnetpack_tpainn.errors import AnalysisError

__all__ = ["Dissociation", "MolecularTrajectory", "nearest_image", "unwrap"]

FAR = 0.4  # of the cell, moved between frames: from 0.5 on nobody knows in which direction


@dataclass(frozen=True)
class Dissociation:
    """Molecules with a bond longer than 1.5 times the sum of covalent radii.

    Attributes:
        n_molecules: molecules in the first frame.
        n_frames: frames with a dissociated molecule.
        most: largest number of them in one frame.
        at_end: number of them in the last frame.
        first_ps: time of the first one in ps; None without.
    """

    n_molecules: int
    n_frames: int
    most: int
    at_end: int
    first_ps: float | None


class MolecularTrajectory:
    """A trajectory with the molecules of its first frame.

    Bonds are those of :func:`~schnetpack_tpainn.data.liquid.bonded_pairs`. Where they make a
    network through the cell, as in a metal, every atom counts as a molecule.

    Args:
        trajectory: the trajectory.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        self.trajectory = trajectory
        bonds = bonded_pairs(trajectory.frame(0))
        self.molecules = Molecules(trajectory.numbers, np.unique(bonds, axis=0))
        through = self._lengths[0] > self.molecules.longest_ang  # closes a ring through the cell
        self.is_network = bool(through.any()) or len(bonds) > len(self.molecules.bonds)
        if self.is_network:
            self.molecules = Molecules(trajectory.numbers, np.zeros((0, 2), dtype=int))
            del self.whole, self._lengths  # those of the network

    @property
    def part(self) -> np.ndarray:
        """Molecule of every atom, shape (N,)."""
        return self.molecules.part

    @cached_property
    def whole(self) -> np.ndarray:
        """Positions with no molecule cut by the cell's faces, in Å, shape (T, N, 3)."""
        trajectory = self.trajectory
        positions = trajectory.positions.copy()
        for here, there in self.molecules.levels:
            steps = positions[:, there] - positions[:, here]
            steps = nearest_image(steps, trajectory.cells, trajectory.pbc)
            positions[:, there] = positions[:, here] + steps
        return positions

    @cached_property
    def _lengths(self) -> np.ndarray:
        """Lengths of the bonds in Å, shape (T, B)."""
        i, j = self.molecules.bonds.T
        return np.asarray(np.linalg.norm(self.whole[:, i] - self.whole[:, j], axis=2))

    @cached_property
    def species(self) -> dict[str, np.ndarray]:
        """Chemical formula -> the molecules that have it."""
        found: dict[str, list[int]] = {}
        atoms = np.split(np.argsort(self.part, kind="stable"), np.cumsum(np.bincount(self.part)))
        for m, members in enumerate(atoms[:-1]):
            symbols = Symbols(self.trajectory.numbers[members])
            found.setdefault(str(symbols.get_chemical_formula()), []).append(m)
        return {formula: np.array(molecules) for formula, molecules in found.items()}

    @property
    def masses(self) -> np.ndarray:
        """Masses of the molecules in u, shape (M,)."""
        return np.bincount(self.part, self.trajectory.masses)

    def centres(self) -> np.ndarray:
        """Centres of mass, followed through the cell's faces, relative to that of the whole.

        Returns:
            Positions in Å, shape (T, M, 3).

        Raises:
            AnalysisError: the cell changes, or the frames are too far apart.
        """
        trajectory = self.trajectory
        if trajectory.box_changes:
            raise AnalysisError(
                "expected a cell that does not change, got one that does: a barostat scales the "
                "positions, which is no diffusion; run NVE or NVT at the mean density"
            )
        order = np.argsort(self.part, kind="stable")
        starts = np.searchsorted(self.part[order], np.arange(len(self.masses)))
        weighted = self.whole[:, order] * trajectory.masses[order, None]
        centres = np.add.reduceat(weighted, starts, axis=1) / self.masses[:, None]
        followed = unwrap(centres, trajectory.cells[0], trajectory.pbc)
        whole = np.average(followed, axis=1, weights=self.masses)  # (T, 3)
        return np.asarray(followed - whole[:, None])

    def dissociation(self) -> Dissociation:
        """Count the molecules that lost a bond of the first frame.

        Returns:
            The counts.
        """
        frames, bonds = np.nonzero(self._lengths > self.molecules.longest_ang)
        ends = self.part[self.molecules.bonds[bonds, 0]]
        broken = np.zeros((self.trajectory.n_frames, len(self.masses)), dtype=bool)
        broken[frames, ends] = True
        counts = broken.sum(axis=1)  # (T,)
        return Dissociation(
            n_molecules=len(self.masses),
            n_frames=int((counts > 0).sum()),
            most=int(counts.max()),
            at_end=int(counts[-1]),
            first_ps=float(self.trajectory.times_ps[frames.min()]) if len(frames) else None,
        )


def nearest_image(vectors: np.ndarray, cells: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Vectors to the nearest image, right for those shorter than half the cell's heights.

    Args:
        vectors: Å, shape (T, K, 3).
        cells: cell vectors in Å, shape (T, 3, 3) or (3, 3).
        pbc: periodic directions, shape (3,).

    Returns:
        Vectors in Å, shape (T, K, 3).
    """
    if not pbc.any():
        return vectors
    shifts = np.round(vectors @ np.linalg.inv(cells)) * pbc
    return np.asarray(vectors - shifts @ cells)


def unwrap(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Follow points through the faces of a cell that does not change.

    Args:
        positions: Å, wrapped into the cell or not, shape (T, K, 3).
        cell: cell vectors in Å, shape (3, 3).
        pbc: periodic directions, shape (3,).

    Returns:
        Continuous positions in Å that begin where ``positions`` do, shape (T, K, 3).

    Raises:
        AnalysisError: a point moves by more than 0.4 of the cell from one frame to the next.
    """
    if not pbc.any():
        return positions
    steps = np.diff(positions @ np.linalg.inv(cell), axis=0)  # of the cell
    steps -= np.round(steps) * pbc
    furthest = float(np.abs(steps[..., pbc]).max(initial=0))
    if furthest > FAR:
        raise AnalysisError(
            "expected frames close enough in time to follow the molecules through the cell's "
            f"faces, got one that moves by {furthest:.2f} of the cell between frames (at most "
            f"{FAR:g}); write frames more often"
        )
    return np.asarray(positions[:1] + np.concatenate([steps[:1] * 0, steps.cumsum(0)]) @ cell)
