"""Optimiser with one group for each factor on the learning rate, in every schedule."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from schnetpack import AtomisticTask
from torch import nn

from schnetpack_tpainn.errors import TransferError

__all__ = ["GroupedTask"]


@contextmanager
def unscaled(optimizer: Any) -> Iterator[None]:
    """Take the factors off an optimiser's learning rates for a while.

    What sets learning rates meanwhile, be it a scheduler or a warm-up, gives all groups the same;
    with the factors on again they keep their ratios, whatever it computes.

    Args:
        optimizer: one that :class:`GroupedTask` built.

    Yields:
        None: the optimiser is changed in place.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["common_lr"]
    yield
    for group in optimizer.param_groups:
        group["common_lr"] = group["lr"]
        group["lr"] *= group["factor"]


class GroupedTask(AtomisticTask):
    """SchNetPack's task with a factor on the learning rate of every parameter.

    Optimiser, scheduler and warm-up are those that the task was given; each distinct factor makes a
    group with keys ``factor`` and ``common_lr``, the learning rate without it.
    """

    scheduler_interval: str  # the scheduler moves every `step`, or as in SchNetPack (`epoch`)

    def factors(self) -> Mapping[nn.Parameter, float]:
        """Factors on the learning rate, 1 unless a subclass says otherwise.

        Returns:
            Parameter -> factor, for those that are trained.
        """
        return {p: 1.0 for p in self.parameters() if p.requires_grad}

    def configure_optimizers(self) -> Any:
        """Build optimiser and scheduler.

        Returns:
            Lightning's optimiser configuration.

        Raises:
            TransferError: the scheduler's interval is none of its choices.
        """
        if self.scheduler_interval not in ("step", "epoch"):
            raise TransferError(
                f"expected task.scheduler_interval step or epoch, got {self.scheduler_interval!r}"
            )
        members: dict[float, list[nn.Parameter]] = {}
        for parameter, factor in self.factors().items():
            members.setdefault(factor, []).append(parameter)
        groups = [{"params": p, "factor": f, "common_lr": self.lr} for f, p in members.items()]
        optimizer = self.optimizer_cls(groups, **self.optimizer_kwargs)
        with unscaled(optimizer):
            build = self.scheduler_cls
            scheduler = None if build is None else build(optimizer, **self.scheduler_kwargs)
        if scheduler is None:
            return optimizer
        schedule: dict[str, Any] = {"scheduler": scheduler, "name": "lr_schedule"}
        if self.schedule_monitor:
            schedule["monitor"] = self.schedule_monitor
        if self.scheduler_interval == "step":
            schedule |= {"interval": "step", "frequency": 1}
        elif self.trainer.val_check_interval > 1.0:  # as SchNetPack: at every validation
            schedule |= {"interval": "step", "frequency": self.trainer.val_check_interval}
        return [optimizer], [schedule]

    def optimizer_step(
        self,
        epoch: int | None = None,
        batch_idx: int | None = None,
        optimizer: Any = None,
        optimizer_closure: Any = None,
    ) -> None:
        """A step; during warm-up every group keeps its factor.

        Args:
            epoch: number of the epoch.
            batch_idx: number of the batch.
            optimizer: the optimiser.
            optimizer_closure: computes loss and gradients.
        """
        if self.global_step < self.warmup_steps:
            with unscaled(optimizer):
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * (self.global_step + 1) / self.warmup_steps
        optimizer.step(closure=optimizer_closure)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """A step of the scheduler; every group keeps its factor.

        Args:
            scheduler: the scheduler.
            metric: what a plateau scheduler watches.
        """
        with unscaled(scheduler.optimizer):
            super().lr_scheduler_step(scheduler, metric)
