r"""The fused message for training: differentiable twice, with hand-written derivatives.

:class:`Message` is the message of PaiNN, :math:`(x, \mu, r, T) \mapsto (\Delta q, \Delta\mu)`; its
gradient, :class:`MessageGradient`, is a function of its own, so that forces can be trained on: the
second derivative contracts the first with tangents of the same inputs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from schnetpack_tpainn.nn.kernels.base import Kernel, Pairs

__all__ = ["Message", "wanted"]


class Message(torch.autograd.Function):
    """The message and its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        kernel: Kernel,
        pairs: Pairs,
        grid: Tensor,
        r: Tensor,
        table: Tensor,
        x: Tensor,
        mu: Tensor,
    ) -> tuple[Tensor, Tensor]:
        r"""Compute the message.

        Args:
            ctx: autograd's context.
            kernel: what computes.
            pairs: the neighbour list.
            grid: grid of the table, shape (3,).
            r: pair vectors, sorted as the list, shape (E, 3), Å.
            table: filters at the knots, shape (M+1, 3, 3, F).
            x: output of the context network, shape (N, 3, F).
            mu: vectors, shape (N, 3, F); no rows where they are zero.

        Returns:
            :math:`\Delta q` (N, F) and :math:`\Delta\mu` (N, 3, F).
        """
        y = x[: mu.shape[0], 2:] * mu
        q, dmu = torch.zeros_like(x[:, 0]), torch.zeros_like(x)
        kernel.message(pairs, r, table, grid, x, y, q, dmu)
        ctx.save_for_backward(r, table, x, mu, y)
        ctx.settings = kernel, pairs, grid
        return q, dmu

    @staticmethod
    def backward(ctx: Any, gq: Tensor, gmu: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients that are asked for."""
        kernel, pairs, grid = ctx.settings
        r, table, x, mu, y = ctx.saved_tensors
        _, wants_r, wants_table, *_ = wanted(ctx)
        gq, gmu = gq.contiguous(), gmu.contiguous()
        gr, gx, g_mu = MessageGradient.apply(kernel, pairs, grid, wants_r, r, table, x, mu, gq, gmu)
        gtable = None
        if wants_table:
            gtable = TableGradient.apply(kernel, pairs, grid, r, table, x, y, gq, gmu)
        return None, None, None, gr, gtable, gx, g_mu


class MessageGradient(torch.autograd.Function):
    """The gradient of the message with respect to pairs and atoms, and its gradient in turn."""

    @staticmethod
    def forward(
        ctx: Any,
        kernel: Kernel,
        pairs: Pairs,
        grid: Tensor,
        wants_r: bool,
        r: Tensor,
        table: Tensor,
        x: Tensor,
        mu: Tensor,
        gq: Tensor,
        gmu: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give the gradients of ``r`` (zero if not wanted), ``x`` and ``mu``."""
        y = x[: mu.shape[0], 2:] * mu
        gx, gy, gr = torch.empty_like(x), torch.empty_like(x), torch.zeros_like(r)
        kernel.grad_atoms(pairs, r, table, grid, gq, gmu, gx, gy)
        if wants_r:
            kernel.grad_pairs(pairs, r, table, grid, x, y, gq, gmu, gr)
        gy = gy[: mu.shape[0]]
        gx[:, 2] = (gy * mu).sum(1) if mu.shape[0] else 0
        ctx.save_for_backward(r, table, x, mu, gq, gmu, y, gy)
        ctx.settings = kernel, pairs, grid
        return gr, gx, x[: mu.shape[0], 2:] * gy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, rho: Tensor, a: Tensor, m: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the second derivative, contracted with tangents of ``r``, ``x`` and ``mu``."""
        kernel, pairs, grid = ctx.settings
        r, table, x, mu, gq, gmu, y, gy = ctx.saved_tensors
        _, wants_r, wants_table, wants_x, wants_mu, wants_gq, wants_gmu = wanted(ctx)
        rho, a = poisoned_unless_antisymmetric(rho.contiguous(), pairs), a.contiguous()
        x3, a3 = x[: mu.shape[0], 2:], a[: mu.shape[0], 2:]
        b = a3 * mu + x3 * m
        results: list[Tensor | None] = [None] * 6
        if wants_r:
            results[0] = torch.empty_like(r)
            kernel.tangent_grad_pairs(pairs, r, table, grid, x, y, a, b, gq, gmu, rho, results[0])
        if wants_table:
            results[1] = torch.zeros_like(table)
            kernel.tangent_grad_table(pairs, r, grid, x, y, a, b, gq, gmu, rho, results[1])
        if wants_x or wants_mu:
            ox, oy = torch.empty_like(x), torch.empty_like(x)
            kernel.tangent_grad_atoms(pairs, r, table, grid, gq, gmu, rho, ox, oy)
            oy = oy[: mu.shape[0]]
            ox[:, 2] = (m * gy + mu * oy).sum(1) if mu.shape[0] else 0
            results[2], results[3] = ox, a3 * gy + x3 * oy
        if wants_gq or wants_gmu:
            results[4], results[5] = torch.empty_like(gq), torch.empty_like(gmu)
            kernel.tangent(pairs, r, table, grid, x, y, a, b, rho, results[4], results[5])
        return None, None, None, None, *results


class TableGradient(torch.autograd.Function):
    """The gradient of the message with respect to the table."""

    @staticmethod
    def forward(
        ctx: Any,
        kernel: Kernel,
        pairs: Pairs,
        grid: Tensor,
        r: Tensor,
        table: Tensor,
        x: Tensor,
        y: Tensor,
        gq: Tensor,
        gmu: Tensor,
    ) -> Tensor:
        """Give the gradient, shape (M+1, 3, 3, F)."""
        gtable = torch.zeros_like(table)
        kernel.grad_table(pairs, r, grid, x, y, gq, gmu, gtable)
        return gtable

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        """Refuse."""
        raise NotImplementedError(
            "the fused message has no derivative of its gradient with respect to the filters' "
            "weights; give TPaiNN backend='torch'"
        )


def poisoned_unless_antisymmetric(rho: Tensor, pairs: Pairs) -> Tensor:
    r"""Turn tangents into NaN unless :math:`\rho_{ji} = -\rho_{ij}`, as the kernels assume.

    It holds where pair vectors are differences of positions, strained or not, as in all that is
    compiled; it need not where they are leaves. As in
    :mod:`~schnetpack_tpainn.nn.kernels.numba_pairs`, sums over an atom's pairs, weighted by the
    other atom, show it. Nothing waits for a GPU.
    """
    if type(rho) is not Tensor:  # traced to be compiled
        return rho
    n_atoms = pairs.starts.shape[0] - 1
    weight = torch.arange(n_atoms, device=rho.device, dtype=rho.dtype)
    weight = 0.5 + torch.frac(weight * 0.6180339887498949).unsqueeze(1)  # (N, 1)
    idx_i = torch.repeat_interleave(pairs.starts.diff(), output_size=rho.shape[0])
    idx_j = pairs.idx_j.clamp(min=0)
    received, sent = weight[idx_j] * rho, weight[idx_i] * rho  # (E, 3)
    zeros = rho.new_zeros(n_atoms, 3)
    balance = zeros.index_add(0, idx_i, received).index_add(0, idx_j, sent)
    size = zeros.index_add(0, idx_i, received.abs()).index_add(0, idx_j, sent.abs()).sum(1)
    uneven = (balance.abs().amax(1) > 1e-3 * size).any()
    return torch.where(uneven, torch.nan, rho)


def wanted(ctx: Any) -> list[bool]:
    """Tell, in a function's backward, which of its tensor inputs the pass under way asks for.

    ``ctx.needs_input_grad`` only knows which could have a gradient: with it, computing forces would
    compute the weights' gradient too.
    """
    return [node is not None and _runs(node) for node, _ in ctx.next_functions]


def _runs(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that torch.autograd.grad was asked for
        return True
