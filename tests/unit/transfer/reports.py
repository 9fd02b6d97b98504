"""Short real runs with a report, for the tests of this folder."""

import json
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import CSVLogger
from schnetpack.train import ModelCheckpoint

from schnetpack_tpainn.transfer.report import RunReport
from tests.fits import data_module, make_task

FREEZE = (
    "transfer.freeze=[embedding]",
    "transfer.reinitialise=['outnet\\.0']",
    "+transfer.learning_rates.filter=0.5",
)


class Kill(Callback):
    """Ends a run before a step, as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError


def run(
    folder: Path,
    labels: Path,
    transfer: dict[str, Any] | None,
    report: dict[str, Any] | None = None,
    lr: float = 1e-3,
    kill: int | None = None,
    trainer_cls: type[Trainer] = Trainer,
    forces_key: str | None = "forces",
    **data: Any,
) -> Path:
    """Fit and test as `spktrain` does, in a run directory; goes on where a killed run stopped."""
    folder.mkdir(exist_ok=True)
    datamodule = data_module(labels, forces_key=forces_key)
    datamodule.split_file = str(folder / "split.npz")
    for name, value in data.items():
        setattr(datamodule, name, value)
    callbacks = [
        RunReport(**{"stage": "autotune", "seed": 0, "directory": str(folder), **(report or {})}),
        ModelCheckpoint(
            model_path=str(folder / "best_model"),
            dirpath=folder / "checkpoints",
            monitor="step",
            mode="max",
            save_last=True,
        ),
        *([] if kill is None else [Kill(kill)]),
    ]
    trainer = trainer_cls(
        default_root_dir=folder,
        logger=CSVLogger(folder, "csv/"),
        callbacks=callbacks,
        max_steps=40,
        max_epochs=-1,
        val_check_interval=10,
        check_val_every_n_epoch=None,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=10.0,
        inference_mode=False,
    )
    last = folder / "checkpoints" / "last.ckpt"
    task = make_task("tpainn", transfer, forces_key, optimizer_args={"lr": lr})
    trainer.fit(task, datamodule=datamodule, ckpt_path=last if last.exists() else None)
    trainer.test(task, datamodule=datamodule, ckpt_path="best", verbose=False)
    return folder


def read(folder: Path, name: str = "report.json") -> Any:
    return json.loads((folder / name).read_text())
