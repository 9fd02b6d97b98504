"""The clock in a training run; it imports nothing of ours but what writes the file."""

import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from schnetpack_tpainn.files import write_json

__all__ = ["EpochClock"]


class EpochClock(Callback):
    """Writes when each validation began, and how many frames, batches and parameters came before.

    Args:
        path: JSON file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.record: dict[str, Any] = {"validations": [], "frames": 0, "batches": 0}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count."""
        self.record["frames"] += len(batch["_idx"])
        self.record["batches"] += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the clock, and write."""
        self.record["validations"].append(time.perf_counter())
        self.record["parameters"] = sum(p.numel() for p in pl_module.model.parameters())
        write_json(self.path, self.record)
