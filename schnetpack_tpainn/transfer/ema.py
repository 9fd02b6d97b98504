"""An exponential moving average of the weights that leaves training alone."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch_ema import ExponentialMovingAverage as Average

from schnetpack_tpainn.errors import TransferError

__all__ = ["WeightAverage"]


class WeightAverage(Callback):
    """Validates, tests and stores averaged weights; trains the others.

    SchNetPack's ``ExponentialMovingAverage`` puts the weights of the last validation back at the
    start of *every epoch*: with several epochs between two validations, as with few labels, all
    steps but those of one epoch are lost. And it resumes from the averaged weights. Here the
    weights come back once after each validation, and a checkpoint holds both sets.

    .. code-block:: yaml

        callbacks:
          ema:
            _target_: schnetpack_tpainn.transfer.ema.WeightAverage
            decay: 0.995

    Args:
        decay: weight of the past in the average, from 0 to below 1, reached over the first steps.

    Raises:
        TransferError: the weight is out of range.
    """

    def __init__(self, decay: float = 0.995) -> None:
        if not 0 <= decay < 1:
            raise TransferError(
                f"expected callbacks.ema.decay from 0 to below 1, got {decay}; 0.995 is usual"
            )
        self.decay = decay
        self._average: Average | None = None
        self._averaged = False  # the model holds the averaged weights
        self._loaded: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the average with the weights as they are, after the transfer, or go on with it.

        Args:
            trainer: Lightning's trainer.
            pl_module: SchNetPack task.
        """
        model: Any = pl_module.model
        self._average = Average(model.parameters(), decay=self.decay)
        self._averaged = False
        if self._loaded is not None:
            self._average.load_state_dict(self._loaded["average"])
            self._averaged = self._loaded["averaged"]
            self._loaded = None

    def on_train_batch_start(self, *args: Any) -> None:
        """Go on with the weights that are trained.

        Args:
            *args: Lightning's trainer, task, batch and index, unused.
        """
        if self._averaged and self._average is not None:
            self._average.restore()
            self._averaged = False

    def on_train_batch_end(self, *args: Any) -> None:
        """Update the average.

        Args:
            *args: Lightning's trainer, task, outputs, batch and index, unused.
        """
        if self._average is not None:
            self._average.update()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the averaged weights in place, for validation and the checkpoint after it.

        Args:
            trainer: Lightning's trainer.
            pl_module: SchNetPack task.
        """
        if self._average is not None and not self._averaged and trainer.state.fn == "fit":
            self._average.store()
            self._average.copy_to()
            self._averaged = True

    def state_dict(self) -> dict[str, Any]:
        """Average, trained weights, and which of them the model holds."""
        if self._average is None:
            return {}
        return {"average": self._average.state_dict(), "averaged": self._averaged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until the fit starts.

        Args:
            state_dict: what :meth:`state_dict` gave.
        """
        self._loaded = state_dict or None
