"""PaiNN's message in plain torch, with the work moved from pairs to atoms."""

import schnetpack.nn as snn
import torch
from schnetpack.representation.painn import PaiNNInteraction

__all__ = ["PremulMessage"]


class PremulMessage(PaiNNInteraction):
    r"""PaiNN's message (arXiv:2102.03150, eqs. 7 and 8), parameters of the stock block.

    .. math::
       \Delta q_i = \sum_j W^1_{ij} \circ x^1_j, \qquad
       \Delta \mu_i = \sum_j (W^2_{ij} \circ x^2_j) \, \hat r_{ij}
                      + W^3_{ij} \circ (x^3_j \circ \mu_j)

    with :math:`x = \phi(q)` of shape (N, 3F). The filters :math:`W = (\varphi f_c, f_c)\,(A; b)`
    are made layer by layer, bias and cutoff included; :math:`x^3 \circ \mu` is formed on atoms
    before pairs gather it; without vectors the third term is left out.
    """

    def forward(
        self,
        q: torch.Tensor,
        mu: torch.Tensor | None,
        basis: torch.Tensor,
        filters: torch.Tensor,
        dir_ij: torch.Tensor,
        idx_i: torch.Tensor,
        idx_j: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pass one round of messages.

        Args:
            q: scalars, shape (N, F).
            mu: vectors, shape (N, 3, F); None where they are still zero.
            basis: radial basis times cutoff, and cutoff, shape (E, K+1).
            filters: weights and bias of the filters, shape (3F, K+1).
            dir_ij: unit vectors from i to j, shape (E, 3).
            idx_i: receiving atoms, shape (E,).
            idx_j: sending atoms, shape (E,).

        Returns:
            The new ``q`` and ``mu``.
        """
        n = self.n_atom_basis
        x = self.interatomic_context_net(q)  # (N, 3F)
        x12, x3 = torch.split(x, [2 * n, n], dim=-1)
        w12 = basis @ filters[: 2 * n].t()  # (E, 2F)
        dq, dmu_r = torch.split(w12 * x12.index_select(0, idx_j), n, dim=-1)
        dmu = dmu_r.unsqueeze(1) * dir_ij.unsqueeze(2)  # (E, 3, F)
        if mu is not None:
            w3 = basis @ filters[2 * n :].t()  # (E, F)
            dmu = dmu + w3.unsqueeze(1) * (x3.unsqueeze(1) * mu).index_select(0, idx_j)
        q = q + snn.scatter_add(dq, idx_i, dim_size=q.shape[0])
        sum_dmu = snn.scatter_add(dmu, idx_i, dim_size=q.shape[0])  # (N, 3, F)
        return q, sum_dmu if mu is None else mu + sum_dmu
