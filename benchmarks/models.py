"""The stock model, and what is measured beside it; a new variant is one entry of ``VARIANTS``."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances
from schnetpack.model import NeuralNetworkPotential
from schnetpack.nn import CosineCutoff, GaussianRBF
from schnetpack.representation import PaiNN

from benchmarks.structures import CUTOFF
from schnetpack_tpainn.model import TPaiNNPotential
from schnetpack_tpainn.representation import TPaiNN

__all__ = ["STOCK", "VARIANTS", "Variant", "backend", "potential", "stock_painn"]


def in_plain_torch(painn: PaiNN) -> TPaiNN:
    """TPaiNN without a fused kernel."""
    model = TPaiNN.from_painn(painn)
    model.backend = "torch"
    return model


@dataclass(frozen=True)
class Variant:
    """How to make a potential with the weights of a stock PaiNN.

    Attributes:
        representation: makes the representation.
        potential: makes the potential, with the arguments of ``NeuralNetworkPotential``.
    """

    representation: Callable[[PaiNN], torch.nn.Module]
    potential: Callable[..., NeuralNetworkPotential] = NeuralNetworkPotential


STOCK = "stock"
VARIANTS = {
    STOCK: Variant(copy.deepcopy),
    "TPaiNN": Variant(TPaiNN.from_painn),
    "TPaiNN compiled": Variant(TPaiNN.from_painn, partial(TPaiNNPotential, compile=True)),
    "TPaiNN graphs": Variant(
        TPaiNN.from_painn, partial(TPaiNNPotential, compile=True, cuda_graphs=True)
    ),
    "TPaiNN torch": Variant(in_plain_torch),
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
    """Energies and forces on top of a representation.

    Args:
        name: one of ``VARIANTS``.
        painn: the stock PaiNN; :func:`stock_painn` by default.

    Returns:
        The model, in evaluation mode; its outputs are ``energy`` (B,) and ``forces`` (N, 3).
    """
    variant = VARIANTS[name]
    representation = variant.representation(stock_painn() if painn is None else painn)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = Atomwise(representation.n_atom_basis, output_key="energy")
    return variant.potential(
        representation, input_modules=[PairwiseDistances()], output_modules=[head, Forces()]
    ).eval()


def backend(model: torch.nn.Module) -> str:
    """What computed the messages of a potential's last evaluation; empty for the stock model."""
    return getattr(model.representation, "backend_used", "")
