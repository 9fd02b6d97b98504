"""Checks and sorting of a neighbour list on a GPU, without waiting for it."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from schnetpack_tpainn.nn.kernels.base import Pairs
from schnetpack_tpainn.nn.kernels.table import START

__all__ = ["sort_pairs"]

TOLERANCE = 1e-3
AT_ONCE = 128


def sort_pairs(r: Tensor, idx_i: Tensor, idx_j: Tensor, n_atoms: int) -> Pairs:
    """Check and sort a neighbour list.

    The check is that of :func:`schnetpack_tpainn.nn.kernels.numba_pairs.inspect`. To read its
    outcome, or whether the list is sorted already, the CPU would have to wait for the GPU in every
    evaluation. So every list is sorted, and an unsuitable one is not reported, but spoilt: all its
    ``idx_j`` become -1, at which the loops compute NaN. Then every atom with neighbours has NaN as
    its features and forces.

    Args:
        r: pair vectors, shape (E, 3).
        idx_i: receiving atoms, shape (E,).
        idx_j: sending atoms, shape (E,).
        n_atoms: number of atoms N.

    Returns:
        The list.
    """
    balance = r.new_zeros(n_atoms, 4, dtype=torch.float64)
    programs = triton.cdiv(max(len(idx_i), 1), AT_ONCE)
    inspect[(programs,)](
        r, idx_i, idx_j, balance, len(idx_i), n_atoms, closest=START, at_once=AT_ONCE
    )
    receivers, order = idx_i.clamp(0, n_atoms - 1).int().sort(stable=True)
    atoms = torch.arange(n_atoms + 1, dtype=torch.int32, device=r.device)
    suitable = balance.abs().amax() <= TOLERANCE
    senders = torch.where(suitable, idx_j.index_select(0, order), -1)
    return Pairs(torch.searchsorted(receivers, atoms), senders, order)


@triton.jit
def weight(i):
    """Golden-ratio weights of atoms: as good as random, and the same every time."""
    s = i.to(tl.float64) * 0.6180339887498949
    return 0.5 + s - tl.floor(s)


@triton.jit
def inspect(
    r, idx_i, idx_j, balance, n_pairs, n_atoms, closest: tl.constexpr, at_once: tl.constexpr
):
    """Add the pairs' share to the balance; NaN if atoms do not exist, or have no good distance."""
    e = tl.program_id(0).to(tl.int64) * at_once + tl.arange(0, at_once)
    listed = e < n_pairs
    i, j = tl.load(idx_i + e, mask=listed, other=0), tl.load(idx_j + e, mask=listed, other=0)
    x = tl.load(r + 3 * e, mask=listed, other=1.0).to(tl.float64)
    y = tl.load(r + 3 * e + 1, mask=listed, other=1.0).to(tl.float64)
    z = tl.load(r + 3 * e + 2, mask=listed, other=1.0).to(tl.float64)
    d2 = x * x + y * y + z * z
    good = (d2 >= closest * closest) & (d2 < float("inf"))
    good &= (i >= 0) & (i < n_atoms) & (j >= 0) & (j < n_atoms)
    spoil = tl.where(good, 0.0, float("nan"))
    wi, wj = weight(i) + spoil, weight(j) + spoil
    at_i = balance + 4 * tl.where(good, i, 0)
    at_j = balance + 4 * tl.where(good, j, 0)
    tl.atomic_add(at_i, wj * x, mask=listed, sem="relaxed")
    tl.atomic_add(at_i + 1, wj * y, mask=listed, sem="relaxed")
    tl.atomic_add(at_i + 2, wj * z, mask=listed, sem="relaxed")
    tl.atomic_add(at_i + 3, wj * d2, mask=listed, sem="relaxed")
    tl.atomic_add(at_j, wi * x, mask=listed, sem="relaxed")
    tl.atomic_add(at_j + 1, wi * y, mask=listed, sem="relaxed")
    tl.atomic_add(at_j + 2, wi * z, mask=listed, sem="relaxed")
    tl.atomic_add(at_j + 3, -wi * d2, mask=listed, sem="relaxed")
