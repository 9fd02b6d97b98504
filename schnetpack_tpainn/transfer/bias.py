"""Fit the offsets once more after training, around the weights that are kept."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from schnetpack_tpainn.transfer.context import TransferRecord
from schnetpack_tpainn.transfer.formats import upgrade_checkpoint
from schnetpack_tpainn.transfer.offsets import offsets_name, share_offsets

if TYPE_CHECKING:
    from schnetpack_tpainn.transfer.task import TransferTask

__all__ = ["REFIT", "refit_bias"]

log = logging.getLogger(__name__)

REFIT = "final_bias_refit"
MAX_FRAMES = 10_000  # training frames at most, evenly spaced


def refit_bias(task: "TransferTask") -> None:
    """Fit offsets to the training labels around the kept weights, and store them with these.

    Kept are the weights of the best checkpoint; where no checkpoint is written, those in memory.
    The task holds them afterwards, and model, data, checkpoint files (the last one too, if it has
    the same weights) and SchNetPack's ``best_model`` have the same offsets. A checkpoint says
    whether that is done, so that a run that is resumed after it does it once. Every process fits,
    the first writes.

    Args:
        task: the task after the last step; its record takes the errors before and after.

    Raises:
        CheckpointError: the kept weights predict NaN.
    """
    trainer = task.trainer
    callback: Any = trainer.checkpoint_callback
    best = callback.best_model_path if callback is not None else ""
    if best:
        kept = torch.load(best, map_location="cpu", weights_only=True)
        task.load_state_dict(kept["state_dict"])
        task.on_load_checkpoint(kept)
    context, record = task.context(), cast("TransferRecord", task.record)
    share_offsets(context.model, context.datamodule, context.energy_key)
    if REFIT not in record.alignment:
        task.model.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU
        fit = task.strategy.align.without_scale().apply(context, MAX_FRAMES)
        task.model.cpu()
        record.alignment[REFIT] = {"before": fit.before, "after": fit.after}
        log.info(
            "final bias refit: mean energy error on %d training frames from %.3f to %.3f meV/atom",
            *(fit.before["n_frames"], fit.before["energy_bias_mev_per_atom"]),
            fit.after["energy_bias_mev_per_atom"],
        )
    if best and trainer.is_global_zero:
        for path in {best, callback.last_model_path or best}:
            _store(task, record.alignment[REFIT], Path(path))
        if hasattr(callback, "model_path"):
            task.save_model(callback.model_path, do_postprocessing=True)
    trainer.strategy.barrier(REFIT)


def _store(task: "TransferTask", refit: dict[str, Any], path: Path) -> None:
    """Put the task's offsets into a checkpoint that has its weights, in one piece."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    state, held = content["state_dict"], task.state_dict()
    name = f"model.{offsets_name(task.model, task.energy_key)}"
    alignment = upgrade_checkpoint(content, str(path))["record"]["alignment"]
    same = all(torch.equal(state[key], held[key]) for key in state.keys() - {name})
    if REFIT in alignment or not same:
        return
    state[name] = held[name]
    alignment[REFIT] = refit
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(content, temporary)
    temporary.replace(path)
