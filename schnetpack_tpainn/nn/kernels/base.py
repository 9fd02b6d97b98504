"""What a message kernel is asked to compute."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

__all__ = ["Kernel", "Pairs"]


class Pairs(NamedTuple):
    """A symmetric neighbour list, sorted by receiving atom.

    Attributes:
        starts: where each atom's pairs start, shape (N+1,), int64.
        idx_j: sending atoms, shape (E,), int64.
        order: where the pairs were in the list as given, shape (E,); None if it was sorted.
    """

    starts: Tensor
    idx_j: Tensor
    order: Tensor | None


class Kernel(ABC):
    r"""PaiNN's message, its first and second derivatives, and the update, on one kind of device.

    Results are written into tensors that the caller provides. Shapes, for N atoms, E pairs, F
    features and M intervals, contiguous and of one dtype: ``r`` (E, 3) in Å; ``table`` (M+1, 3, 3,
    F) and ``grid`` (3,) as in :mod:`schnetpack_tpainn.nn.kernels.table`; ``x`` (N, 3, F), the
    context network's output, of which the message takes the first two thirds; ``y`` (N, 3, F),
    :math:`x^3 \circ \mu`, with no rows where :math:`\mu = 0`; ``gq`` (N, F) and ``gmu`` (N, 3, F),
    gradients with respect to the message; tangents ``a``, ``b``, ``rho`` as ``x``, ``y``, ``r``.
    The equations are in :mod:`~schnetpack_tpainn.nn.kernels.numba_loops`,
    :mod:`~schnetpack_tpainn.nn.kernels.numba_tangents` and
    :mod:`~schnetpack_tpainn.nn.kernels.numba_update`.
    """

    name: str

    @abstractmethod
    def pairs(self, r: Tensor, idx_i: Tensor, idx_j: Tensor, n_atoms: int) -> Pairs | None:
        """Check and sort a neighbour list.

        Args:
            r: pair vectors.
            idx_i: receiving atoms, shape (E,).
            idx_j: sending atoms, shape (E,).
            n_atoms: number of atoms.

        Returns:
            The list; None where it is not symmetric, two atoms are closer than the table's first
            knot, or a position is not finite. A kernel that cannot tell without waiting for its
            device gives a list that turns every result into NaN.
        """

    @abstractmethod
    def message(self, pairs: Pairs, *tensors: Tensor) -> None:
        """``r, table, grid, x, y, q, mu``: add the message to ``q`` (N, F) and ``mu`` (N, 3, F)."""

    @abstractmethod
    def grad_atoms(self, pairs: Pairs, *tensors: Tensor) -> None:
        """``r, table, grid, gq, gmu, gx, gy``: set the gradients of ``x`` and ``y``."""

    @abstractmethod
    def grad_pairs(self, pairs: Pairs, *tensors: Tensor) -> None:
        """``r, table, grid, x, y, gq, gmu, gr``: add the gradient of ``r``."""

    @abstractmethod
    def grad_table(self, pairs: Pairs, *tensors: Tensor) -> None:
        """``r, grid, x, y, gq, gmu, gtable``: add the gradient of ``table``."""

    @abstractmethod
    def tangent(self, pairs: Pairs, *tensors: Tensor) -> None:
        """``r, table, grid, x, y, a, b, rho, q, mu``: set the message's derivative."""

    @abstractmethod
    def tangent_grad_atoms(self, pairs: Pairs, *tensors: Tensor) -> None:
        """``r, table, grid, gq, gmu, rho, gx, gy``: :meth:`grad_atoms` of that derivative."""

    @abstractmethod
    def tangent_grad_pairs(self, pairs: Pairs, *tensors: Tensor) -> None:
        """``r, table, grid, x, y, a, b, gq, gmu, rho, gr``: set :meth:`grad_pairs` of it."""

    @abstractmethod
    def tangent_grad_table(self, pairs: Pairs, *tensors: Tensor) -> None:
        """``r, grid, x, y, a, b, gq, gmu, rho, gtable``: add :meth:`grad_table` of it."""

    @abstractmethod
    def context(self, q: Tensor, vw: Tensor, epsilon: float, out: Tensor) -> None:
        r"""Set the update's context :math:`(q, \nu)`, shape (N, 2, F).

        ``vw`` (N, 3, 2, F) holds :math:`V\mu` and :math:`W\mu`.
        """

    @abstractmethod
    def grad_context(self, *tensors: Tensor) -> None:
        """``vw, context, gcontext, gvw``: add the gradient through the norm to that of ``vw``."""

    @abstractmethod
    def tangent_context(self, *tensors: Tensor) -> None:
        """``vw, context, gcontext, a, ocontext, ovw``: set its gradients, with ``a`` as ``vw``."""

    @abstractmethod
    def apply_gates(self, *tensors: Tensor) -> None:
        """``vw, gates, q, mu``: add the update, with ``gates`` (N, 3, F)."""

    @abstractmethod
    def grad_gates(self, *tensors: Tensor) -> None:
        """``vw, gates, gq, gmu, ggates, gvw``: set the gradients of ``gates`` and ``vw``."""

    @abstractmethod
    def tangent_gates(self, *tensors: Tensor) -> None:
        """``vw, gates, gq, gmu, a, b, ovw, ogates, oq, omu``: set the gradients of that.

        Tangents ``a`` and ``b`` are as ``vw`` and ``gates``.
        """
