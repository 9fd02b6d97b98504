r"""Anchors: a pull towards the transferred weights.

.. math::

    L + \frac{s}{2} \sum_i F_i (\theta_i - \theta_i^0)^2
"""

from collections.abc import Collection
from typing import Any

import torch
from schnetpack import AtomisticTask
from schnetpack.data import AtomsLoader
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from tqdm import tqdm

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.context import TransferRecord
from schnetpack_tpainn.transfer.frames import pretraining_frames
from schnetpack_tpainn.transfer.parameters import names_of
from schnetpack_tpainn.transfer.part import Part

__all__ = ["EWC", "L2SP", "gauss_newton"]


class L2SP(Part):
    r"""The same pull on every weight (Xuhong et al., arXiv 1802.01483, eq. 1).

    :math:`F_i = 1` for every trained parameter that was transferred, 0 for those that keep a random
    start. :math:`\theta^0` are the weights after the alignment; low-rank adapters count from their
    start, where they do nothing.

    .. code-block:: yaml

        transfer:
          anchor:
            _target_: schnetpack_tpainn.transfer.anchor.L2SP
            strength: 0.01

    Args:
        strength: factor s.

    Raises:
        TransferError: the strength is not positive.
    """

    origin: Tensor
    importance: Tensor

    def __init__(self, strength: float = 0.01) -> None:
        super().__init__()
        if not strength > 0:
            raise TransferError(
                f"expected transfer.anchor.strength above 0, got {strength}; to tune without an "
                "anchor, set transfer/anchor=null"
            )
        self.strength = strength

    def prepare(self, model: nn.Module) -> None:
        """Make room for the start of every trained parameter.

        Args:
            model: the model, adapters attached and frozen where it shall be.
        """
        weights = _weights(model).detach()
        self.register_buffer("origin", torch.zeros_like(weights))  # (P,)
        self.register_buffer("importance", torch.zeros_like(weights))  # (P,)

    def start(self, task: AtomisticTask, record: TransferRecord) -> None:
        """Take the weights as they are for the origin.

        Args:
            task: the task.
            record: what the transfer did.
        """
        transferred = [
            torch.full_like(p, float(not set(names) & set(record.reinitialised)))
            for p, names in names_of(task.model).items()
            if p.requires_grad
        ]
        mask = parameters_to_vector(transferred)  # (P,)
        self.origin.copy_(_weights(task.model).detach())
        self.importance.copy_(mask * self.importances(task, record))
        record.parts["anchor"] = {
            "kind": type(self).__name__,
            "strength": self.strength,
            "parameters": int(mask.sum()),
        }

    def importances(self, task: AtomisticTask, record: TransferRecord) -> Tensor:
        """Importance of every trained parameter.

        Args:
            task: the task.
            record: what the transfer did.

        Returns:
            Shape (P,), or a number for all.
        """
        return torch.ones_like(self.origin)

    def loss(self, task: AtomisticTask, batch: dict[str, Any], loss: Tensor) -> Tensor:
        """Add the penalty, logged as ``train_anchor``.

        Args:
            task: the task.
            batch: the batch of labels.
            loss: the loss so far.

        Returns:
            The sum.
        """
        drift = _weights(task.model) - self.origin  # (P,)
        penalty = 0.5 * self.strength * (self.importance * drift.square()).sum()
        task.log("train_anchor", penalty, on_step=True, on_epoch=False)
        return loss + penalty

    def after_validation(self, task: AtomisticTask) -> None:
        """Put the distance from the origin on record.

        Args:
            task: the task.
        """
        drift = (_weights(task.model) - self.origin)[self.importance > 0]
        task.record.parts["anchor"]["drift"] = drift.norm().item()


class EWC(L2SP):
    r"""Elastic weight consolidation (Kirkpatrick et al., arXiv 1612.00796, eq. 3).

    F is the diagonal of the Gauss-Newton matrix of the task's loss on force-field frames, which is
    the Fisher matrix under Gaussian noise: the penalty is ``strength`` times the rise of that loss
    to second order (its off-diagonal part left out). 1 makes the force field as important as the
    labels.

    .. code-block:: yaml

        transfer:
          anchor:
            _target_: schnetpack_tpainn.transfer.anchor.EWC
            strength: 1.0
            n_frames: 200

    Args:
        strength: factor s.
        n_frames: force-field frames to take F from; see
            :func:`~schnetpack_tpainn.transfer.frames.pretraining_frames`.
        seed: seed of the draws.

    Raises:
        TransferError: a number is not positive.
    """

    def __init__(self, strength: float = 1.0, n_frames: int = 200, seed: int = 0) -> None:
        super().__init__(strength)
        if n_frames < 1:
            raise TransferError(f"expected transfer.anchor.n_frames of 1 or more, got {n_frames}")
        self.n_frames, self.seed = n_frames, seed

    def importances(self, task: AtomisticTask, record: TransferRecord) -> Tensor:
        """Diagonal of the Gauss-Newton matrix.

        Args:
            task: the task.
            record: what the transfer did.

        Returns:
            Shape (P,).
        """
        datamodule = task.trainer.datamodule
        frames = pretraining_frames(record, datamodule, self.n_frames, self.seed, False)
        return gauss_newton(task, AtomsLoader(frames, batch_size=1), self.seed)


def gauss_newton(
    task: AtomisticTask, frames: Collection[dict[str, Tensor]], seed: int = 0
) -> Tensor:
    r"""Diagonal of the Gauss-Newton matrix of a task's loss, by random projections of the outputs.

    For the loss :math:`\sum_k w_k \langle (y_k - \hat y_k)^2 \rangle` over outputs k it is

    .. math::

        F_i = 2 \sum_k w_k \left\langle
            \left( \partial y_k / \partial \theta_i \right)^2 \right\rangle
            = 2\, \mathrm{E} \left( \partial\, u^\mathsf{T} y / \partial \theta_i \right)^2

    with normal u of the variances that the loss gives the outputs. Another loss function counts as
    the squared error with its weight. No labels are needed.

    Args:
        task: the task.
        frames: batches of one frame each.
        seed: seed of the projections, of which every frame gets one.

    Returns:
        One number per trained parameter, as ``parameters_to_vector`` orders them, shape (P,).
    """
    model, device = task.model, task.device
    parameters = _trained(model)
    total = [torch.zeros_like(p) for p in parameters]
    generator = torch.Generator().manual_seed(seed)
    outputs = [o for o in task.outputs if o.loss_fn is not None and o.loss_weight > 0]
    training = model.training
    model.train()
    try:
        bar = tqdm(frames, "Fisher diagonal", unit="frame", disable=task.global_rank != 0)
        for batch in bar:
            with torch.enable_grad():
                results = task.predict_without_postprocessing(
                    {key: value.to(device) for key, value in batch.items()}
                )
                projection = torch.zeros((), device=device)
                for output in outputs:
                    y = results[output.name]
                    u = torch.randn(y.shape, generator=generator).to(y)
                    projection = (
                        projection + (output.loss_weight / y.numel()) ** 0.5 * (u * y).sum()
                    )
                gradients = torch.autograd.grad(projection, parameters, allow_unused=True)
            for square, gradient in zip(total, gradients, strict=True):
                if gradient is not None:
                    square += gradient.square()
    finally:
        model.train(training)
    return 2 / len(frames) * parameters_to_vector(total)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in names_of(model) if p.requires_grad]


def _weights(model: nn.Module) -> Tensor:
    """All trained parameters, shape (P,)."""
    return parameters_to_vector(_trained(model))
