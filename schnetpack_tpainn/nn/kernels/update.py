r"""The fused parts of the update for training: differentiable twice.

Between them lie the matrix products of the update, which autograd differentiates: vectors are mixed
into :math:`v, w`; :class:`Context` gives :math:`(q, \nu)` to a network that makes gates;
:class:`Gates` adds the update. The equations are in
:mod:`~schnetpack_tpainn.nn.kernels.numba_update`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from schnetpack_tpainn.nn.kernels.base import Kernel

__all__ = ["Context", "Gates"]


class Context(torch.autograd.Function):
    """The context of the gates."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, epsilon: float, q: Tensor, vw: Tensor) -> Tensor:
        r"""Compute the context.

        Args:
            ctx: autograd's context.
            kernel: what computes.
            epsilon: added under the square root of the norm.
            q: scalars, shape (N, F).
            vw: mixed vectors, shape (N, 3, 2, F).

        Returns:
            :math:`(q, \nu)`, shape (N, 2, F).
        """
        out = torch.empty_like(vw[:, 0])
        kernel.context(q, vw, epsilon, out)
        ctx.save_for_backward(vw, out)
        ctx.kernel = kernel
        return out

    @staticmethod
    def backward(ctx: Any, gcontext: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of ``q`` and ``vw``."""
        gvw = ContextGradient.apply(ctx.kernel, *ctx.saved_tensors, gcontext.contiguous())
        return None, None, gcontext[:, 0], gvw


class ContextGradient(torch.autograd.Function):
    """The gradient of the context with respect to the mixed vectors."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, vw: Tensor, context: Tensor, gcontext: Tensor) -> Tensor:
        """Give the gradient of ``vw``; ``context`` counts as a function of it."""
        gvw = torch.zeros_like(vw)
        kernel.grad_context(vw, context, gcontext, gvw)
        ctx.save_for_backward(vw, context, gcontext)
        ctx.kernel = kernel
        return gvw

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, a: Tensor) -> tuple[Tensor | None, ...]:
        """Contract the second derivative with a tangent of ``vw``."""
        vw, context, gcontext = ctx.saved_tensors
        ocontext, ovw = torch.empty_like(context), torch.empty_like(vw)
        ctx.kernel.tangent_context(vw, context, gcontext, a.contiguous(), ocontext, ovw)
        return None, ovw, None, ocontext


class Gates(torch.autograd.Function):
    """The update, given its gates."""

    @staticmethod
    def forward(
        ctx: Any, kernel: Kernel, vw: Tensor, gates: Tensor, q: Tensor, mu: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update the features.

        Args:
            ctx: autograd's context.
            kernel: what computes.
            vw: mixed vectors, shape (N, 3, 2, F).
            gates: output of the gates' network, shape (N, 3, F).
            q: scalars, shape (N, F).
            mu: vectors, shape (N, 3, F).

        Returns:
            The new ``q`` and ``mu``.
        """
        q, mu = q.clone(), mu.clone()
        kernel.apply_gates(vw, gates, q, mu)
        ctx.save_for_backward(vw, gates)
        ctx.kernel = kernel
        return q, mu

    @staticmethod
    def backward(ctx: Any, gq: Tensor, gmu: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients."""
        gq, gmu = gq.contiguous(), gmu.contiguous()
        ggates, gvw = GatesGradient.apply(ctx.kernel, *ctx.saved_tensors, gq, gmu)
        return None, gvw, ggates, gq, gmu


class GatesGradient(torch.autograd.Function):
    """The gradient of the update with respect to gates and mixed vectors."""

    @staticmethod
    def forward(
        ctx: Any, kernel: Kernel, vw: Tensor, gates: Tensor, gq: Tensor, gmu: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give the gradients of ``gates`` and ``vw``."""
        ggates, gvw = torch.empty_like(gates), torch.empty_like(vw)
        kernel.grad_gates(vw, gates, gq, gmu, ggates, gvw)
        ctx.save_for_backward(vw, gates, gq, gmu)
        ctx.kernel = kernel
        return ggates, gvw

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, b: Tensor, a: Tensor) -> tuple[Tensor | None, ...]:
        """Contract the second derivative with tangents of ``gates`` and ``vw``."""
        inputs = ctx.saved_tensors
        results = [torch.empty_like(x) for x in inputs]
        ctx.kernel.tangent_gates(*inputs, a.contiguous(), b.contiguous(), *results)
        return None, *results
