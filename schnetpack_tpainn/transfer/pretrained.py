"""Read pretrained weights: a run directory, a ``.ckpt``, a ``best_model`` or a portable file."""

import json
import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from torch import nn
from yaml import YAMLError

from schnetpack_tpainn.data.offsets import element_values
from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.formats import (
    Pretrained,
    model_weights,
    upgrade,
    upgrade_checkpoint,
)
from schnetpack_tpainn.transfer.lora import merged_state
from schnetpack_tpainn.transfer.portable import PORTABLE_NAME, offsets_of, read_portable
from schnetpack_tpainn.transfer.runs import REPORT_NAME

__all__ = ["load_pretrained"]

log = logging.getLogger(__name__)

DAMAGED = (
    *(SafetensorError, pickle.UnpicklingError, YAMLError, OmegaConfBaseException),
    *(RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError),
)


def load_pretrained(
    path: str | Path, trust_pickle: bool = False, own: Path | None = None
) -> Pretrained:
    """Read pretrained weights and what is known of them.

    Pickles (``best_model``, and the ``.ckpt`` of SchNetPack's own task) run code when they are
    opened. They are opened if that is allowed, or if they are below one's own folder of runs and
    belong to the user who asks.

    Args:
        path: a run directory of ours or of SchNetPack's own task, a portable ``.safetensors`` file,
            a ``.ckpt``, or a ``best_model``.
        trust_pickle: open any pickle.
        own: folder of one's own runs.

    Returns:
        Weights, offsets and card.

    Raises:
        CheckpointError: nothing there, unreadable, damaged, not finite, or not to be trusted.
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
        pretrained = _with_run_files(_read(path, trust_pickle, own))
    except DAMAGED as error:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}: {error}); "
            "copy it again, or use another checkpoint of that run"
        ) from error
    wrong = [n for n, t in pretrained.state.items() if not t.isfinite().all()]
    if wrong:
        raise CheckpointError(
            f"{path} holds NaN or infinite numbers, expected finite ones, in {', '.join(wrong)}; "
            "its training has failed: use an earlier checkpoint, or pretrain again"
        )
    return pretrained


def _in_run_directory(path: Path) -> Path:
    """The weights of a run: the portable file, else the best model in what opens safely."""
    if (path / PORTABLE_NAME).is_file():
        return path / PORTABLE_NAME
    checkpoints = sorted((path / "checkpoints").glob("*.ckpt"), key=lambda p: p.stat().st_mtime)
    best = [c for c in checkpoints if not c.stem.startswith("last")]
    checkpoints = [*best[::-1], *[c for c in checkpoints[::-1] if c not in best]]
    pickled = [c for c in checkpoints if _is_pickle(c)]
    safe = [c for c in checkpoints if c not in pickled]
    for candidate in [*safe, path / "best_model", *pickled]:
        if candidate.is_file():
            log.warning(
                "%s has no %s; its weights are read from %s", path, PORTABLE_NAME, candidate
            )
            return candidate
    raise CheckpointError(
        f"expected a run directory with {PORTABLE_NAME}, checkpoints/*.ckpt or best_model, "
        f"got {path} without any of them; has the run finished?"
    )


def _is_pickle(path: Path) -> bool:
    """Whether a ``.ckpt`` holds more than tensors and plain values."""
    if not zipfile.is_zipfile(path):  # nothing that torch wrote
        return False
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return True
    return False


def _read(path: Path, trust_pickle: bool, own: Path | None) -> Pretrained:
    if path.suffix == ".safetensors":
        return read_portable(path)
    if path.suffix == ".ckpt" and not _is_pickle(path):
        return _read_checkpoint(path)
    portable = path.with_name(PORTABLE_NAME)
    if (
        portable.is_file() and path.suffix != ".ckpt"
    ):  # a finished T-PaiNN run keeps the same weights in both
        return read_portable(portable)
    _check_trust(path, trust_pickle, own)
    return _read_pickle(path)


def _read_checkpoint(path: Path) -> Pretrained:
    """Weights and offsets of a task's checkpoint."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    card = upgrade_checkpoint(content, str(path))["card"]
    weights = model_weights(content)
    offsets = {}
    for k, node in enumerate(card.get("model_config", {}).get("postprocessors") or ()):
        split = weights.get(f"postprocessors.{k}.split")  # (2, zmax)
        if split is not None:
            offsets[node["property"]] = split.double().sum(dim=0)
    state = {n: t for n, t in weights.items() if not n.startswith("postprocessors.")}
    return Pretrained(path, merged_state(state), card, offsets)


def _check_trust(path: Path, trust_pickle: bool, own: Path | None) -> None:
    """Refuse a pickle that is neither allowed nor one's own."""
    real = path.resolve()
    inside = own is not None and real.is_relative_to(own.resolve())
    if trust_pickle or (inside and real.stat().st_uid == os.getuid()):
        return
    place = "belongs to another user" if inside else f"lies outside your folder of runs, {own}"
    raise CheckpointError(
        f"{path} is a pickle, which runs code when it is opened, and {place}; if you trust where "
        "it comes from, set transfer.trust_pickle=true (tpainn-export: --trust-pickle)"
    )


def _read_pickle(path: Path) -> Pretrained:
    """A model, a task, or a checkpoint of SchNetPack's own task."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
        if path.suffix == ".ckpt":
            model = content["hyper_parameters"]["model"]
            model.load_state_dict(model_weights(content))
        else:
            model = getattr(content, "model", content)
    except Exception as error:  # unpickling raises anything
        raise CheckpointError(f"cannot read the model {path}: {error!r}") from error
    if not isinstance(model, nn.Module) or not hasattr(model, "representation"):
        raise CheckpointError(
            f"expected a SchNetPack model with a representation in {path}, "
            f"got {type(model).__name__}"
        )
    card = {"architecture": describe(model), **getattr(model, "metadata", {})}
    state = network_state(model)
    content = upgrade({"format": card.get("format", 1), "card": card}, state, str(path))
    return Pretrained(path, state, content["card"], offsets_of(model))


def _with_run_files(pretrained: Pretrained) -> Pretrained:
    """Add what the card lacks, if the run's other files say it.

    Format 1 has no offsets and no model's configuration beside the weights, SchNetPack's own task
    no configuration and no units.
    """
    card, offsets = dict(pretrained.card), dict(pretrained.offsets)
    folder = pretrained.source.parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    config, report = folder / "config.yaml", folder / REPORT_NAME
    if not config.is_file():
        return pretrained
    run: Any = OmegaConf.load(config)
    card.setdefault("model_config", _plain(run, "model"))
    units = _plain(run, "data.property_units")
    if units:
        card.setdefault("units", {**units, "distance": _plain(run, "data.distance_unit") or "Ang"})
    if report.is_file():
        said = json.loads(report.read_text())
        card.setdefault("stage", said["stage"])
        if not offsets:
            key, values = _plain(run, "globals.energy_key"), said["offsets"]["ev"]
            offsets[key] = torch.tensor(element_values(values), dtype=torch.float64)
    return Pretrained(pretrained.source, pretrained.state, card, offsets)


def _plain(config: Any, key: str) -> Any:
    node = OmegaConf.select(config, key)
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
