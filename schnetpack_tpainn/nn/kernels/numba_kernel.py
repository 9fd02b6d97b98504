"""The message kernel for CPUs: numba's loops, on as many threads as torch uses."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from os import getpid
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schnetpack_tpainn.nn.kernels import numba_loops, numba_pairs, numba_tangents, numba_update
from schnetpack_tpainn.nn.kernels.base import Kernel, Pairs
from schnetpack_tpainn.nn.kernels.table import START

__all__ = ["NumbaKernel"]

WORTH_A_THREAD = 1_000  # pairs, or atoms; with fewer, handing work over costs more than it saves


def _pairwise(loop: Callable[..., None], sums: bool = False) -> Callable[..., None]:
    """Make a loop over the pairs of atoms a method; with ``sums``, it adds to its last tensor."""

    def method(_: "NumbaKernel", pairs: Pairs, *tensors: Tensor) -> None:
        starts, idx_j, *arrays = _arrays(pairs.starts, pairs.idx_j, *tensors)
        n_atoms = len(starts) - 1
        n_threads = min(torch.get_num_threads(), 1 + len(idx_j) // WORTH_A_THREAD, n_atoms)
        if n_threads <= 1:
            loop(0, n_atoms, starts, idx_j, *arrays)
            return
        shares = np.linspace(0, len(idx_j), n_threads + 1)[1:-1]
        limits = [0, *np.searchsorted(starts, shares).tolist(), n_atoms]
        *others, total = arrays
        sum_of = [total if not sums or k == 0 else np.zeros_like(total) for k in range(n_threads)]
        _together(
            loop,
            [
                (first, last, starts, idx_j, *others, own)
                for (first, last), own in zip(pairwise(limits), sum_of, strict=True)
            ],
        )
        for own in sum_of[1:] if sums else ():
            total += own

    return method


def _atomwise(loop: Callable[..., None]) -> Callable[..., None]:
    """Make a loop over atoms a method; its first tensor has a row for each atom."""

    def method(_: "NumbaKernel", *arguments: Any) -> None:
        arrays = _arrays(*arguments)
        n_atoms = len(arrays[0])
        n_threads = min(torch.get_num_threads(), 1 + n_atoms // WORTH_A_THREAD)
        limits = [n_atoms * k // n_threads for k in range(n_threads + 1)]
        _together(loop, [(first, last, *arrays) for first, last in pairwise(limits)])

    return method


class NumbaKernel(Kernel):
    """Loops over atoms and their pairs, on ``torch.get_num_threads()`` threads."""

    name = "numba"

    message = _pairwise(numba_loops.forward)
    grad_atoms = _pairwise(numba_loops.grad_atoms)
    grad_pairs = _pairwise(numba_loops.grad_pairs)
    grad_table = _pairwise(numba_loops.grad_table, sums=True)
    tangent = _pairwise(numba_tangents.tangent)
    tangent_grad_atoms = _pairwise(numba_tangents.tangent_grad_atoms)
    tangent_grad_pairs = _pairwise(numba_tangents.tangent_grad_pairs)
    tangent_grad_table = _pairwise(numba_tangents.tangent_grad_table, sums=True)
    context = _atomwise(numba_update.context)
    grad_context = _atomwise(numba_update.grad_context)
    tangent_context = _atomwise(numba_update.tangent_context)
    apply_gates = _atomwise(numba_update.apply_gates)
    grad_gates = _atomwise(numba_update.grad_gates)
    tangent_gates = _atomwise(numba_update.tangent_gates)

    def pairs(self, r: Tensor, idx_i: Tensor, idx_j: Tensor, n_atoms: int) -> Pairs | None:
        """Check and sort a neighbour list."""
        starts = torch.zeros(n_atoms + 1, dtype=torch.int64)
        state = numba_pairs.inspect(*_arrays(r, idx_i, idx_j), n_atoms, START, starts.numpy())
        if state == numba_pairs.UNSUITABLE:
            return None
        order = None if state == numba_pairs.SORTED else torch.argsort(idx_i, stable=True)
        return Pairs(starts, idx_j if order is None else idx_j[order], order)


def _arrays(*arguments: Any) -> list[Any]:
    return [x.detach().numpy() if isinstance(x, Tensor) else x for x in arguments]


def _together(loop: Callable, works: list[tuple]) -> None:
    """Run a loop on each work, the first in this thread; numba releases the GIL."""
    others = [_pool(getpid(), len(works)).submit(loop, *work) for work in works[1:]]
    loop(*works[0])
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _pool(_process: int, n_threads: int) -> ThreadPoolExecutor:
    """One pool for each process, for a forked one inherits no threads."""
    return ThreadPoolExecutor(n_threads - 1, thread_name_prefix="tpainn")
