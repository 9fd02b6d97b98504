"""What must agree between a pretrained model and the one it is loaded into."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from schnetpack_tpainn.errors import CheckpointError

__all__ = ["compare_architecture", "copy_parameters", "describe", "network_state"]


def describe(model: nn.Module) -> dict[str, Any]:
    """What decides the function of a SchNetPack model besides its weights, in plain values.

    Args:
        model: SchNetPack model with a ``representation``.

    Returns:
        Cutoff (Å), cutoff function, radial basis, irreps and size of the representation.
    """
    r = model.representation
    cutoff_fn, basis = getattr(r, "cutoff_fn", None), getattr(r, "radial_basis", None)
    cutoff = getattr(r, "cutoff", None)
    features = getattr(r, "n_atom_basis", None)
    irreps = getattr(r, "hidden_irreps", None)
    if irreps is None and type(r).__name__ == "PaiNN":
        irreps = f"{features}x0e+{features}x1o"
    return {
        "representation": type(r).__name__,
        "cutoff_ang": None if cutoff is None else float(cutoff),
        "cutoff_fn": None if cutoff_fn is None else type(cutoff_fn).__name__,
        "radial_basis": None if basis is None else type(basis).__name__,
        "n_rbf": getattr(basis, "n_rbf", None),
        "n_interactions": getattr(r, "n_interactions", None),
        "n_atom_basis": features,
        "irreps": None if irreps is None else str(irreps).replace(" ", ""),
    }


def compare_architecture(pretrained: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Refuse a pretrained model that is another function than the new one.

    ``PaiNN`` and ``TPaiNN`` are the same function and exchange weights.

    Args:
        pretrained: description of the pretrained model.
        model: description of the new model.

    Raises:
        CheckpointError: anything differs; the message lists it.
    """
    same = {"PaiNN": "TPaiNN"}
    wrong = []
    for key, expected in model.items():
        got = pretrained.get(key)
        if same.get(str(got), got) != same.get(str(expected), expected):
            wrong.append(f"  {key}: expected {expected}, got {got}")
    if wrong:
        raise CheckpointError(
            "the pretrained model does not fit this one (expected: this run, got: checkpoint):\n"
            + "\n".join(wrong)
            + "\nmake this run's model like the pretrained one, or pretrain again"
        )


def network_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a model without its postprocessors (offsets belong to the data).

    Args:
        model: SchNetPack model.

    Returns:
        Name -> tensor, on the CPU.
    """
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("postprocessors.")
    }


def copy_parameters(state: Mapping[str, torch.Tensor], model: nn.Module) -> int:
    """Copy pretrained weights into a model: all of them or none.

    Args:
        state: pretrained parameters and buffers, postprocessors left out.
        model: the model to fill.

    Returns:
        Number of parameters (scalars) copied.

    Raises:
        CheckpointError: a parameter is missing, left over or of another shape, or a fixed buffer
            (radial basis, cutoff) has other values; nothing is copied then.
    """
    own = network_state(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    wrong = [f"  {name}: missing in the checkpoint" for name in own.keys() - state.keys()]
    wrong += [f"  {name}: not part of this model" for name in state.keys() - own.keys()]
    for name in own.keys() & state.keys():
        expected, got = own[name], state[name]
        if expected.shape != got.shape:
            wrong.append(f"  {name}: expected {tuple(expected.shape)}, got {tuple(got.shape)}")
        elif name not in parameters and not torch.allclose(expected.double(), got.double()):
            wrong.append(f"  {name}: fixed values differ (another cutoff or radial basis)")
    if wrong:
        raise CheckpointError(
            "the pretrained weights do not fit this model; nothing was copied:\n"
            + "\n".join(sorted(wrong))
            + "\nmake this run's model like the pretrained one, or pretrain again"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
    return sum(p.numel() for p in model.parameters())
