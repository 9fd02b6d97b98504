"""The training task: SchNetPack's, with a transfer step and checkpoints that load safely."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from torch import nn

from schnetpack_tpainn.transfer.bias import REFIT, refit_bias
from schnetpack_tpainn.transfer.context import Context, TransferRecord
from schnetpack_tpainn.transfer.formats import CARD_KEY, FORMAT, upgrade_checkpoint
from schnetpack_tpainn.transfer.keys import check_outputs, config_with_forces, with_forces
from schnetpack_tpainn.transfer.offsets import share_offsets
from schnetpack_tpainn.transfer.optimiser import GroupedTask
from schnetpack_tpainn.transfer.portable import make_card
from schnetpack_tpainn.transfer.strategies import Scratch, Strategy
from schnetpack_tpainn.transfer.units import check_data_units

__all__ = ["TransferTask"]

log = logging.getLogger(__name__)


class TransferTask(GroupedTask):
    """SchNetPack's ``AtomisticTask`` that begins with a transfer step.

    It is built from plain configs (Hydra's ``_recursive_: false``), keeps them, and stores them
    in its checkpoints in place of pickled modules: a checkpoint holds tensors and plain containers
    only, loads with ``weights_only=True``, and ``load_from_checkpoint`` builds the modules anew.

    .. code-block:: yaml

        task:
          _target_: schnetpack_tpainn.transfer.task.TransferTask
          _recursive_: false
          _convert_: all
          model_config: ${model}
          transfer: ${transfer}
          outputs: [...]  # as for SchNetPack's task

    Args:
        model_config: Hydra node of the model.
        outputs: Hydra nodes of ``schnetpack.task.ModelOutput``; those whose name is None are left
            out.
        model: the model built from ``model_config``, as ``spktrain`` passes it; built here if None.
        transfer: Hydra node of a strategy (see :mod:`schnetpack_tpainn.transfer.strategies`);
            training from scratch if None.
        energy_key: key of the energy (eV) in model and data.
        forces_key: key of the forces (eV/Å); None for labels with energies alone, which need a
            model without ``schnetpack.atomistic.Forces``.
        optimizer_cls: optimiser class or its import path.
        optimizer_args: its keyword arguments.
        scheduler_cls: learning-rate scheduler class or its import path.
        scheduler_args: its keyword arguments.
        scheduler_monitor: metric that a plateau scheduler watches.
        scheduler_interval: the scheduler moves every ``step`` or as in SchNetPack (``epoch``).
        warmup_steps: steps of linear warm-up, see ``AtomisticTask``.

    Raises:
        TransferError: outputs or keys are not among the model's, or it computes forces for nobody.
    """

    model: Any  # SchNetPack's AtomisticModel

    def __init__(
        self,
        model_config: Mapping[str, Any],
        outputs: Sequence[Mapping[str, Any]],
        model: nn.Module | None = None,
        transfer: Mapping[str, Any] | None = None,
        energy_key: str = "energy",
        forces_key: str | None = "forces",
        optimizer_cls: type | str = "torch.optim.AdamW",
        optimizer_args: Mapping[str, Any] | None = None,
        scheduler_cls: type | str | None = None,
        scheduler_args: Mapping[str, Any] | None = None,
        scheduler_monitor: str | None = None,
        scheduler_interval: str = "epoch",
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(
            model=instantiate(model_config) if model is None else model,
            outputs=[instantiate(output) for output in outputs if output["name"] is not None],
            optimizer_cls=_class(optimizer_cls),
            optimizer_args=dict(optimizer_args or {"lr": 1e-3}),
            scheduler_cls=_class(scheduler_cls),
            scheduler_args=dict(scheduler_args or {}),
            scheduler_monitor=scheduler_monitor,
            warmup_steps=warmup_steps,
        )
        plain = {
            "model_config": model_config,
            "outputs": outputs,
            "transfer": transfer,
            "energy_key": energy_key,
            "forces_key": forces_key,
            "optimizer_cls": _path(optimizer_cls),
            "optimizer_args": self.optimizer_kwargs,
            "scheduler_cls": _path(scheduler_cls),
            "scheduler_args": self.scheduler_kwargs,
            "scheduler_monitor": scheduler_monitor,
            "scheduler_interval": scheduler_interval,
            "warmup_steps": warmup_steps,
        }
        super().save_hyperparameters(plain)
        names = [output.name for output in self.outputs]
        check_outputs(self.model, names, energy_key, forces_key)
        self.strategy: Strategy = Scratch() if transfer is None else instantiate(transfer)
        self.strategy.prepare(self.model)
        self.parts = nn.ModuleList(self.strategy.parts)
        self.energy_key, self.forces_key = energy_key, forces_key
        self.scheduler_interval = scheduler_interval
        self.record: TransferRecord | None = None
        self.card: dict[str, Any] = {}
        self.optimiser_steps = 0  # of the weights held, as read from a checkpoint

    def save_hyperparameters(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: ``AtomisticTask`` calls it to pickle the modules it was given."""

    def setup(self, stage: str | None = None) -> None:
        """Fit the offsets to the labels; for a loaded model, let the data follow its offsets.

        Args:
            stage: Lightning's stage.

        Raises:
            DataError: the data are not in eV, eV/Å and Å.
            TransferError: data and task have other keys of the forces.
        """
        datamodule = self.trainer.datamodule
        check_data_units(datamodule, self.energy_key, self.forces_key)
        if stage != "fit":
            self._sync_offsets()
            return
        self.model.initialize_transforms(datamodule)
        config = self.hparams["model_config"]
        if self.forces_key is None:
            config = config_with_forces(config, self.energy_key)
        self.card = make_card(self.model, config, datamodule)
        self.model.metadata = self.card  # travels with the pickled `best_model`

    def on_fit_start(self) -> None:
        """Apply the transfer once; in a resumed run, let the data follow the model's offsets."""
        if self.record is None:
            self.record = self.strategy.apply(self.context())
            for part in self.strategy.parts:
                part.start(self, self.record)
        else:
            self.record.alignment.pop(REFIT, None)  # the kept checkpoint says if it is done
            self._sync_offsets()
        for part in self.strategy.parts:
            part.open(self, self.record)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """SchNetPack's step, with the share of anchor and replay in the loss.

        Args:
            batch: the batch.
            batch_idx: its number.

        Returns:
            The loss.
        """
        loss = super().training_step(batch, batch_idx)
        for part in self.strategy.parts:
            loss = part.loss(self, batch, loss)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Take away the gradients of what is not to change yet.

        Args:
            optimizer: the optimiser.
        """
        for part in self.strategy.parts:
            part.before_step(self)

    def on_validation_epoch_end(self) -> None:
        """Let gradual unfreezing look at the validation loss, before a checkpoint is written."""
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            for part in self.strategy.parts:
                part.after_validation(self)

    def on_fit_end(self) -> None:
        """Fit the offsets once more, around the weights that are kept."""
        if self.strategy.final_bias_refit:
            refit_bias(self)

    def on_test_start(self) -> None:
        """Let the data follow the offsets of a checkpoint that was read for the test."""
        self._sync_offsets()

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients of the parameters alone.

        The positions have one too, as forces need it; in the loss, nobody does.

        Args:
            loss: the loss.
            *args: what Lightning passes on to ``Tensor.backward``.
            **kwargs: likewise.
        """
        kwargs["inputs"] = [p for p in self.parameters() if p.requires_grad]
        loss.backward(*args, **kwargs)

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Log, with validation and test losses those of all processes together.

        Args:
            *args: as for Lightning's ``log``.
            **kwargs: likewise.
        """
        super().log(*args, **{"sync_dist": kwargs.get("on_epoch", False), **kwargs})

    def log_metrics(self, pred: Any, targets: Any, subset: str) -> None:
        """Log metrics; those of training only at the trainer's logging interval.

        Args:
            pred: predictions.
            targets: labels.
            subset: ``train``, ``val`` or ``test``.
        """
        step = self.trainer.global_step + 1
        if subset != "train" or step % self.trainer.log_every_n_steps == 0:
            super().log_metrics(pred, targets, subset)

    def context(self) -> Context:
        """Model and data, as strategies and parts take them."""
        return Context(self.model, self.trainer.datamodule, self.energy_key, self.forces_key)

    def save_model(self, path: str, do_postprocessing: bool | None = None) -> None:
        """Save the model as a pickle; one trained on energies alone predicts forces there too.

        Args:
            path: file to write.
            do_postprocessing: let it add its offsets.
        """
        own = self.model
        if self.forces_key is None:
            self.model = with_forces(own, self.energy_key)
        try:
            super().save_model(path, do_postprocessing)
        finally:
            self.model = own

    def _sync_offsets(self) -> None:
        share_offsets(self.model, self.trainer.datamodule, self.energy_key)

    def factors(self) -> dict[nn.Parameter, float]:
        """Factors on the learning rate, those of parts being 1.

        Returns:
            Parameter -> factor, for those that are trained.
        """
        own = {p: 1.0 for p in self.parts.parameters() if p.requires_grad}
        return self.strategy.tuning.factors(self.model) | own

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add format, transfer record and card.

        Args:
            checkpoint: Lightning's checkpoint.
        """
        checkpoint[CARD_KEY] = {
            "format": FORMAT,
            "record": self.record and self.record.plain(),
            "card": self.card,
            "optimiser_steps": self.trainer.global_step,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore transfer record and card.

        Args:
            checkpoint: Lightning's checkpoint, of this format or an older one.

        Raises:
            CheckpointError: it is of a newer format, or of another task.
        """
        ours = upgrade_checkpoint(checkpoint, "the checkpoint to go on from")
        self.record = None if ours["record"] is None else TransferRecord(**ours["record"])
        self.card |= ours["card"]  # format 1 said less
        self.optimiser_steps = ours["optimiser_steps"]
        self.model.metadata = self.card


def _class(cls: type | str | None) -> type | None:
    return get_class(cls) if isinstance(cls, str) else cls


def _path(cls: type | str | None) -> str | None:
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else cls
