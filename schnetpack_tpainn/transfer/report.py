"""Every run leaves `report.json`, its test predictions and portable weights behind."""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.files import write_json
from schnetpack_tpainn.transfer.context import Context
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.evaluate import Predictions, errors, predict
from schnetpack_tpainn.transfer.offsets import get_offsets
from schnetpack_tpainn.transfer.portable import PORTABLE_NAME, offsets_of, save_portable
from schnetpack_tpainn.transfer.runs import REPORT_NAME
from schnetpack_tpainn.transfer.task import TransferTask

__all__ = ["RunReport", "count_parameters"]

log = logging.getLogger(__name__)

SCHEMA = 1


def count_parameters(task: TransferTask) -> dict[str, int]:
    """Parameters in all, copied, reinitialised and frozen.

    Args:
        task: the task after its transfer step.

    Returns:
        Counts of scalars.
    """
    parameters = list(task.model.parameters())
    record = task.record
    return {
        "total": sum(p.numel() for p in parameters),
        "copied": record.total("copied") if record else 0,
        "reinitialised": record.total("reinitialised") if record else 0,
        "frozen": sum(p.numel() for p in parameters if not p.requires_grad),
    }


def _described_offsets(model: nn.Module, energy_key: str) -> dict[str, float]:
    from ase.data import chemical_symbols

    offsets = get_offsets(model, energy_key)
    return {chemical_symbols[z]: c for z, c in enumerate(offsets.tolist()) if c != 0.0}


class RunReport(Callback):
    """Lightning callback that writes the report when the test stage ends.

    ``report.json`` (schema in the docs), ``test_predictions.npz`` and ``model.safetensors`` go
    into the run directory, each in one piece.

    .. code-block:: yaml

        callbacks:
          report:
            _target_: schnetpack_tpainn.transfer.report.RunReport
            stage: autotune
            seed: ${seed}

    Args:
        stage: ``pretrain`` or ``autotune``.
        seed: seed of the run.
        directory: where to write.
    """

    def __init__(self, stage: str, seed: int | None = None, directory: str = ".") -> None:
        self.stage = stage
        self.seed = seed
        self.directory = Path(directory)
        self._before = 0.0  # seconds of training before this process
        self._start: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Training time so far, for a resumed run."""
        return {"train_seconds": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a resumed run's training time.

        Args:
            state_dict: what :meth:`state_dict` gave.
        """
        if self._start is not None:  # the best checkpoint is read again for the test
            self._before = state_dict["train_seconds"]

    def _elapsed(self) -> float:
        return self._before + (0.0 if self._start is None else time.monotonic() - self._start)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the clock; sampling in ``prepare_data`` is over by now.

        Args:
            trainer: Lightning's trainer.
            pl_module: the task.
            stage: Lightning's stage.
        """
        if stage == "fit":
            self._start = time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock.

        Args:
            trainer: Lightning's trainer.
            pl_module: the task.
        """
        self._before, self._start = self._elapsed(), None

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the best model on the test frames and write everything.

        Args:
            trainer: Lightning's trainer.
            pl_module: a :class:`TransferTask`.
        """
        if not trainer.is_global_zero or not isinstance(pl_module, TransferTask):
            return
        keys = pl_module.energy_key, pl_module.forces_key
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        batches = Context(pl_module.model, datamodule, *keys).batches(datamodule.test_dataset)
        with torch.inference_mode(False):
            test = predict(pl_module.model, batches, *keys)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_predictions(test, get_offsets(pl_module.model, keys[0]))
        report = self._report(datamodule, pl_module, test)
        state = network_state(pl_module.model)
        card = {**pl_module.card, "stage": self.stage}
        save_portable(self.directory / PORTABLE_NAME, state, card, offsets_of(pl_module.model))
        target = self.directory / REPORT_NAME
        write_json(target, report)  # last: its presence says that the run is finished
        final = report["test"]
        log.info(
            "test: energy MAE %.2f meV, forces MAE %.2f meV/Å; report in %s",
            final["energy_mae_mev"],
            final["forces_mae_mev_per_ang"],
            target.resolve(),
        )

    def _write_predictions(self, test: Predictions, offsets: torch.Tensor) -> None:
        shift = test.composition @ offsets  # (M,)
        temporary = self.directory / ".test_predictions.tmp.npz"
        np.savez_compressed(
            temporary,
            energy=(test.energy + shift).numpy(),
            energy_label=(test.energy_label + shift).numpy(),
            forces=test.forces.numpy().astype(np.float32),
            forces_label=test.forces_label.numpy().astype(np.float32),
            n_atoms=test.n_atoms.numpy().astype(int),
        )
        temporary.replace(self.directory / "test_predictions.npz")

    def _report(self, datamodule: Any, task: TransferTask, test: Predictions) -> dict[str, Any]:
        record = task.record.plain() if task.record else {}
        return {
            "schema": SCHEMA,
            "stage": self.stage,
            "strategy": record.get("strategy"),
            "checkpoint": record.get("checkpoint"),
            "seeds": [self.seed],
            "n_train": len(datamodule.train_dataset),
            "n_val": len(datamodule.val_dataset),
            "n_test": len(datamodule.test_dataset),
            "optimiser_steps": task.optimiser_steps,
            "parameters": count_parameters(task),
            "backend": getattr(task.model.representation, "backend_used", None),
            "scale": record.get("alignment", {}).get("scale"),
            "offsets": {
                "ev": _described_offsets(task.model, task.energy_key),
                "rank": record.get("alignment", {}).get("rank"),
                "n_elements": record.get("alignment", {}).get("n_elements"),
            },
            "zero_shot": record.get("zero_shot", {}),
            "test": errors(test),
            "wall_time_s": {"training": round(self._elapsed(), 2)},
            "data": {
                "path": str(Path(datamodule.datapath).resolve()),
                **{k: v for k, v in datamodule.dataset.metadata.items() if k != "atomrefs"},
            },
            "versions": software_versions(),
        }
