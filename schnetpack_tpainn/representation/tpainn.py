"""TPaiNN, the representation: PaiNN in e3nn terms, with a plain-torch form for PaiNN's own case."""

from collections.abc import Callable
from typing import Any, Self

import schnetpack.nn as snn
import schnetpack.properties as properties
import torch
import torch.nn.functional as F
from e3nn import o3
from schnetpack.representation import PaiNN

from schnetpack_tpainn.irreps import is_painn, order_irreps, painn_irreps, to_schnetpack
from schnetpack_tpainn.nn.e3nn_ops import SphericalHarmonics
from schnetpack_tpainn.nn.equivariant_message import (
    EquivariantMessage,
    angular_orders,
    message_paths,
    reachable,
)
from schnetpack_tpainn.nn.equivariant_update import EquivariantUpdate
from schnetpack_tpainn.nn.premul_message import PremulMessage
from schnetpack_tpainn.nn.premul_update import PremulUpdate
from schnetpack_tpainn.representation.convert import constructor_arguments
from schnetpack_tpainn.representation.dispatch import BACKENDS, make_plan, obstacle
from schnetpack_tpainn.representation.fused import infer, train

__all__ = ["TPaiNN"]


class TPaiNN(torch.nn.Module):
    r"""PaiNN (Schütt, Unke, Gastegger, ICML 2021, arXiv:2102.03150) for any hidden irreps.

    .. math::
       q_i = e_{Z_i}, \; v_i = 0; \qquad
       (q, v) \leftarrow (q, v) + \mathrm{message}(q, v, \vec r_{ij}), \quad
       (q, v) \leftarrow (q, v) + \mathrm{update}(q, v)

    ``n_interactions`` times. Message and update (eqs. 7 to 10) are those of
    :mod:`schnetpack_tpainn.nn`, for any irreps with scalars. For ``Fx0e + Fx1o``, the default, they
    are exactly ``schnetpack.representation.PaiNN``, and by default run as plain torch or a fused
    kernel (``form: premul``); higher orders, such as
    ``64x0e + 64x1o + 32x2e``, run through e3nn (``form: e3nn``).

    The parameters have the names and shapes of the stock PaiNN in both forms, so weights move by
    ``load_state_dict``; :meth:`from_painn` and :meth:`to_painn` carry the settings along. From a
    config, in place of ``representation: painn``::

        representation:
          _target_: schnetpack_tpainn.representation.TPaiNN
          n_atom_basis: 64
          hidden_irreps: 64x0e + 64x1o + 32x2e
          n_interactions: 3
          radial_basis:
            _target_: schnetpack.nn.radial.GaussianRBF
            n_rbf: 20
            cutoff: 5.0
          cutoff_fn:
            _target_: schnetpack.nn.cutoff.CosineCutoff
            cutoff: 5.0

    Args:
        n_atom_basis: number of scalars F0; by default those of ``hidden_irreps``, or 128.
        n_interactions: number of rounds of message and update.
        radial_basis: expands distances in Å, e.g. ``schnetpack.nn.GaussianRBF``; required.
        cutoff_fn: cutoff function (Å), e.g. ``schnetpack.nn.CosineCutoff``; required.
        activation: activation function, None for the identity.
        shared_interactions: use one message and one update in every round.
        shared_filters: use one filter network in every round.
        epsilon: added under the square root of the norms.
        nuclear_embedding: maps atomic numbers (N,) to (N, F0); by default a table of 100.
        electronic_embeddings: embeddings of charge and spin, added to the nuclear one.
        hidden_irreps: irreps of the atom features; by default ``F0x0e + F0x1o``.
        form: "premul" (plain torch, ``Fx0e + Fx1o`` only) or "e3nn"; by default "premul" where
            it exists.
        backend: what computes the form "premul": "torch"; fused kernels, "numba" on a CPU or
            "triton" on a GPU; or "auto", a fused one in float32 and torch otherwise. They read
            the filters from a :class:`~schnetpack_tpainn.nn.kernels.table.RadialTable`; what they
            cannot compute, torch does. ``backend_used`` tells what computed last.

    Raises:
        ValueError: an argument is missing, malformed, or at odds with another.
    """

    def __init__(
        self,
        n_atom_basis: int | None = None,
        n_interactions: int = 3,
        radial_basis: torch.nn.Module | None = None,
        cutoff_fn: torch.nn.Module | None = None,
        activation: Callable[[torch.Tensor], torch.Tensor] | None = F.silu,
        shared_interactions: bool = False,
        shared_filters: bool = False,
        epsilon: float = 1e-8,
        nuclear_embedding: torch.nn.Module | None = None,
        electronic_embeddings: list[torch.nn.Module] | None = None,
        hidden_irreps: o3.Irreps | str | None = None,
        form: str | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if backend not in BACKENDS:
            raise ValueError(f"backend: expected one of {BACKENDS}, got {backend!r}.")
        if radial_basis is None or cutoff_fn is None:
            raise ValueError(
                f"TPaiNN: expected a radial_basis and a cutoff_fn, got {radial_basis} and "
                f"{cutoff_fn}. Pass e.g. GaussianRBF(20, 5.0) and CosineCutoff(5.0)."
            )
        irreps = _hidden_irreps(hidden_irreps, n_atom_basis, n_interactions)
        self.form = _form(form, irreps)
        self.backend, self.backend_used = backend, ""
        self.hidden_irreps = self.irreps_out = irreps
        self.n_atom_basis: int = irreps[0].mul
        self.n_interactions = n_interactions

        # Modules are made in the stock PaiNN's order, for a seed to give both the same weights.
        self.cutoff_fn = cutoff_fn
        self.cutoff = cutoff_fn.cutoff
        self.radial_basis = radial_basis
        if nuclear_embedding is None:
            nuclear_embedding = torch.nn.Embedding(100, self.n_atom_basis)
        self.embedding = nuclear_embedding
        self.electronic_embeddings = torch.nn.ModuleList(electronic_embeddings or [])
        self.share_filters = shared_filters
        self.n_filters: int = sum(irreps[path.target].mul for path in message_paths(irreps))
        n_filter_sets = 1 if shared_filters else n_interactions
        self.filter_net = snn.Dense(radial_basis.n_rbf, n_filter_sets * self.n_filters)
        angular, message, update = _blocks(self.form, irreps, activation, epsilon)
        self.angular = angular
        self.interactions = snn.replicate_module(message, n_interactions, shared_interactions)
        self.mixing = snn.replicate_module(update, n_interactions, shared_interactions)

        # Where e3nn's layout of all but the scalars has the vectors, [start, stop).
        self._vectors = (0, 0)
        for block, place in zip(irreps[1:], irreps[1:].slices(), strict=True):
            if block.ir == o3.Irrep("1o"):
                self._vectors = (place.start, place.stop)
        self._has_higher: bool = irreps.num_irreps > irreps.count("0e") + irreps.count("1o")
        if backend in ("numba", "triton") and (reason := obstacle(self)):
            raise ValueError(f"backend: {backend!r} cannot compute this model: {reason}.")

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute the atom features.

        Args:
            inputs: SchNetPack batch with ``_atomic_numbers`` (N,), ``_Rij`` (E, 3) in Å from
                ``PairwiseDistances``, ``_idx_i`` (E,) and ``_idx_j`` (E,).

        Returns:
            The same dictionary with ``scalar_representation`` (N, F0); ``vector_representation``
            (N, 3, F1) if there are 1o; and, if there is anything else,
            ``equivariant_representation`` (N, irreps_out.dim), all features in e3nn's layout.
        """
        r_ij = inputs[properties.Rij]
        idx_i = inputs[properties.idx_i]
        idx_j = inputs[properties.idx_j]
        q = self.embedding(inputs[properties.Z])  # (N, F0)
        for embedding in self.electronic_embeddings:
            q = q + embedding(q, inputs)
        if not torch.jit.is_scripting():
            features = self._fused(q, r_ij, idx_i, idx_j)
            if features is not None:
                return self._collect(inputs, *features)

        d_ij = torch.norm(r_ij, dim=1, keepdim=True)  # (E, 1)
        angular = self.angular(r_ij / d_ij)  # (E, 3) or (E, irreps_sh.dim)
        fcut = self.cutoff_fn(d_ij)  # (E, 1)
        basis = torch.cat([self.radial_basis(d_ij).squeeze(1) * fcut, fcut], dim=1)  # (E, K+1)
        weights = torch.cat([self.filter_net.weight, self.filter_net.bias.unsqueeze(1)], dim=1)
        filters = weights.split(self.n_filters)  # one (n_filters, K+1) a round, or one for all

        v: torch.Tensor | None = None
        for i, (interaction, mixing) in enumerate(
            zip(self.interactions, self.mixing)  # noqa: B905 (TorchScript knows no `strict`)
        ):
            w = filters[0 if self.share_filters else i]
            q, v = interaction(q, v, basis, w, angular, idx_i, idx_j)
            q, v = mixing(q, v)
        return self._collect(inputs, q, v)

    @torch.jit.unused
    def _fused(
        self, q: torch.Tensor, r_ij: torch.Tensor, idx_i: torch.Tensor, idx_j: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Features by a fused kernel, or None where plain torch has to compute."""
        plan = make_plan(self, r_ij, idx_i, idx_j, len(q))
        self.backend_used = plan.kernel.name if plan else "torch"
        return plan and (train if self.training and torch.is_grad_enabled() else infer)(
            self, plan, q
        )

    def _collect(
        self, inputs: dict[str, torch.Tensor], q: torch.Tensor, v: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        inputs["scalar_representation"] = q
        if v is None:
            return inputs
        if self.form == "premul":
            inputs["vector_representation"] = v
            return inputs
        start, stop = self._vectors
        if stop > start:
            inputs["vector_representation"] = to_schnetpack(v[:, start:stop])
        if self._has_higher:
            inputs["equivariant_representation"] = torch.cat([q, v], dim=-1)
        return inputs

    @classmethod
    def from_painn(cls, painn: torch.nn.Module, form: str | None = None) -> Self:
        """Make a TPaiNN that computes what a PaiNN does, with its weights, dtype and device.

        Args:
            painn: a ``schnetpack.representation.PaiNN``, or a TPaiNN with the irreps of PaiNN.
            form: "premul" or "e3nn"; by default "premul".

        Returns:
            The TPaiNN; it shares nothing with ``painn``.
        """
        return _moved(painn, cls(**constructor_arguments(painn), form=form))

    def to_painn(self) -> PaiNN:
        """Make the stock PaiNN that computes the same, with the weights, dtype and device.

        Returns:
            The ``schnetpack.representation.PaiNN``; it shares nothing with this model.

        Raises:
            ValueError: the hidden irreps are not those of a PaiNN.
        """
        if not is_painn(self.irreps_out):
            raise ValueError(
                "to_painn: expected hidden_irreps 'Fx0e + Fx1o', for PaiNN knows no others, got "
                f"'{self.irreps_out}'. Keep the model as TPaiNN."
            )
        return _moved(self, PaiNN(**constructor_arguments(self)))


def _moved(source: torch.nn.Module, target: Any) -> Any:
    """Give ``target`` the weights, dtype, device and mode of ``source``."""
    target.to(next(source.filter_net.parameters()))  # type: ignore[union-attr]
    target.load_state_dict(source.state_dict())
    return target.train(source.training)


def _hidden_irreps(
    hidden_irreps: o3.Irreps | str | None, n_atom_basis: int | None, n_interactions: int
) -> o3.Irreps:
    if n_interactions < 1:
        raise ValueError(f"n_interactions: expected at least 1, got {n_interactions}. Use e.g. 3.")
    if hidden_irreps is None:
        hidden_irreps = painn_irreps(128 if n_atom_basis is None else n_atom_basis)
    irreps = order_irreps(hidden_irreps)
    scalars = irreps[0].mul
    if n_atom_basis is not None and n_atom_basis != scalars:
        raise ValueError(
            f"n_atom_basis: expected {scalars}, the scalars of hidden_irreps '{irreps}', got "
            f"{n_atom_basis}. Set n_atom_basis={scalars}, or change hidden_irreps."
        )
    filled = reachable(irreps, n_interactions)
    if filled != irreps:
        raise ValueError(
            f"hidden_irreps: expected irreps that {n_interactions} rounds of messages fill, "
            f"'{filled}', got '{irreps}'. Leave the rest out, raise n_interactions, or add the "
            "irreps that lead there, e.g. 1o for 1e."
        )
    return irreps


def _form(form: str | None, irreps: o3.Irreps) -> str:
    if form is None:
        return "premul" if is_painn(irreps) else "e3nn"
    if form not in ("premul", "e3nn"):
        raise ValueError(f"form: expected 'premul', 'e3nn' or None, got {form!r}. Leave it out.")
    if form == "premul" and not is_painn(irreps):
        raise ValueError(
            "form: 'premul' expected hidden_irreps 'Fx0e + Fx1o', as many vectors as scalars, got "
            f"'{irreps}'. Use form='e3nn', or leave it out."
        )
    return form


def _blocks(
    form: str,
    irreps: o3.Irreps,
    activation: Callable[[torch.Tensor], torch.Tensor] | None,
    epsilon: float,
) -> tuple[torch.nn.Module, Callable[[], torch.nn.Module], Callable[[], torch.nn.Module]]:
    """Give the angular part, and what makes a message and an update block."""
    n = irreps[0].mul
    if form == "premul":
        return (
            torch.nn.Identity(),
            lambda: PremulMessage(n, activation),
            lambda: PremulUpdate(n, activation, epsilon),
        )
    return (
        SphericalHarmonics(angular_orders(irreps), normalize=False, normalization="norm"),
        lambda: EquivariantMessage(irreps, activation),
        lambda: EquivariantUpdate(irreps, activation, epsilon),
    )
