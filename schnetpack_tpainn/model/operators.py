"""The message kernels as one torch operator, which compilers call and do not look into."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from schnetpack_tpainn.nn.kernels.base import Kernel, Pairs

__all__ = ["OpaqueKernel"]

ADDING = {"message": 2, "grad_pairs": 1, "grad_table": 1, "tangent_grad_table": 1}
SETTING = {"grad_atoms": 2, "tangent": 2, "tangent_grad_atoms": 2, "tangent_grad_pairs": 1}
SCHEMA = (
    "run_kernel(str kernel, str method, Tensor starts, Tensor idx_j, Tensor[] inputs, "
    "Tensor[] like) -> Tensor[]"
)

_kernels: dict[str, Kernel] = {}
_library = torch.library.Library("tpainn", "DEF")
_library.define(SCHEMA)


def _results(method: str, like: list[Tensor]) -> list[Tensor]:
    make = torch.empty_like if method in SETTING else torch.zeros_like
    return [make(x, memory_format=torch.contiguous_format) for x in like]


def _run(
    kernel: str,
    method: str,
    starts: Tensor,
    idx_j: Tensor,
    inputs: list[Tensor],
    like: list[Tensor],
) -> list[Tensor]:
    """Call a method of a kernel for fresh results, shaped as ``like``."""
    results = _results(method, like)
    pairs = Pairs(starts, idx_j, None)
    getattr(_kernels[kernel], method)(pairs, *[x.contiguous() for x in inputs], *results)
    return results


_library.impl("run_kernel", _run, "CompositeExplicitAutograd")
torch.library.register_fake(
    "tpainn::run_kernel",
    lambda kernel, method, starts, idx_j, inputs, like: _results(method, like),
    lib=_library,
)


class OpaqueKernel:
    """A message kernel for functions that are traced: its calls are single operators.

    It has the differential part of the interface :class:`~schnetpack_tpainn.nn.kernels.Kernel`,
    and computes by the kernel that it stands for.

    Args:
        kernel: that kernel.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.name = kernel.name
        _kernels[kernel.name] = kernel

    def __getattr__(self, method: str) -> Any:
        if method not in ADDING and method not in SETTING:
            raise AttributeError(method)
        return partial(_record, self.name, method)


def _record(kernel: str, method: str, pairs: Pairs, *tensors: Tensor) -> None:
    n = ADDING.get(method) or SETTING[method]
    inputs, outputs = tensors[:-n], tensors[-n:]
    results = torch.ops.tpainn.run_kernel(
        kernel, method, pairs.starts, pairs.idx_j, inputs, outputs
    )
    for output, result in zip(outputs, results, strict=True):
        if method in ADDING:
            output.add_(result)
        else:
            output.copy_(result)
