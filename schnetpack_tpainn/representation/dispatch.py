"""Which kernel computes a TPaiNN, and the tables it needs."""

import copy
import logging
from typing import Any
from weakref import WeakKeyDictionary

import schnetpack.nn as snn
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from schnetpack_tpainn.nn.kernels import MAX_FEATURES, load_kernel
from schnetpack_tpainn.nn.kernels.base import Kernel
from schnetpack_tpainn.nn.kernels.table import START, RadialTable, tabulate
from schnetpack_tpainn.representation.fused import Plan, filters

__all__ = ["BACKENDS", "make_plan", "obstacle"]

BACKENDS = ("auto", "torch", "numba", "triton")
TOLERANCE = {torch.float32: 5e-7, torch.float64: 1e-9}  # of the basis and its slope
AUTOMATIC = {"cpu": "numba", "cuda": "triton"}

log = logging.getLogger(__name__)


class _Memory:
    """Tables of a model, and the tensors they were made from."""

    def __init__(self) -> None:
        self.sources: list[Tensor | tuple[int, int]] = []
        self.radial: RadialTable | None = None
        self.weights: list[Tensor | tuple[int, int]] = []
        self.tables: list[Tensor] = []
        self.told: set[str] = set()


_memories: WeakKeyDictionary[Any, _Memory] = WeakKeyDictionary()


def obstacle(model: Any) -> str | None:
    """Say why no fused kernel can compute a model.

    Args:
        model: a :class:`~schnetpack_tpainn.representation.TPaiNN`.

    Returns:
        The reason; None if there is none.
    """
    if model.form != "premul":
        return f"form is {model.form!r}, not 'premul'"
    if model.n_atom_basis > MAX_FEATURES:
        return f"n_atom_basis is {model.n_atom_basis}, above {MAX_FEATURES}"
    if any(p.requires_grad for m in (model.radial_basis, model.cutoff_fn) for p in m.parameters()):
        return "the radial basis is trainable"
    for interaction, mixing in zip(model.interactions, model.mixing, strict=True):
        first, second = interaction.interatomic_context_net
        third, fourth = mixing.intraatomic_context_net
        layers = (first, second, third, fourth, mixing.mu_channel_mix)
        if not all(_is_dense(layer) for layer in layers):
            return "a layer is not schnetpack.nn.Dense"
        if first.activation is not F.silu or third.activation is not F.silu:
            return "the activation is not torch.nn.functional.silu"
        if any(m._forward_hooks or m._forward_pre_hooks for m in (interaction, mixing, *layers)):
            return "a block has forward hooks"
    return None


def _is_dense(layer: Any) -> bool:
    """Whether a layer is SchNetPack's own, be its weight computed (low-rank adapters) or not."""
    kind = type(layer).__bases__[0] if is_parametrized(layer) else type(layer)
    return kind is snn.Dense


def make_plan(model: Any, r: Tensor, idx_i: Tensor, idx_j: Tensor, n_atoms: int) -> Plan | None:
    """Choose a kernel and prepare its input.

    Args:
        model: a :class:`~schnetpack_tpainn.representation.TPaiNN`.
        r: pair vectors, shape (E, 3), Å.
        idx_i: receiving atoms, shape (E,).
        idx_j: sending atoms, shape (E,).
        n_atoms: number of atoms N.

    Returns:
        The plan; None if plain torch is to compute.

    Raises:
        RuntimeError: the backend that the model asks for cannot run on this device.
    """
    known = r.device.type in AUTOMATIC and r.dtype in TOLERANCE
    kernel = None if not known or len(idx_i) == 0 or _is_traced(r) else _kernel(model, r)
    if kernel is None:
        return None
    memory = _memories.setdefault(model, _Memory())
    reason = obstacle(model)
    if reason is not None:
        _tell(memory, reason)
        return None
    radial = _radial(memory, model, r)
    if radial is None:
        _tell(memory, "the radial basis is rough, or not zero at the cutoff")
        return None
    pairs = kernel.pairs(r.detach(), idx_i, idx_j, n_atoms)
    if pairs is None:
        _tell(
            memory,
            f"the neighbour list is not symmetric, two atoms are closer than {START} Å, or "
            "positions are not finite",
        )
        return None
    r = r.contiguous() if pairs.order is None else r.index_select(0, pairs.order)
    return Plan(kernel, pairs, radial, _tables(memory, model, radial), r)


def _tell(memory: _Memory, reason: str) -> None:
    """Warn, once for each reason."""
    if reason not in memory.told:
        memory.told.add(reason)
        log.warning("TPaiNN runs in plain torch, which is slower: %s", reason)


def _is_traced(r: Tensor) -> bool:
    """Tell whether torch looks at the operations rather than at the numbers."""
    return (
        type(r) is not Tensor
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.jit.is_tracing()
        or torch.is_autocast_enabled(r.device.type)
    )


def _kernel(model: Any, r: Tensor) -> Kernel | None:
    """The kernel that the model asks for; None for plain torch."""
    if model.backend == "torch" or (model.backend == "auto" and r.dtype != torch.float32):
        return None
    if model.backend == "auto":
        return load_kernel(AUTOMATIC[r.device.type], r.device, required=False)
    return load_kernel(model.backend, r.device, required=True)


def _radial(memory: _Memory, model: Any, r: Tensor) -> RadialTable | None:
    """Tabulate the radial basis, unless that has been done."""
    parts = (model.radial_basis, model.cutoff_fn)
    sources = [x for m in parts for x in (*m.parameters(), *m.buffers())]
    sources.append(r.new_empty(0))  # for its type and device
    if not _same(sources, memory.sources):
        basis, cutoff_fn = (copy.deepcopy(m).double().cpu() for m in parts)

        def expand(d: Tensor) -> Tensor:
            fcut = cutoff_fn(d.unsqueeze(1))
            return torch.cat([basis(d.unsqueeze(1)).squeeze(1) * fcut, fcut], dim=1)

        found = tabulate(expand, float(model.cutoff), TOLERANCE[r.dtype])
        memory.radial = found and RadialTable(found.basis.to(r), found.grid.to(r.device))
        memory.sources, memory.weights = [_trace(x) for x in sources], []
    return memory.radial


def _tables(memory: _Memory, model: Any, radial: RadialTable) -> list[Tensor]:
    """Filters at the knots: with a graph for training, remembered otherwise."""
    if model.training and torch.is_grad_enabled():
        return filters(model, radial)
    weights = [model.filter_net.weight, model.filter_net.bias]
    if weights[0].is_cuda or not _same(weights, memory.weights):  # no version shows `.data.copy_`
        with torch.no_grad():
            memory.tables = filters(model, radial)
        memory.weights = [_trace(w) for w in weights]
    return memory.tables


def _trace(x: Tensor) -> Tensor | tuple[int, int]:
    """What shows later whether a tensor has changed: its values; on a GPU, not to wait, less."""
    return (x.data_ptr(), x._version) if x.is_cuda else x.detach().clone()


def _same(now: list[Tensor], before: list[Tensor | tuple[int, int]]) -> bool:
    return len(now) == len(before) and all(
        b.dtype == a.dtype and torch.equal(a, b)
        if isinstance(b, Tensor) and not a.is_cuda
        else _trace(a) == b
        for a, b in zip(now, before, strict=True)
    )
