r"""TPaiNN on a fused message kernel: the paths for training and for inference.

Training runs :class:`~schnetpack_tpainn.nn.kernels.message.Message` between modules that autograd
knows. Inference is one autograd function: its backward pass goes through the blocks by hand and
keeps nothing per pair, so it needs little memory and starts few operations.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from schnetpack_tpainn.nn.kernels.base import Kernel, Pairs
from schnetpack_tpainn.nn.kernels.message import Message, wanted
from schnetpack_tpainn.nn.kernels.table import RadialTable
from schnetpack_tpainn.nn.kernels.update import Context, Gates

__all__ = ["Plan", "filters", "infer", "train"]


class Plan(NamedTuple):
    """What one evaluation runs on.

    Attributes:
        kernel: the kernel.
        pairs: the neighbour list.
        radial: the tabulated radial basis.
        tables: filters of each round at its knots, shape (M+1, 3, 3, F).
        r: pair vectors in the order of the list, shape (E, 3).
    """

    kernel: Kernel
    pairs: Pairs
    radial: RadialTable
    tables: list[Tensor]
    r: Tensor


def filters(model: Any, radial: RadialTable) -> list[Tensor]:
    """Filters of each round at the knots, as a function of the filter network's weights."""
    weights = torch.cat([model.filter_net.weight, model.filter_net.bias.unsqueeze(1)], dim=1)
    tables = [radial.filters(w) for w in weights.split(model.n_filters)]
    return tables * (model.n_interactions if model.share_filters else 1)


def train(model: Any, plan: Plan, q: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the features; twice differentiable.

    Args:
        model: a :class:`~schnetpack_tpainn.representation.TPaiNN`.
        plan: kernel, neighbour list and filters.
        q: embedded atoms, shape (N, F).

    Returns:
        Scalars (N, F) and vectors (N, 3, F).
    """
    kernel, pairs, radial, tables, r = plan
    n = q.shape[1]
    mu = q.new_empty(0, 3, n)
    for interaction, mixing, table in zip(model.interactions, model.mixing, tables, strict=True):
        x = interaction.interatomic_context_net(q).view(-1, 3, n)
        dq, dmu = Message.apply(kernel, pairs, radial.grid, r, table, x, mu)
        q, mu = q + dq, mu + dmu if mu.shape[0] else dmu
        vw = mixing.mu_channel_mix(mu).view(-1, 3, 2, n)
        context = Context.apply(kernel, mixing.epsilon, q, vw)
        gates = mixing.intraatomic_context_net(context.view(-1, 2 * n)).view(-1, 3, n)
        q, mu = Gates.apply(kernel, vw, gates, q, mu)
    return q, mu


def infer(model: Any, plan: Plan, q: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the features; arguments and results as of :func:`train`.

    The backward pass that gives forces is fast. Any other, for gradients of the weights or for
    second derivatives, computes everything anew as :func:`train` does.
    """
    layers = [model.filter_net]
    for interaction, mixing in zip(model.interactions, model.mixing, strict=True):
        layers += [*interaction.interatomic_context_net, *mixing.intraatomic_context_net]
        layers.append(mixing.mu_channel_mix)
    weights = [w for layer in layers for w in layer.parameters() if w.requires_grad]
    return _Inference.apply(model, plan, plan.r, q, *weights)


class _Saved(NamedTuple):
    """What the backward pass of one round needs."""

    hidden: Tensor  # (N, F), before the activation of the message's context network
    x: Tensor  # (N, 3, F)
    mu: Tensor  # (N, 3, F), before the message
    y: Tensor  # (N, 3, F)
    vw: Tensor  # (N, 3, 2, F)
    context: Tensor  # (N, 2, F)
    hidden_gates: Tensor  # (N, F)
    gates: Tensor  # (N, 3, F)


class _Inference(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, model: Any, plan: Plan, r: Tensor, q: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.model, ctx.plan, ctx.rounds = model, plan, []
        ctx.save_for_backward(r, q, *weights)
        q = q.clone()
        mu = q.new_empty(0, 3, q.shape[1])
        for interaction, mixing, table in zip(
            model.interactions, model.mixing, plan.tables, strict=True
        ):
            q, mu, saved = _round(interaction, mixing, plan, table, q, mu)
            ctx.rounds.append(saved)
        return q, mu

    @staticmethod
    def backward(ctx: Any, gq: Tensor, gmu: Tensor) -> tuple[Tensor | None, ...]:
        r, q, *weights = ctx.saved_tensors
        if torch.is_grad_enabled() or any(wanted(ctx)[2:]):
            return _anew(ctx, r, q, weights, gq, gmu)
        gq, gmu = gq.clone(), gmu.contiguous()
        gr = torch.zeros_like(r)
        layers = zip(ctx.model.interactions, ctx.model.mixing, ctx.plan.tables, strict=True)
        for (interaction, mixing, table), saved in reversed(
            list(zip(layers, ctx.rounds, strict=True))
        ):
            gmu = _update_back(mixing, ctx.plan.kernel, saved, gq, gmu)
            gmu = _message_back(interaction, ctx.plan, table, saved, gq, gmu, gr)
        return None, None, gr, gq, *[None] * len(weights)


def _round(
    interaction: Any, mixing: Any, plan: Plan, table: Tensor, q: Tensor, mu: Tensor
) -> tuple[Tensor, Tensor, _Saved]:
    """One message and one update; ``q`` is changed in place."""
    kernel = plan.kernel
    n_atoms, n = q.shape
    hidden, x = _network(interaction.interatomic_context_net, q)
    y = x[: mu.shape[0], 2:] * mu
    new_mu = mu.clone() if mu.shape[0] else torch.zeros_like(x)
    kernel.message(plan.pairs, plan.r, table, plan.radial.grid, x, y, q, new_mu)

    vw = F.linear(new_mu, mixing.mu_channel_mix.weight).view(n_atoms, 3, 2, n)
    context = q.new_empty(n_atoms, 2, n)
    kernel.context(q, vw, mixing.epsilon, context)
    hidden_gates, gates = _network(mixing.intraatomic_context_net, context.view(n_atoms, 2 * n))
    kernel.apply_gates(vw, gates, q, new_mu)
    return q, new_mu, _Saved(hidden, x, mu, y, vw, context, hidden_gates, gates)


def _update_back(mixing: Any, kernel: Kernel, saved: _Saved, gq: Tensor, gmu: Tensor) -> Tensor:
    """Bring gradients back through an update: ``gq`` in place, the new ``gmu`` is returned."""
    n_atoms, n = gq.shape
    ggates, gvw = torch.empty_like(saved.gates), torch.empty_like(saved.vw)
    kernel.grad_gates(saved.vw, saved.gates, gq, gmu, ggates, gvw)
    gcontext = _network_back(mixing.intraatomic_context_net, saved.hidden_gates, ggates)
    gcontext = gcontext.view(n_atoms, 2, n)
    kernel.grad_context(saved.vw, saved.context, gcontext, gvw)
    gq += gcontext[:, 0]
    flat = gvw.view(3 * n_atoms, 2 * n)
    weight = mixing.mu_channel_mix.weight
    return torch.addmm(gmu.view(3 * n_atoms, n), flat, weight).view(n_atoms, 3, n)


def _message_back(
    interaction: Any, plan: Plan, table: Tensor, saved: _Saved, gq: Tensor, gmu: Tensor, gr: Tensor
) -> Tensor:
    """Bring gradients back through a message: ``gq`` and ``gr`` in place, ``gmu`` is returned."""
    kernel, pairs, (_, grid), _, r = plan
    gx, gy = torch.empty_like(saved.x), torch.empty_like(saved.x)
    kernel.grad_pairs(pairs, r, table, grid, saved.x, saved.y, gq, gmu, gr)
    kernel.grad_atoms(pairs, r, table, grid, gq, gmu, gx, gy)
    if saved.mu.shape[0]:
        torch.sum(gy * saved.mu, 1, out=gx[:, 2])
        gmu = gmu.addcmul_(saved.x[:, 2:], gy)
    else:
        gx[:, 2] = 0
    gq += _network_back(interaction.interatomic_context_net, saved.hidden, gx)
    return gmu


def _network(network: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    """Linear, SiLU, linear: the input of the SiLU, and the output as (N, 3, F)."""
    first, second = network
    hidden = F.linear(features, first.weight, first.bias)
    out = F.linear(F.silu(hidden), second.weight, second.bias)
    return hidden, out.view(out.shape[0], 3, -1)


def _network_back(network: Any, hidden: Tensor, gradient: Tensor) -> Tensor:
    """Bring a gradient back through linear, SiLU, linear."""
    first, second = network
    through = gradient.view(hidden.shape[0], -1) @ second.weight
    return torch.ops.aten.silu_backward(through, hidden) @ first.weight


def _anew(
    ctx: Any, r: Tensor, q: Tensor, weights: list[Tensor], gq: Tensor, gmu: Tensor
) -> tuple[Tensor | None, ...]:
    """Give the gradients by autograd, differentiable if this pass records a graph."""
    create_graph = torch.is_grad_enabled()
    wants = wanted(ctx)
    with torch.enable_grad():
        plan = ctx.plan._replace(r=r, tables=filters(ctx.model, ctx.plan.radial))
        features = train(ctx.model, plan, q)
        asked = [x for x, wanted_ in zip([r, q, *weights], wants, strict=True) if wanted_]
        found = iter(
            torch.autograd.grad(
                features, asked, (gq, gmu), create_graph=create_graph, allow_unused=True
            )
        )
    return None, None, *[next(found) if wanted_ else None for wanted_ in wants]
