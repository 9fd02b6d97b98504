"""Read the constructor arguments back from a built PaiNN, for weights to move between models."""

import copy
from typing import Any

__all__ = ["constructor_arguments"]


def constructor_arguments(model: Any) -> dict[str, Any]:
    """Give the arguments that build a model of the same shape, sub-modules copied.

    Args:
        model: a ``schnetpack.representation.PaiNN`` or a TPaiNN with the irreps of PaiNN.

    Returns:
        The arguments that both constructors share.
    """
    blocks = list(model.interactions)
    return {
        "n_atom_basis": model.n_atom_basis,
        "n_interactions": model.n_interactions,
        "radial_basis": _copied(model.radial_basis),
        "cutoff_fn": _copied(model.cutoff_fn),
        "activation": copy.deepcopy(blocks[0].interatomic_context_net[0].activation),
        "shared_interactions": len(blocks) > 1 and blocks[0] is blocks[1],
        "shared_filters": model.share_filters,
        "epsilon": model.mixing[0].epsilon,
        "nuclear_embedding": _copied(model.embedding),
        "electronic_embeddings": [_copied(e) for e in model.electronic_embeddings],
    }


def _copied(module: Any) -> Any:
    """Copy a sub-module; in evaluation mode, for NuclearEmbedding holds a graph in training."""
    training = module.training
    module.eval()
    copied = copy.deepcopy(module)
    for either in (module, copied):
        either.train(training)
    return copied
