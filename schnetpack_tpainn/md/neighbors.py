"""A Verlet list: the pairs within a cutoff, rebuilt only when atoms or cell have moved too far."""

from typing import NamedTuple

import numpy as np
import schnetpack.properties as keys
import torch
from vesin import NeighborList

from schnetpack_tpainn.errors import MDError

__all__ = ["Neighbors", "VerletList"]

MIN_DISTANCE_ANG = 0.01  # closer atoms count as coincident


class Neighbors(NamedTuple):
    """Pairs i, j with r_ij = R_j - R_i + offset_ij, each listed as i, j and as j, i.

    Attributes:
        positions: Å, shape (N, 3), float64: those given, up to lattice vectors.
        idx_i: first atom of each pair, ascending, shape (E,).
        idx_j: second atom of each pair, shape (E,).
        offsets: Å, shape (E, 3), float64, the lattice vector of each pair.
    """

    positions: torch.Tensor
    idx_i: torch.Tensor
    idx_j: torch.Tensor
    offsets: torch.Tensor

    def as_inputs(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """SchNetPack's names for them.

        Args:
            dtype: floating-point type of the network.

        Returns:
            Part of a batch.
        """
        return {
            keys.R: self.positions.to(dtype),
            keys.idx_i: self.idx_i,
            keys.idx_j: self.idx_j,
            keys.offsets: self.offsets.to(dtype),
        }


class VerletList:
    r"""Full neighbour list (Verlet, Phys. Rev. 159, 98, 1967) that is right for changing cells too.

    Pairs up to :math:`r_c + s` are listed, by `vesin <https://github.com/Luthaf/vesin>`_; the ones
    within the cutoff :math:`r_c` are picked at every call. With the cell (rows) :math:`C_0` and
    positions :math:`R^0` of the last listing, the present :math:`C` and :math:`R`, and

    .. math::
       F = C_0^{-1} C, \qquad d_i = R_i - R^0_i F - \langle R - R^0 F \rangle,

    every pair vector, whatever its lattice vector, is

    .. math::
       r_{ij} = r^0_{ij} F + d_j - d_i
       \quad\Rightarrow\quad
       |r_{ij}| \ge \sigma_{\min}(F) \, |r^0_{ij}| - |d_i| - |d_j|,

    :math:`\sigma_{\min}` being the smallest singular value. Unlisted pairs had
    :math:`|r^0_{ij}| > r_c + s`, so none can be within the cutoff, and the list is kept, as long as

    .. math::
       \sigma_{\min}(F) \, (r_c + s) - \max_{i \ne j} (|d_i| + |d_j|) \ge r_c.

    With fewer than three periodic directions, :math:`F = 1 + P_0^+ (P - P_0)` takes the periodic
    rows :math:`P_0` of the cell to :math:`P` and leaves what is normal to :math:`P_0` as it is.

    Atoms may be anywhere: the list is made for, and returned with, positions that were brought
    into the cell at the last listing, so that float32 does not suffer from long diffusion either.

    Args:
        cutoff: :math:`r_c` in Å.
        skin: :math:`s` in Å; 0 makes a new list at every call.
        device: where the tensors are kept and the pairs picked.
    """

    def __init__(
        self, cutoff: float, skin: float = 0.5, device: torch.device | str = "cpu"
    ) -> None:
        self.cutoff, self.skin, self.device = cutoff, skin, device
        self.n_builds = 0
        self._pbc: np.ndarray | None = None

    def __call__(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Neighbors:
        """The pairs within the cutoff.

        Args:
            positions: Å, shape (N, 3); finite.
            cell: Å, one vector a row, shape (3, 3); of any size in periodic directions.
            pbc: which of them are periodic, shape (3,).

        Returns:
            The pairs.

        Raises:
            MDError: two atoms are in the same place.
        """
        if not self._holds(positions, cell, pbc):
            self._build(positions, cell, pbc)
        home = positions - self._wraps @ cell[pbc]  # (N, 3)
        return self._within_cutoff(self._tensor(home), self._tensor(cell))

    def renew(self) -> None:
        """Make a new list at the next call."""
        self._pbc = None

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _holds(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bool:
        """Whether no unlisted pair can be within the cutoff."""
        if (
            self._pbc is None
            or len(positions) != len(self._positions)
            or (pbc != self._pbc).any()
            or self.skin == 0
        ):
            return False
        stretch, shrinkage = np.eye(3), 1.0
        if (cell != self._cell).any():
            old, new = self._cell[pbc], cell[pbc]
            stretch += np.linalg.pinv(old) @ (new - old)
            shrinkage = np.linalg.svd(stretch, compute_uv=False)[-1]
        moves = positions - self._positions @ stretch
        moves -= moves.mean(axis=0)
        two_largest = np.sort(np.linalg.norm(moves, axis=1))[-2:].sum()
        return bool(shrinkage * (self.cutoff + self.skin) - two_largest >= self.cutoff)

    def _build(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> None:
        periodic = cell[pbc]  # (P, 3)
        self._wraps = np.floor(positions @ np.linalg.pinv(periodic))  # (N, P)
        home = positions - self._wraps @ periodic
        search = NeighborList(
            cutoff=self.cutoff + self.skin,
            full_list=True,
            sorted=True,
            n_threads=torch.get_num_threads(),
        )
        i, j, shifts = search.compute(home, cell, pbc, "ijS", copy=False)
        self._idx_i = self._tensor(i.astype(np.int64))
        self._idx_j = self._tensor(j.astype(np.int64))
        self._shifts = self._tensor(shifts.astype(np.float64))
        self._positions, self._cell, self._pbc = positions.copy(), cell.copy(), pbc.copy()
        self.n_builds += 1

    def _within_cutoff(self, positions: torch.Tensor, cell: torch.Tensor) -> Neighbors:
        # Written out, for i, j and j, i to be rounded alike: a matrix product may not.
        s = self._shifts
        offsets = s[:, :1] * cell[0] + s[:, 1:2] * cell[1] + s[:, 2:] * cell[2]  # (E, 3)
        r_ij = positions.index_select(0, self._idx_j)
        r_ij -= positions.index_select(0, self._idx_i)
        r_ij += offsets
        squares = r_ij.square_().sum(dim=1)  # (E,)
        if len(squares):
            self._check_closest(squares)
        keep = (squares < self.cutoff**2).nonzero().squeeze(1)
        return Neighbors(
            positions,
            self._idx_i.index_select(0, keep),
            self._idx_j.index_select(0, keep),
            offsets.index_select(0, keep),
        )

    def _check_closest(self, squares: torch.Tensor) -> None:
        closest = squares.min()
        if closest < MIN_DISTANCE_ANG**2:
            pair = squares.argmin()
            raise MDError(
                f"expected atoms in different places, got atoms {int(self._idx_i[pair])} and "
                f"{int(self._idx_j[pair])} at a distance of {float(closest) ** 0.5:.2g} Å "
                "(periodic images included); remove one of them, or correct cell and positions"
            )
