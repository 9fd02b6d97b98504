"""PaiNN's update in plain torch."""

import torch
from schnetpack.representation.painn import PaiNNMixing

__all__ = ["PremulUpdate"]


class PremulUpdate(PaiNNMixing):
    r"""PaiNN's update (arXiv:2102.03150, eqs. 9 and 10), parameters of the stock block.

    .. math::
       \Delta q = a_{qq} + a_{q\mu} \circ \langle V\mu, W\mu \rangle, \qquad
       \Delta \mu = a_{\mu\mu} \circ W\mu

    where the gates :math:`a` are a network of :math:`q` and :math:`\sqrt{|V\mu|^2 + \epsilon}`.
    """

    def forward(self, q: torch.Tensor, mu: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Update each atom from its own features.

        Args:
            q: scalars, shape (N, F).
            mu: vectors, shape (N, 3, F).

        Returns:
            The new ``q`` and ``mu``.
        """
        v, w = torch.split(self.mu_channel_mix(mu), self.n_atom_basis, dim=-1)  # (N, 3, F) each
        norm = torch.sqrt((v * v).sum(1) + self.epsilon)  # (N, F)
        x = self.intraatomic_context_net(torch.cat([q, norm], dim=-1))  # (N, 3F)
        dq, a_mu, a_qmu = torch.split(x, self.n_atom_basis, dim=-1)
        return q + dq + a_qmu * (v * w).sum(1), mu + a_mu.unsqueeze(1) * w
