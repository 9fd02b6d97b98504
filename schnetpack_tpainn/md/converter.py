"""From ASE's atoms to the input of a SchNetPack model, without repeating what did not change."""

import numpy as np
import schnetpack.properties as keys
import torch
from ase import Atoms

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md.neighbors import VerletList

__all__ = ["SystemConverter", "check_structure"]

MIN_VOLUME = 1e-6  # of the periodic cell vectors, relative to a right-angled cell


class SystemConverter:
    """What ``schnetpack.interfaces.AtomsConverter`` does, for one system that moves.

    Args:
        neighbor_list: finds the pairs.
        device: where the tensors go.
        dtype: floating-point type of the network.
    """

    def __init__(self, neighbor_list: VerletList, device: torch.device, dtype: torch.dtype) -> None:
        self.neighbor_list = neighbor_list
        self.device, self.dtype = device, dtype
        self._numbers = np.zeros(0, dtype=int)
        self._of_atoms: dict[str, torch.Tensor] = {}

    def __call__(self, atoms: Atoms) -> dict[str, torch.Tensor]:
        """Convert.

        Args:
            atoms: the structure (Å), which :func:`check_structure` finds in order.

        Returns:
            A batch of one.

        Raises:
            MDError: two atoms are in the same place.
        """
        positions, cell, pbc = atoms.positions, atoms.cell.array, atoms.pbc
        if not np.array_equal(atoms.numbers, self._numbers):
            self._numbers = atoms.numbers.copy()
            self._of_atoms = atom_inputs(self._numbers, self.device)
        return {
            **self._of_atoms,
            **cell_inputs(cell, pbc, self.device, self.dtype),
            **self.neighbor_list(positions, cell, pbc).as_inputs(self.dtype),
        }


def atom_inputs(numbers: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
    """The part of a batch of one system that depends on its atoms' kinds alone.

    Args:
        numbers: atomic numbers, shape (N,).
        device: where the tensors go.

    Returns:
        Part of a batch.
    """
    n_atoms = len(numbers)
    return {
        keys.idx: torch.zeros(1, dtype=torch.long, device=device),
        keys.n_atoms: torch.tensor([n_atoms], device=device),
        keys.Z: torch.as_tensor(numbers, dtype=torch.long, device=device),
        keys.idx_m: torch.zeros(n_atoms, dtype=torch.long, device=device),
    }


def cell_inputs(
    cell: np.ndarray, pbc: np.ndarray, device: torch.device, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The part of a batch of one system that its cell is.

    Args:
        cell: Å, shape (3, 3).
        pbc: periodic directions, shape (3,).
        device: where the tensors go.
        dtype: floating-point type of the network.

    Returns:
        Part of a batch.
    """
    return {
        keys.cell: torch.tensor(cell[None], dtype=dtype, device=device),  # (1, 3, 3)
        keys.pbc: torch.tensor(pbc[None], device=device),  # (1, 3)
    }


def check_structure(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> None:
    """Refuse what is no structure.

    Args:
        positions: Å, shape (N, 3).
        cell: Å, shape (3, 3).
        pbc: periodic directions, shape (3,).

    Raises:
        MDError: there is no atom, a number is not finite, or periodic cell vectors span nothing.
    """
    if not len(positions):
        raise MDError("expected a structure with atoms, got none")
    if not np.isfinite(positions).all():
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        raise MDError(
            f"expected finite positions, got {positions[bad[0]].tolist()} for atom {bad[0]} and "
            f"NaN or infinity for {len(bad)} atoms in all; if they come from dynamics it blew up: "
            "shorten the time step"
        )
    if not np.isfinite(cell).all():
        raise MDError(f"expected a finite cell, got {cell.tolist()}")
    periodic = cell[pbc]  # (P, 3)
    lengths = np.linalg.norm(periodic, axis=1)
    volume = np.sqrt(max(np.linalg.det(periodic @ periodic.T), 0.0)) if len(periodic) else 1.0
    if volume <= MIN_VOLUME * lengths.prod():
        raise MDError(
            f"expected cell vectors that span the periodic directions pbc={pbc.tolist()}, got "
            f"{cell.tolist()}, which have no volume; set the cell, or atoms.pbc = False"
        )
