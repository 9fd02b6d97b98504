"""Versions of what checkpoints and portable files hold, and one function per upgrade."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from schnetpack_tpainn.errors import CheckpointError

__all__ = [
    "CARD_KEY",
    "ENSEMBLE_KEY",
    "FORMAT",
    "Pretrained",
    "level_of_theory",
    "model_weights",
    "upgrade",
    "upgrade_checkpoint",
]

FORMAT = 2
CARD_KEY = "tpainn"
ENSEMBLE_KEY = "tpainn_ensemble"
MODEL = "model."  # before the names of the model's weights in a Lightning checkpoint


@dataclass(frozen=True)
class Pretrained:
    """Weights of a pretrained model and what is known of it.

    Attributes:
        source: the file they were read from.
        state: parameters and buffers, adapters merged, postprocessors left out.
        card: ``architecture`` (see :func:`~schnetpack_tpainn.transfer.architecture.describe`), and
            where known what :func:`~schnetpack_tpainn.transfer.portable.make_card` lists.
        offsets: property -> offsets per atomic number, float64, (zmax,); eV for energies.
    """

    source: Path
    state: Mapping[str, Tensor]
    card: Mapping[str, Any]
    offsets: Mapping[str, Tensor] = field(default_factory=dict)


def upgrade(content: Mapping[str, Any], state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Bring what stands beside weights to the present format, version by version.

    Args:
        content: ``format``, ``card`` and, from a task's checkpoint, ``record``.
        state: the weights, named as in the model.
        source: where they come from, for the message.

    Returns:
        The content in the present format.

    Raises:
        CheckpointError: the format is newer than this version's, or none at all.
    """
    version = content.get("format", 1)
    if not isinstance(version, int) or not 1 <= version <= FORMAT:
        raise CheckpointError(
            f"{source} has checkpoint format {version}, this version reads 1 to {FORMAT}; "
            "install a newer schnetpack-tpainn"
        )
    upgraded = dict(content)
    for step in UPGRADES[version - 1 :]:
        upgraded |= step(upgraded, state)
    return {**upgraded, "format": FORMAT, "card": {**upgraded["card"], "format": FORMAT}}


def upgrade_checkpoint(checkpoint: dict[str, Any], source: str) -> dict[str, Any]:
    """Bring a task's checkpoint to the present format, in place.

    Args:
        checkpoint: Lightning's checkpoint.
        source: where it comes from, for the message.

    Returns:
        What the task wrote into it: ``format``, ``record``, ``card`` and ``optimiser_steps``.

    Raises:
        CheckpointError: another task wrote it, or a newer version.
    """
    if CARD_KEY not in checkpoint:
        raise CheckpointError(
            f"{source} was not written by a T-PaiNN task (no entry '{CARD_KEY}'); to start from "
            "its weights, give that run's `best_model` as transfer.checkpoint"
        )
    content = upgrade(checkpoint[CARD_KEY], model_weights(checkpoint), source)
    model_config = checkpoint.get("hyper_parameters", {}).get("model_config")
    if model_config is not None:
        content["card"] = {"model_config": model_config, **content["card"]}
    for optimizer in checkpoint.get("optimizer_states", []):
        for group in optimizer["param_groups"]:  # format 1 had one group
            group.setdefault("factor", 1.0)
    checkpoint[CARD_KEY] = content
    return content


def model_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of the model in a task's checkpoint.

    Args:
        checkpoint: Lightning's checkpoint.

    Returns:
        Name in the model -> tensor, postprocessors included.
    """
    return {
        name.removeprefix(MODEL): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(MODEL)
    }


def level_of_theory(data: Mapping[str, Any]) -> Any:
    """What made the labels.

    Args:
        data: metadata of a database.

    Returns:
        What it says of its level of theory, else its calculator's node, else None.
    """
    return data.get("level_of_theory", data.get("calculator"))


def _from_1(content: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Cards say SO3net's largest degree; records say what happened to each block."""
    architecture = {**content["card"]["architecture"], "lmax": None}
    filters = state.get("representation.so3convs.0.filternet.weight")  # ((lmax+1)*F, n_rbf)
    if filters is not None:
        architecture["lmax"] = filters.shape[0] // architecture["n_atom_basis"] - 1
    card = {**content["card"], "architecture": architecture}
    if "data" in card:
        card["level_of_theory"] = level_of_theory(card["data"])
    upgraded: dict[str, Any] = {"card": card}
    if content.get("record") is not None:
        upgraded["record"] = _record_from_1(content["record"])
    return upgraded


def _record_from_1(record: Mapping[str, Any]) -> dict[str, Any]:
    copied, fresh = record["n_copied"], record["n_reinitialised"]
    counts = {"copied": copied, "reinitialised": fresh, "frozen": 0, "adapter": 0}
    return {
        "strategy": {"autotune": "full"}.get(record["strategy"], record["strategy"]),
        "checkpoint": record["checkpoint"],
        "frames": record["pretrained"].get("data", {}).get("path"),
        "blocks": {"model": {**counts, "trained": copied + fresh}},
        "alignment": {
            "scale": record["scale"],
            "rank": record["offsets_rank"],
            "n_elements": record["n_elements"],
        },
        "zero_shot": record["zero_shot"],
        "pretrained": record["pretrained"],
    }


UPGRADES = (_from_1,)  # the first brings format 1 to 2
