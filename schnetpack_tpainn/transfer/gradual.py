"""Gradual unfreezing (Howard and Ruder, arXiv 1801.06146): from the head down."""

import logging
import math

import torch
from schnetpack import AtomisticTask
from torch import nn

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.context import TransferRecord
from schnetpack_tpainn.transfer.parameters import depths
from schnetpack_tpainn.transfer.part import Part

__all__ = ["Gradual"]

log = logging.getLogger(__name__)


class Gradual(Part):
    """Tunes the head first and block after block below it.

    A block that waits has no gradient when the optimiser steps: it stays as it is, bit for bit, has
    no optimiser state and no part in the gradient's norm. DDP sees all blocks from the start.

    .. code-block:: yaml

        transfer:
          gradual:
            _target_: schnetpack_tpainn.transfer.gradual.Gradual
            by: step
            until: 0.5

    Args:
        by: ``step`` spreads the blocks over the run, ``plateau`` takes the next block when the
            validation loss has stopped falling.
        until: fraction of ``trainer.max_steps`` after which everything is tuned (``step``).
        patience: validations without a lower loss before the next block (``plateau``).

    Raises:
        TransferError: an argument is out of range.
    """

    def __init__(self, by: str = "step", until: float = 0.5, patience: int = 3) -> None:
        super().__init__()
        if by not in ("step", "plateau"):
            raise TransferError(f"expected transfer.gradual.by step or plateau, got {by!r}")
        if not 0 < until <= 1:
            raise TransferError(f"expected transfer.gradual.until above 0 and up to 1, got {until}")
        if patience < 1:
            raise TransferError(f"expected transfer.gradual.patience of 1 or more, got {patience}")
        self.by, self.until, self.patience = by, until, patience
        self.levels: list[list[str]] = []  # names of parameters, from the head down
        self.active = 1  # levels that are tuned
        self.best, self.waited = math.inf, 0

    def get_extra_state(self) -> torch.Tensor:
        """What a checkpoint keeps: levels, lowest loss, validations since."""
        state = [self.active, self.best, self.waited]
        return torch.tensor(state, dtype=torch.float64)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Go on from a checkpoint.

        Args:
            state: what :meth:`get_extra_state` gave.
        """
        active, self.best, waited = state.tolist()
        self.active, self.waited = int(active), int(waited)

    @property
    def n_levels(self) -> int:
        """Number of levels that are to be tuned."""
        return len(self.levels)

    def prepare(self, model: nn.Module) -> None:
        """Sort what is to be tuned into levels.

        Args:
            model: the model, frozen where it shall be.
        """
        depth = depths(model)
        levels: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                levels.setdefault(depth[parameter][1], []).append(name)
        self.levels = [names for _, names in sorted(levels.items())]

    def start(self, task: AtomisticTask, record: TransferRecord) -> None:
        """Say what will happen.

        Args:
            task: the task.
            record: the record.

        Raises:
            TransferError: the run's length is not known in steps.
        """
        if self.by == "step" and task.trainer.max_steps < 1:
            raise TransferError(
                "transfer.gradual.by=step needs trainer.max_steps, got none; set it, or take "
                "transfer.gradual.by=plateau"
            )
        found = depths(task.model)
        block = {name: found[p][0] for name, p in task.model.named_parameters()}
        record.parts["gradual"] = {
            "by": self.by,
            "levels": [sorted({block[name] for name in names}) for names in self.levels],
            **({"until": self.until} if self.by == "step" else {"patience": self.patience}),
        }

    def waiting(self, model: nn.Module) -> list[nn.Parameter]:
        """Parameters whose turn has not come.

        Args:
            model: the model.

        Returns:
            The parameters.
        """
        later = {name for names in self.levels[self.active :] for name in names}
        return [p for name, p in model.named_parameters() if name in later]

    def before_step(self, task: AtomisticTask) -> None:
        """Take the gradients of waiting blocks away.

        Args:
            task: the task.
        """
        if self.by == "step":
            end = max(1, round(self.until * task.trainer.max_steps))
            self._activate(1 + task.global_step * (self.n_levels - 1) // end)
        if self.active < self.n_levels:
            for parameter in self.waiting(task.model):
                parameter.grad = None

    def after_validation(self, task: AtomisticTask) -> None:
        """Take the next block if the loss has stopped falling.

        Args:
            task: the task; its validation loss is that of all processes together.
        """
        if self.by != "plateau":
            return
        loss = task.trainer.callback_metrics["val_loss"].item()
        self.waited += 1
        if loss < self.best:
            self.best, self.waited = loss, 0
        if self.waited >= self.patience:
            self.waited = 0
            self._activate(self.active + 1)

    def _activate(self, n: int) -> None:
        n = min(n, self.n_levels)
        if n > self.active:
            self.active = n
            log.info("gradual unfreezing: %d of %d levels are tuned", n, self.n_levels)
