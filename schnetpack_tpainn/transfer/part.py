"""What takes part in tuning besides the model and its labels."""

from typing import Any

from schnetpack import AtomisticTask
from torch import Tensor, nn

from schnetpack_tpainn.transfer.context import TransferRecord

__all__ = ["Part"]


class Part(nn.Module):
    """Base class of anchors, replay and gradual unfreezing.

    The task holds its parts as submodules: their buffers and parameters are in every checkpoint,
    come back on resume, and parameters are trained with the model's. A part must not keep the model
    as an attribute, or it would be stored twice.
    """

    def prepare(self, model: nn.Module) -> None:
        """Make buffers and parameters, before an optimiser, DDP or a checkpoint sees them.

        Args:
            model: the model, its adapters attached and its parameters frozen.
        """

    def start(self, task: AtomisticTask, record: TransferRecord) -> None:
        """Begin, once in a run: the model holds the transferred weights.

        Args:
            task: the task.
            record: what the transfer did; ``record.parts`` takes a description.
        """

    def open(self, task: AtomisticTask, record: TransferRecord) -> None:
        """Get hold of what no checkpoint stores (data), in every process and after every resume.

        Args:
            task: the task, its parts restored.
            record: what the transfer did.
        """

    def loss(self, task: AtomisticTask, batch: dict[str, Any], loss: Tensor) -> Tensor:
        """Loss to train on.

        Args:
            task: the task.
            batch: the batch of labels.
            loss: the loss so far.

        Returns:
            That loss, with this part's share.
        """
        return loss

    def before_step(self, task: AtomisticTask) -> None:
        """Look at the gradients, before they are clipped and used.

        Args:
            task: the task.
        """

    def after_validation(self, task: AtomisticTask) -> None:
        """Look at the validation metrics.

        Args:
            task: the task.
        """
