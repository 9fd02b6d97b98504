"""PaiNN's message for any hidden irreps, in e3nn terms."""

from collections.abc import Callable
from typing import NamedTuple

import schnetpack.nn as snn
import torch
from e3nn import o3

from schnetpack_tpainn.nn.e3nn_ops import TensorProduct
from schnetpack_tpainn.nn.gate import Gate

__all__ = ["EquivariantMessage", "Path", "angular_orders", "message_paths", "reachable"]


class Path(NamedTuple):
    """One way for a message: hidden block ``source`` times ``Y_order`` into block ``target``."""

    source: int
    order: int
    target: int


def message_paths(irreps: o3.Irreps) -> list[Path]:
    """List the paths of the message.

    Every path that the selection rules admit with harmonics up to the hidden irreps' own order,
    except that scalars hear of higher orders only through the update's norms and dot products. For
    ``Fx0e + Fx1o`` that leaves the three of PaiNN, in PaiNN's order.

    Args:
        irreps: ordered hidden irreps.

    Returns:
        The paths, by source, then target, then order.
    """
    scalar = o3.Irrep("0e")
    return [
        Path(source, order, target)
        for source, (_, ir_in) in enumerate(irreps)
        for target, (_, ir_out) in enumerate(irreps)
        for order in range(irreps.lmax + 1)
        if ir_out in ir_in * o3.Irrep(order, (-1) ** order) and (ir_out != scalar or source == 0)
    ]


def angular_orders(irreps: o3.Irreps) -> list[int]:
    """List the orders of the spherical harmonics that the message needs.

    Args:
        irreps: ordered hidden irreps.

    Returns:
        The orders, ascending.
    """
    return sorted({path.order for path in message_paths(irreps)})


def reachable(irreps: o3.Irreps, n_interactions: int) -> o3.Irreps:
    """Tell which irreps messages fill, starting from scalars.

    Args:
        irreps: ordered hidden irreps.
        n_interactions: number of messages.

    Returns:
        The part of ``irreps`` that is not zero whatever the weights.
    """
    filled = {0}
    for _ in range(n_interactions):
        filled |= {path.target for path in message_paths(irreps) if path.source in filled}
    return o3.Irreps([block for index, block in enumerate(irreps) if index in filled])


class EquivariantMessage(torch.nn.Module):
    r"""PaiNN's message (arXiv:2102.03150, eqs. 7 and 8) for any hidden irreps.

    .. math::
       \Delta v_i^{t} = \sum_j \sum_{p: s \otimes l \to t} W_p(r_{ij}) \circ
       \left[ \phi_p(q_j) \circ L_p v_j^{s} \right] \otimes Y_l(\hat r_{ij})

    with :math:`v^0 = q`, :math:`Y_l` of unit norm, and :math:`L_p v = 1` where the source is the
    scalars. For ``Fx0e + Fx1o`` the three paths are PaiNN's own.

    Args:
        irreps: ordered hidden irreps, the scalars first.
        activation: activation function, None for the identity.
    """

    def __init__(
        self, irreps: o3.Irreps, activation: Callable[[torch.Tensor], torch.Tensor] | None
    ) -> None:
        super().__init__()
        n, paths, orders = irreps[0].mul, message_paths(irreps), angular_orders(irreps)
        self.irreps, self.irreps_sh = irreps, o3.Irreps([(1, (p, (-1) ** p)) for p in orders])
        self.n_scalars, self.n_vectors = n, irreps[1:].dim
        # What a path sends from an atom: as many channels as its target has, of its source's irrep.
        nodes = o3.Irreps([(irreps[p.target].mul, irreps[p.source].ir) for p in paths])
        self.n_filters = nodes.num_irreps
        self.n_from_scalars = sum(irreps[p.target].mul for p in paths if p.source == 0)

        self.interatomic_context_net = torch.nn.Sequential(
            snn.Dense(n, n, activation=activation),
            snn.Dense(n, self.n_filters, activation=None),
        )
        sources = [p.source - 1 for p in paths if p.source > 0]
        gated = nodes[len(paths) - len(sources) :]
        self.gate = Gate(irreps[1:], gated, [(source, out) for out, source in enumerate(sources)])
        self.product = TensorProduct(
            nodes,
            self.irreps_sh,
            irreps,
            [
                (index, orders.index(path.order), path.target, "uvu", True)
                for index, path in enumerate(paths)
            ],
            irrep_normalization="component",
            path_normalization="none",
            shared_weights=False,
            internal_weights=False,
        )

    def forward(
        self,
        q: torch.Tensor,
        v: torch.Tensor | None,
        basis: torch.Tensor,
        filters: torch.Tensor,
        sh: torch.Tensor,
        idx_i: torch.Tensor,
        idx_j: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pass one round of messages.

        Args:
            q: scalars, shape (N, F0).
            v: other features in e3nn's layout, shape (N, V); None where they are still zero.
            basis: radial basis times cutoff, and cutoff, shape (E, K+1).
            filters: weights and bias of the filters, shape (n_filters, K+1).
            sh: spherical harmonics of unit norm, shape (E, irreps_sh.dim).
            idx_i: receiving atoms, shape (E,).
            idx_j: sending atoms, shape (E,).

        Returns:
            The new ``q`` and ``v``.
        """
        if v is None:
            v = q.new_zeros((q.shape[0], self.n_vectors))
        x = self.interatomic_context_net(q)  # (N, n_filters)
        from_scalars, gates = torch.split(
            x, [self.n_from_scalars, self.n_filters - self.n_from_scalars], dim=-1
        )
        nodes = torch.cat([from_scalars, self.gate(v, gates)], dim=-1)
        messages = self.product(nodes.index_select(0, idx_j), sh, basis @ filters.t())
        dx = snn.scatter_add(messages, idx_i, dim_size=q.shape[0])  # (N, irreps.dim)
        dq, dv = torch.split(dx, [self.n_scalars, self.n_vectors], dim=-1)
        return q + dq, v + dv
