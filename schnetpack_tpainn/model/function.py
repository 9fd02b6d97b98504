"""Energies and forces of a potential as one function of tensors."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from schnetpack_tpainn.nn.kernels.base import Pairs
from schnetpack_tpainn.nn.kernels.message import Message
from schnetpack_tpainn.nn.kernels.table import RadialTable
from schnetpack_tpainn.representation.fused import Plan, filters

__all__ = ["Function", "Structure"]


class Structure(NamedTuple):
    """The tensors that change from call to call.

    Attributes:
        z: atomic numbers, shape (N,).
        r: pair vectors, sorted by receiving atom, shape (E, 3), Å.
        idx_i: receiving atoms, shape (E,).
        idx_j: sending atoms, shape (E,).
        starts: where each atom's pairs start, shape (N+1,).
    """

    z: Tensor
    r: Tensor
    idx_i: Tensor
    idx_j: Tensor
    starts: Tensor


class Function:
    """The function from weights, filters and a structure to the atoms' energies and forces.

    The gradient by the pair vectors is part of the function; in training, so is the gradient of the
    results by the weights. Weights are looked up by name at every call.

    Args:
        representation: a :class:`~schnetpack_tpainn.representation.TPaiNN`.
        outnet: network from features to energies.
        virials: compute them too.
        training: whether the function has the gradient by the weights.
    """

    def __init__(
        self, representation: Any, outnet: torch.nn.Module, virials: bool, training: bool
    ) -> None:
        self.core = _Core(representation, outnet, virials, training)
        self.training = training
        self.widths = (1, 3, 9) if virials else (1, 3)
        self.names: list[str] = []
        self.places: list[tuple[dict[str, Any], str]] = []
        for prefix, module in self.core.named_modules():
            for group in (module._parameters, module._buffers):
                held = [key for key, value in group.items() if value is not None]
                self.names += [f"{prefix}.{key}" for key in held]
                self.places += [(group, key) for key in held]

    def weights(self) -> list[Tensor]:
        """Parameters and buffers as they are now."""
        return [group[key] for group, key in self.places]

    def wanted(self) -> list[bool]:
        """Tell of each weight whether its gradient is wanted."""
        return [self.training and w.requires_grad for w in self.weights()]

    def arguments(self, plan: Plan, structure: Structure) -> list[Tensor]:
        """Put together what the function takes: weights, knots, grid and structure."""
        knots = [plan.radial.basis] if self.training else plan.tables
        return [*self.weights(), *knots, plan.radial.grid, *structure]

    def __call__(
        self, kernel: Any, arguments: list[Tensor], tangents: list[Tensor]
    ) -> list[Tensor]:
        """Compute.

        Args:
            kernel: the message kernel.
            arguments: of :meth:`arguments`.
            tangents: in training, the gradient of a loss by each result.

        Returns:
            Energies (N, 1), forces (N, 3), virials (N, 9) of the atoms if wanted; in training then
            the gradient of the loss by each of the :meth:`wanted` weights.
        """
        n = len(self.names)
        weights = [
            w.detach().requires_grad_(wanted)
            for w, wanted in zip(arguments[:n], self.wanted(), strict=True)
        ]
        *knots, grid = arguments[n:-5]
        structure = Structure(*arguments[-5:])
        structure = structure._replace(r=structure.r.detach().requires_grad_())
        pairs = Pairs(structure.starts, structure.idx_j, None)
        r = structure.r.view_as(structure.r)  # of a leaf, autograd does not tell if it is wanted
        plan = Plan(kernel, pairs, RadialTable(knots[0], grid), knots, r)
        named = dict(zip(self.names, weights, strict=True))
        results = functional_call(self.core, named, (plan, structure))
        outputs = [x.detach() for x in results]
        if self.training:
            asked = [w for w in weights if w.requires_grad]
            outputs += torch.autograd.grad(results, asked, tangents, materialize_grads=True)
        return outputs


class _Core(torch.nn.Module):
    """What the function computes, of the modules of a potential."""

    def __init__(
        self, representation: Any, outnet: torch.nn.Module, virials: bool, training: bool
    ) -> None:
        super().__init__()
        self.representation, self.outnet = representation, outnet
        self.virials, self.differentiable = virials, training

    def forward(self, plan: Plan, structure: Structure) -> list[Tensor]:
        z, r, idx_i, idx_j, _ = structure
        if self.differentiable:
            plan = plan._replace(tables=filters(self.representation, plan.radial))
        y = self.outnet(self._scalars(plan, z))  # (N, 1)
        (slope,) = torch.autograd.grad(y.sum(), r, create_graph=self.differentiable)  # (E, 3)
        zeros = slope.new_zeros(z.shape[0], 3)
        results = [y, zeros.index_add(0, idx_i, slope).index_add(0, idx_j, -slope)]
        if self.virials:
            products = (slope.unsqueeze(2) * r.unsqueeze(1)).flatten(1)  # (E, 9)
            results.append(slope.new_zeros(z.shape[0], 9).index_add(0, idx_i, products))
        return results

    def _scalars(self, plan: Plan, z: Tensor) -> Tensor:
        """As ``representation.fused.train``, but for the updates, which inductor fuses itself."""
        model, n = self.representation, self.representation.n_atom_basis
        q = model.embedding(z)  # (N, F)
        mu = q.new_empty(0, 3, n)
        for interaction, mixing, table in zip(
            model.interactions, model.mixing, plan.tables, strict=True
        ):
            x = interaction.interatomic_context_net(q).view(-1, 3, n)
            dq, dmu = Message.apply(plan.kernel, plan.pairs, plan.radial.grid, plan.r, table, x, mu)
            q, mu = mixing(q + dq, mu + dmu if mu.shape[0] else dmu)
        return q
