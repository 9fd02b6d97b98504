"""Read pretrained weights: a run directory, a ``.ckpt``, a ``best_model`` or a portable file."""

import json
import logging
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state

__all__ = ["PORTABLE_NAME", "Pretrained", "load_pretrained", "save_portable"]

log = logging.getLogger(__name__)

PORTABLE_NAME = "model.safetensors"
FORMAT = 1
CARD_KEY = "tpainn"


@dataclass(frozen=True)
class Pretrained:
    """Weights of a pretrained model and what is known of it.

    Attributes:
        source: the file they were read from.
        state: parameters and buffers, postprocessors left out.
        card: ``architecture`` (see :func:`describe`), and where known ``elements`` (atomic
            numbers seen in training), ``units``, ``data`` (provenance), ``versions``.
    """

    source: Path
    state: Mapping[str, torch.Tensor]
    card: Mapping[str, Any]


def save_portable(
    path: str | Path, state: Mapping[str, torch.Tensor], card: Mapping[str, Any]
) -> None:
    """Write weights and card as one safetensors file, which opens without running code.

    Args:
        path: file to write; replaced at once, never half written.
        state: tensors to store.
        card: JSON-serialisable description.
    """
    path = Path(path)
    # one copy each: safetensors refuses tensors that share memory (shared interactions)
    tensors = {name: tensor.clone() for name, tensor in state.items()}
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary, metadata={CARD_KEY: json.dumps({"format": FORMAT, **card})})
    temporary.replace(path)


def _read_portable(path: Path) -> Pretrained:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if CARD_KEY not in metadata:
        raise CheckpointError(
            f"{path} holds weights but no T-PaiNN card (metadata key '{CARD_KEY}'); "
            "expected a file that a T-PaiNN run wrote"
        )
    return Pretrained(path, state, _checked(path, json.loads(metadata[CARD_KEY])))


def _read_checkpoint(path: Path) -> Pretrained:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds pickled objects, not tensors and plain values alone, as SchNetPack's "
            "own task writes them; give that run's `best_model` with transfer.trust_pickle=true"
        ) from error
    card = content.get(CARD_KEY)
    if card is None:
        raise CheckpointError(
            f"{path} was not written by a T-PaiNN task (no entry '{CARD_KEY}'); "
            "give that run's `best_model` with transfer.trust_pickle=true"
        )
    prefix = "model."
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith(prefix) and not name.startswith(prefix + "postprocessors.")
    }
    return Pretrained(path, state, _checked(path, card["card"]))


def _read_pickle(path: Path, trust_pickle: bool) -> Pretrained:
    portable = path.with_name(PORTABLE_NAME)
    if portable.is_file():  # a finished T-PaiNN run keeps the same weights in both
        return _read_portable(portable)
    if not trust_pickle:
        raise CheckpointError(
            f"{path} is a pickle, which runs code when it is opened; if you trust where it comes "
            "from, set transfer.trust_pickle=true"
        )
    try:
        model = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling raises anything
        raise CheckpointError(f"cannot read the model {path}: {error}") from error
    if not hasattr(model, "representation"):
        raise CheckpointError(
            f"expected a SchNetPack model with a representation in {path}, "
            f"got {type(model).__name__}"
        )
    card = {"architecture": describe(model), **getattr(model, "metadata", {})}
    return Pretrained(path, network_state(model), card)


def _checked(path: Path, card: dict[str, Any]) -> dict[str, Any]:
    if card.get("format", FORMAT) > FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {card['format']}, this version reads up to {FORMAT}; "
            "install a newer schnetpack-tpainn"
        )
    return card


def _in_run_directory(path: Path) -> Path:
    """The weights of a run: the portable file, else the best model's checkpoint."""
    if (path / PORTABLE_NAME).is_file():
        return path / PORTABLE_NAME
    checkpoints = sorted((path / "checkpoints").glob("*.ckpt"), key=lambda p: p.stat().st_mtime)
    best = [c for c in checkpoints if not c.stem.startswith("last")]
    for candidate in [*best[::-1], *checkpoints[::-1], path / "best_model"]:
        if candidate.is_file():
            log.warning("%s is not finished; its weights are read from %s", path, candidate.name)
            return candidate
    raise CheckpointError(
        f"expected a run directory with {PORTABLE_NAME}, checkpoints/*.ckpt or best_model, "
        f"got {path} without any of them; has the run finished?"
    )


def load_pretrained(
    path: str | Path, trust_pickle: bool = False, own: Path | None = None
) -> Pretrained:
    """Read pretrained weights and what is known of them.

    Args:
        path: a run directory, a portable ``.safetensors`` file, a ``.ckpt`` of a T-PaiNN task, or
            a SchNetPack ``best_model``.
        trust_pickle: open a ``best_model`` that has no portable file beside it; pickles run code.
        own: folder of one's own runs.

    Returns:
        Weights and card.

    Raises:
        CheckpointError: nothing there, unreadable, damaged, or not to be trusted.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(
            f"expected a pretrained model at {path}, got no such file; give transfer.checkpoint= a "
            "run directory, a best_model, a .ckpt or a .safetensors file"
        )
    if path.is_dir():
        path = _in_run_directory(path)
    if not os.access(path, os.R_OK):
        raise CheckpointError(f"cannot read {path}: permission denied")
    try:
        if path.suffix == ".safetensors":
            return _read_portable(path)
        if path.suffix == ".ckpt":
            return _read_checkpoint(path)
    except (SafetensorError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}: {error}); "
            "copy it again, or use another checkpoint of that run"
        ) from error
    return _read_pickle(path, trust_pickle)
