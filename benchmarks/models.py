"""The stock model, and what is measured beside it; a new variant is one entry of ``VARIANTS``."""

import copy
from collections.abc import Callable

import torch
from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances
from schnetpack.model import NeuralNetworkPotential
from schnetpack.nn import CosineCutoff, GaussianRBF
from schnetpack.representation import PaiNN

from benchmarks.structures import CUTOFF
from schnetpack_tpainn.representation import TPaiNN

__all__ = ["STOCK", "VARIANTS", "backend", "potential", "stock_painn"]

STOCK = "stock"


def in_plain_torch(painn: PaiNN) -> TPaiNN:
    """TPaiNN without a fused kernel."""
    model = TPaiNN.from_painn(painn)
    model.backend = "torch"
    return model


VARIANTS: dict[str, Callable[[PaiNN], torch.nn.Module]] = {
    STOCK: copy.deepcopy,
    "TPaiNN": TPaiNN.from_painn,
    "TPaiNN torch": in_plain_torch,
}


def stock_painn(features: int = 128) -> PaiNN:
    """SchNetPack's PaiNN, three interactions, cutoff 5 Å, 20 Gaussians, random weights.

    Args:
        features: scalar and vector features of an atom.

    Returns:
        Always the same weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PaiNN(features, 3, GaussianRBF(20, CUTOFF), CosineCutoff(CUTOFF))


def potential(name: str, painn: PaiNN | None = None) -> NeuralNetworkPotential:
    """Energies and forces on top of a representation with the weights of a stock PaiNN.

    Args:
        name: one of ``VARIANTS``.
        painn: the stock PaiNN; :func:`stock_painn` by default.

    Returns:
        The model, in evaluation mode. Its outputs are ``energy`` (B,), ``forces`` (N, 3) and
        ``energies``, those of the atoms (N,).
    """
    representation = VARIANTS[name](stock_painn() if painn is None else painn)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = Atomwise(
            representation.n_atom_basis, output_key="energy", per_atom_output_key="energies"
        )
    return NeuralNetworkPotential(
        representation, input_modules=[PairwiseDistances()], output_modules=[head, Forces()]
    ).eval()


def backend(model: torch.nn.Module) -> str:
    """What computed the messages of a potential's last evaluation; empty for the stock model."""
    return getattr(model.representation, "backend_used", "")
