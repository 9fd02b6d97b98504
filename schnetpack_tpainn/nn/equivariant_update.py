"""PaiNN's update for any hidden irreps, in e3nn terms."""

from collections.abc import Callable

import schnetpack.nn as snn
import torch
from e3nn import o3

from schnetpack_tpainn.nn.e3nn_ops import TensorProduct
from schnetpack_tpainn.nn.gate import ChannelMix, Gate

__all__ = ["EquivariantUpdate"]


class EquivariantUpdate(torch.nn.Module):
    r"""PaiNN's update (arXiv:2102.03150, eqs. 9 and 10) for any hidden irreps.

    .. math::
       \Delta q = a_{qq} + \sum_k a_{qv}^k \circ L_k \langle V_k v^k, W_k v^k \rangle,
       \qquad \Delta v^k = a_{vv}^k \circ W_k v^k

    where the gates :math:`a` are a network of :math:`q` and the norms
    :math:`\sqrt{|V_k v^k|^2 + \epsilon}`, and :math:`L_k` is the identity for as many channels as
    there are scalars. For ``Fx0e + Fx1o`` this is PaiNN's own.

    Args:
        irreps: ordered hidden irreps, the scalars first.
        activation: activation function, None for the identity.
        epsilon: added under the square root of the norms.
    """

    def __init__(
        self,
        irreps: o3.Irreps,
        activation: Callable[[torch.Tensor], torch.Tensor] | None,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__()
        n, vectors = irreps[0].mul, irreps[1:]
        k, self.n_norms = len(vectors), vectors.num_irreps
        self.irreps, self.epsilon = irreps, epsilon
        self.splits = [n, self.n_norms, k * n]

        self.intraatomic_context_net = torch.nn.Sequential(
            snn.Dense(n + self.n_norms, n, activation=activation),
            snn.Dense(n, sum(self.splits), activation=None),
        )
        if k == 0:
            self.mu_channel_mix = None
            return
        self.mu_channel_mix = ChannelMix(
            vectors, [(b, 2 * mul) for b, (mul, _) in enumerate(vectors)]
        )
        # Per block two halves, V then W: e3nn's layout has them one after the other.
        halves = o3.Irreps([block for block in vectors for _ in range(2)])
        invariants = o3.Irreps([(mul, "0e") for mul, _ in vectors])
        squares = [(2 * b, 2 * b, b, "uuu", False, ir.dim) for b, (_, ir) in enumerate(vectors)]
        dots = [
            (2 * b, 2 * b + 1, k + b, "uuu", False, ir.dim) for b, (_, ir) in enumerate(vectors)
        ]
        # A path weight of 2l+1 undoes the 1/sqrt(2l+1) of the Clebsch-Gordan coefficients.
        self.invariants = TensorProduct(
            halves,
            halves,
            invariants + invariants,
            squares + dots,
            irrep_normalization="none",
            path_normalization="none",
        )
        self.gate_vectors = Gate(halves, vectors, [(2 * b + 1, b) for b in range(k)])
        self.gate_scalars = Gate(invariants, irreps[:1], [(b, 0) for b in range(k)])

    def forward(self, q: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Update each atom from its own features.

        Args:
            q: scalars, shape (N, F0).
            v: other features in e3nn's layout, shape (N, V).

        Returns:
            The new ``q`` and ``v``.
        """
        if self.mu_channel_mix is None:
            return q + self.intraatomic_context_net(q), v
        mixed = self.mu_channel_mix(v)  # (N, 2V)
        squares, dots = torch.split(self.invariants(mixed, mixed), self.n_norms, dim=-1)
        norms = torch.sqrt(squares + self.epsilon)
        x = self.intraatomic_context_net(torch.cat([q, norms], dim=-1))
        dq, gates, dot_gates = torch.split(x, self.splits, dim=-1)
        q = q + dq + self.gate_scalars(dots, dot_gates)
        return q, v + self.gate_vectors(mixed, gates)
