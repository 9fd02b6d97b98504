"""What must agree between a pretrained model and the one it is loaded into."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from schnetpack_tpainn.errors import CheckpointError, TransferError

__all__ = ["compare_architecture", "describe", "differences"]


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
        "lmax": getattr(r, "lmax", None),
        "irreps": None if irreps is None else str(irreps).replace(" ", ""),
    }


def differences(pretrained: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, str]:
    """What a pretrained model has otherwise than the new one.

    ``PaiNN`` and ``TPaiNN`` are the same function and exchange weights.

    Args:
        pretrained: description of the pretrained model.
        model: description of the new model.

    Returns:
        Key -> readable line, for every key that differs.
    """
    same = {"PaiNN": "TPaiNN"}
    found = {}
    for key, expected in model.items():
        got = pretrained.get(key)
        if same.get(str(got), got) != same.get(str(expected), expected):
            found[key] = f"{key}: expected {expected}, got {got}"
    return found


def compare_architecture(
    pretrained: Mapping[str, Any], model: Mapping[str, Any], accept: Sequence[str] = ()
) -> list[str]:
    """Refuse a pretrained model that is another function than the new one.

    Args:
        pretrained: description of the pretrained model.
        model: description of the new model.
        accept: keys in which it may differ.

    Returns:
        The differences that were accepted, as readable lines.

    Raises:
        CheckpointError: anything else differs; the message lists it.
        TransferError: ``accept`` holds an unknown key.
    """
    unknown = [key for key in accept if key not in model]
    if unknown:
        raise TransferError(
            f"transfer.accept: expected some of {', '.join(model)}, got {', '.join(unknown)}"
        )
    found = differences(pretrained, model)
    wrong = [f"  {line}" for key, line in found.items() if key not in accept]
    if wrong:
        raise CheckpointError(
            "the pretrained model does not fit this one (expected: this run, got: checkpoint):\n"
            + "\n".join(wrong)
            + "\nmake this run's model like the pretrained one, pretrain again, or accept the "
            "difference by its key in transfer.accept"
        )
    return list(found.values())
