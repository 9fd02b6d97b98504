"""Checks and sorting of a neighbour list, compiled by numba."""

import numpy as np

from schnetpack_tpainn.nn.kernels.numba_loops import jit

__all__ = ["inspect"]

SORTED, UNSORTED, UNSUITABLE = 0, 1, 2


@jit
def inspect(r, idx_i, idx_j, n, closest, starts):
    """Look at a neighbour list once.

    The list is symmetric if every pair (i, j, r) has its (j, i, -r). Then, for any weights,
    the weighted sums of r over the pairs that an atom receives from and over those that it sends
    to are opposite. With random weights the converse holds too, but for a set of measure zero.

    Args:
        r: pair vectors, shape (E, 3).
        idx_i: receiving atoms, shape (E,).
        idx_j: sending atoms, shape (E,).
        n: number of atoms.
        closest: shortest distance that is accepted.
        starts: output, number of pairs before each atom's, shape (N+1,).

    Returns:
        SORTED or UNSORTED (by receiving atom); UNSUITABLE: not symmetric, too close, not finite.
    """
    state = SORTED
    balance = np.zeros((n, 4))
    for e in range(idx_i.shape[0]):
        i, j = idx_i[e], idx_j[e]
        if not (0 <= i < n and 0 <= j < n):
            return UNSUITABLE
        x, y, z = np.float64(r[e, 0]), np.float64(r[e, 1]), np.float64(r[e, 2])
        d2 = x * x + y * y + z * z
        if not (closest * closest <= d2 < np.inf):
            return UNSUITABLE
        if e > 0 and i < idx_i[e - 1]:
            state = UNSORTED
        starts[i + 1] += 1
        # golden-ratio weights of the other atom: as good as random, and the same every time
        wi, wj = 0.5 + (i * 0.6180339887498949) % 1.0, 0.5 + (j * 0.6180339887498949) % 1.0
        balance[i, 0] += wj * x
        balance[i, 1] += wj * y
        balance[i, 2] += wj * z
        balance[i, 3] += wj * d2
        balance[j, 0] += wi * x
        balance[j, 1] += wi * y
        balance[j, 2] += wi * z
        balance[j, 3] -= wi * d2
    for i in range(n):
        starts[i + 1] += starts[i]
        for c in range(4):
            if abs(balance[i, c]) > 1e-3:
                return UNSUITABLE
    return state
