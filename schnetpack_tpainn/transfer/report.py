"""Every run leaves its report, its test predictions and portable weights behind."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import to_absolute_path
from pytorch_lightning import Callback, LightningModule, Trainer
from safetensors.torch import load_file

from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.files import write_json, write_text
from schnetpack_tpainn.transfer.context import Context, TransferRecord
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.evaluate import errors
from schnetpack_tpainn.transfer.offsets import get_offsets
from schnetpack_tpainn.transfer.outcome import (
    ADVICE,
    count_parameters,
    described_offsets,
    errors_by_element,
    find_warnings,
    history,
    learning_rates,
    parameter_changes,
    provenance,
    write_predictions,
)
from schnetpack_tpainn.transfer.portable import PORTABLE_NAME, offsets_of, save_portable
from schnetpack_tpainn.transfer.runs import REPORT_NAME
from schnetpack_tpainn.transfer.scratch import against_scratch, check_same_test_frames
from schnetpack_tpainn.transfer.strategies import Scratch
from schnetpack_tpainn.transfer.summary import caution, headline, lead, tables_after, tables_before
from schnetpack_tpainn.transfer.tables import Table, markdown, show
from schnetpack_tpainn.transfer.task import TransferTask

__all__ = ["RunReport"]

log = logging.getLogger(__name__)

SCHEMA = 2
START_NAME = "start.safetensors"
TRANSFER_NAME = "transfer.json"
MARKDOWN_NAME = "report.md"
PREDICTIONS_NAME = "test_predictions.npz"
VALIDATION_NAME = "validation_predictions.npz"
MAX_TRAIN = 1000  # training frames to measure the final errors on, evenly spaced


def _before(task: TransferTask) -> dict[str, Any]:
    """Content of ``transfer.json``: the record, and what it is to be seen beside."""
    record = (task.record or TransferRecord("none")).plain()
    return {**record, "card": task.card, "learning_rates": learning_rates(task)}


class RunReport(Callback):
    """Lightning callback that reports what a transfer did and what came of it.

    Before the first step it prints tables, and writes them as ``transfer.json``, ``report.md`` and
    the weights as ``start.safetensors``. When the test stage ends, it completes ``report.md`` with
    figures and writes ``report.json`` (schema in the docs), ``validation_predictions.npz``,
    ``test_predictions.npz`` and ``model.safetensors``. Each is written in one piece;
    ``report.json`` comes last and says that the run is finished.

    .. code-block:: yaml

        callbacks:
          report:
            _target_: schnetpack_tpainn.transfer.report.RunReport
            stage: autotune
            seed: ${seed}
            scratch: runs/scratch

    Args:
        stage: ``pretrain`` or ``autotune``.
        seed: seed of the run.
        scratch: directory of a finished run with ``transfer=scratch`` and the same test frames, to
            compare with; none if None.
        directory: where to write.
    """

    def __init__(
        self,
        stage: str,
        seed: int | None = None,
        scratch: str | None = None,
        directory: str = ".",
    ) -> None:
        self.stage = stage
        self.seed = seed
        path = None if scratch is None else Path(scratch).expanduser()
        self.scratch = None if path is None else Path(to_absolute_path(str(path)))
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

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run from scratch that this one cannot be compared with.

        Args:
            trainer: Lightning's trainer.
            pl_module: a :class:`TransferTask`.

        Raises:
            TransferError: it has other test frames, or this is a run from scratch, too.
        """
        if self.scratch is None or not isinstance(pl_module, TransferTask):
            return
        if isinstance(pl_module.strategy, Scratch):
            raise TransferError(
                "callbacks.report.scratch: expected a run that transfers weights, to compare with "
                "one from scratch, got transfer=scratch; leave callbacks.report.scratch out"
            )
        check_same_test_frames(self.scratch, trainer.datamodule)  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was done before the first step; a resumed run keeps what was said then.

        Args:
            trainer: Lightning's trainer.
            pl_module: a :class:`TransferTask`.
        """
        if not trainer.is_global_zero or not isinstance(pl_module, TransferTask):
            return
        if trainer.global_step and (self.directory / TRANSFER_NAME).is_file():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        transfer = _before(pl_module)
        if trainer.global_step == 0 and transfer["checkpoint"] is not None:
            model = pl_module.model
            start = network_state(model), pl_module.card, offsets_of(model)
            save_portable(self.directory / START_NAME, *start)
        write_json(self.directory / TRANSFER_NAME, transfer)
        tables = tables_before(transfer)
        text = "Training has not finished. This is what was done before the first step."
        self._write_markdown(transfer, [*caution(transfer), text], tables, {})
        show(tables)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock.

        Args:
            trainer: Lightning's trainer.
            pl_module: the task.
        """
        self._before, self._start = self._elapsed(), None

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the kept model and write everything.

        Args:
            trainer: Lightning's trainer.
            pl_module: a :class:`TransferTask`.
        """
        if not trainer.is_global_zero or not isinstance(pl_module, TransferTask):
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        context = Context(pl_module.model, datamodule, pl_module.energy_key, pl_module.forces_key)
        with torch.inference_mode(False):
            val, test = context.predictions("val"), context.predictions("test")
            kept = {
                "train": errors(context.predictions("train", MAX_TRAIN)),
                "validation": errors(val),
                "test": errors(test),
            }
        self.directory.mkdir(parents=True, exist_ok=True)
        offsets = get_offsets(pl_module.model, pl_module.energy_key)
        write_predictions(self.directory / VALIDATION_NAME, val, offsets)
        write_predictions(self.directory / PREDICTIONS_NAME, test, offsets)
        report = self._report(datamodule, pl_module)
        elements = errors_by_element(test)
        report |= kept | ({"by_element": elements} if elements else {})
        keys = pl_module.energy_key, pl_module.forces_key
        self._compare(report, datamodule, history(self.directory, *keys))
        state = network_state(pl_module.model)
        card = {**pl_module.card, "stage": self.stage}
        save_portable(self.directory / PORTABLE_NAME, state, card, offsets_of(pl_module.model))
        self._draw(report, keys)
        self._finish(report)

    def _compare(
        self, report: dict[str, Any], datamodule: Any, validations: Mapping[str, np.ndarray]
    ) -> None:
        """Set the final errors beside those at the start and from scratch."""
        if self.scratch is not None:
            test = report["test"]
            report["transfer"]["scratch"] = against_scratch(self.scratch, datamodule, test)
        others = validations["step"] != report["optimiser_steps"]  # than that of the kept weights
        report["warnings"] = find_warnings(
            report["zero_shot"].get("validation"),
            report["validation"],
            {key: values[others] for key, values in validations.items()},
            report["transfer"].get("scratch"),
        )

    def _draw(self, report: dict[str, Any], keys: tuple[str, str | None]) -> None:
        """Draw the figures, and put their names into the report."""
        from schnetpack_tpainn.transfer.figures import draw_run  # matplotlib is slow to import

        own = "scratch" if self.stage == "autotune" and not report["checkpoint"] else self.stage
        runs = {own: self.directory} | ({"scratch": self.scratch} if self.scratch else {})
        predictions = {n: dict(np.load(d / PREDICTIONS_NAME)) for n, d in runs.items()}
        histories = {n: history(d, *keys) for n, d in runs.items()}
        report["figures"] = draw_run(self.directory, report, predictions, histories)

    def _finish(self, report: Mapping[str, Any]) -> None:
        """Write ``report.md`` and ``report.json``, and show the result."""
        result, before = tables_after(report), tables_before(report["transfer"])
        figures = {name: name for name in report["figures"]}
        changed = {k: figures.pop(k) for k in ["changes.png"] if k in figures}
        self._write_markdown(
            report["transfer"],
            lead(report),
            [*result, *before],
            {result[0].title: list(figures), before[0].title: list(changed)},
        )
        write_json(self.directory / REPORT_NAME, report)  # last: its presence says "finished"
        warnings = report["warnings"]
        if warnings:
            log.warning("%s %s", " ".join(warnings), ADVICE)
        text = [*warnings, *([ADVICE] if warnings else []), headline(report)]
        show(result[:1], "\n".join(text), alarm=bool(warnings))
        log.info("report in %s", (self.directory / MARKDOWN_NAME).resolve())

    def _write_markdown(
        self,
        transfer: Mapping[str, Any],
        paragraphs: Sequence[str],
        tables: Sequence[Table],
        figures: Mapping[str, Sequence[str]],
    ) -> None:
        what = "Pretraining" if self.stage == "pretrain" else f"Transfer `{transfer['strategy']}`"
        title = f"{what}: {self.directory.resolve().name}"
        write_text(self.directory / MARKDOWN_NAME, markdown(title, paragraphs, tables, figures))

    def _report(self, datamodule: Any, task: TransferTask) -> dict[str, Any]:
        """What is known without comparing."""
        written, start = self.directory / TRANSFER_NAME, self.directory / START_NAME
        before = json.loads(written.read_text()) if written.is_file() else _before(task)
        record = (task.record or TransferRecord("none")).plain()
        moved = parameter_changes(load_file(start), task.model) if start.is_file() else {}
        return {
            "schema": SCHEMA,
            "stage": self.stage,
            "strategy": record["strategy"],
            "checkpoint": record["checkpoint"],
            "seeds": [self.seed],
            "n_train": len(datamodule.train_dataset),
            "n_val": len(datamodule.val_dataset),
            "n_test": len(datamodule.test_dataset),
            "optimiser_steps": task.optimiser_steps,
            "parameters": count_parameters(task),
            "backend": getattr(task.model.representation, "backend_used", None),
            "scale": record["alignment"].get("scale"),
            "offsets": {
                "ev": described_offsets(task.model, task.energy_key),
                "rank": record["alignment"].get("rank"),
                "n_elements": record["alignment"].get("n_elements"),
            },
            "zero_shot": record["zero_shot"],
            "wall_time_s": {"training": round(self._elapsed(), 2)},
            "data": provenance(datamodule),
            "versions": software_versions(),
            "transfer": {**before, **record, "changes": moved},
        }
