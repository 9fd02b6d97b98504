"""The message kernel for GPUs, in Triton."""

from typing import Any, override

import torch
import triton
from torch import Tensor

from schnetpack_tpainn.nn.kernels import triton_loops, triton_tangents, triton_update
from schnetpack_tpainn.nn.kernels.base import Kernel, Pairs
from schnetpack_tpainn.nn.kernels.triton_pairs import sort_pairs

__all__ = ["TritonKernel", "tiling"]

TILE = 2048  # bytes: 16 for each thread of four warps, one wide load


class TritonKernel(Kernel):
    """One program for each atom, in Triton; it never waits for the GPU.

    Hence an unsuitable neighbour list gives NaN features and forces, instead of None from
    :meth:`pairs`. In Triton's interpreter (TRITON_INTERPRET=1) it runs on CPUs, for tests.
    """

    name = "triton"

    def pairs(self, r: Tensor, idx_i: Tensor, idx_j: Tensor, n_atoms: int) -> Pairs:
        """Check and sort a neighbour list; an unsuitable one gives NaN in all that follows."""
        with torch.cuda.device_of(r):
            return sort_pairs(r.contiguous(), idx_i.contiguous(), idx_j.contiguous(), n_atoms)

    @override
    def message(self, pairs: Pairs, *tensors: Tensor) -> None:
        _over_pairs(triton_loops.message, pairs, tensors, tensors[1], tensors[4])

    @override
    def grad_atoms(self, pairs: Pairs, *tensors: Tensor) -> None:
        _over_pairs(triton_loops.grad_atoms, pairs, tensors, tensors[1])

    @override
    def grad_pairs(self, pairs: Pairs, *tensors: Tensor) -> None:
        _over_pairs(triton_loops.grad_pairs, pairs, tensors, tensors[1], tensors[4])

    @override
    def grad_table(self, pairs: Pairs, *tensors: Tensor) -> None:
        _over_pairs(triton_loops.grad_table, pairs, tensors, tensors[-1], tensors[3])

    @override
    def tangent(self, pairs: Pairs, *tensors: Tensor) -> None:
        _over_pairs(triton_tangents.tangent, pairs, tensors, tensors[1], tensors[4])

    @override
    def tangent_grad_atoms(self, pairs: Pairs, *tensors: Tensor) -> None:
        _over_pairs(triton_tangents.tangent_grad_atoms, pairs, tensors, tensors[1])

    @override
    def tangent_grad_pairs(self, pairs: Pairs, *tensors: Tensor) -> None:
        _over_pairs(triton_tangents.tangent_grad_pairs, pairs, tensors, tensors[1], tensors[4])

    @override
    def tangent_grad_table(self, pairs: Pairs, *tensors: Tensor) -> None:
        _over_pairs(triton_tangents.tangent_grad_table, pairs, tensors, tensors[-1], tensors[3])

    @override
    def context(self, *arguments: Any) -> None:
        _over_atoms(triton_update.context, arguments)

    @override
    def grad_context(self, *arguments: Any) -> None:
        _over_atoms(triton_update.grad_context, arguments)

    @override
    def tangent_context(self, *arguments: Any) -> None:
        _over_atoms(triton_update.tangent_context, arguments)

    @override
    def apply_gates(self, *arguments: Any) -> None:
        _over_atoms(triton_update.apply_gates, arguments)

    @override
    def grad_gates(self, *arguments: Any) -> None:
        _over_atoms(triton_update.grad_gates, arguments)

    @override
    def tangent_gates(self, *arguments: Any) -> None:
        _over_atoms(triton_update.tangent_gates, arguments)


def tiling(n: int, itemsize: int) -> dict[str, int]:
    """Settings of a kernel for n features: tile and warps."""
    width = triton.next_power_of_2(n)
    rows = max(1, TILE // (width * itemsize))
    return {"n": n, "width": width, "rows": rows, "num_warps": 4 * rows * width * itemsize // TILE}


def _over_pairs(
    loop: Any, pairs: Pairs, tensors: tuple[Tensor, ...], table: Tensor, y: Tensor | None = None
) -> None:
    """Run a loop over all atoms' pairs; it does without ``y`` if that has no rows."""
    n_atoms = len(pairs.starts) - 1
    flags = {} if y is None else {"with_y": len(y) > 0}
    with torch.cuda.device_of(table):
        loop[(n_atoms,)](
            pairs.starts, pairs.idx_j, *tensors, len(table) - 1,
            **flags, **tiling(table.shape[-1], table.itemsize),
        )  # fmt: skip


def _over_atoms(loop: Any, arguments: tuple[Any, ...]) -> None:
    """Run an elementwise kernel; the first argument has one row an atom, of n features."""
    tensor = arguments[0]
    settings = tiling(tensor.shape[-1], tensor.itemsize)
    with torch.cuda.device_of(tensor):
        loop[(triton.cdiv(len(tensor), settings["rows"]),)](*arguments, len(tensor), **settings)
