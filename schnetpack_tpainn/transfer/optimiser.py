"""Optimiser and scheduler with one group for each factor on the learning rate."""

from collections.abc import Mapping, Sequence
from typing import Any

from schnetpack import AtomisticTask
from torch import nn

__all__ = ["configure", "grouped", "scaled_rates"]

RATES = ("max_lr", "base_lr", "min_lr")  # scheduler arguments that take a list, one per group


def grouped(factors: Mapping[nn.Parameter, float], lr: float) -> list[dict[str, Any]]:
    """Groups of an optimiser.

    Args:
        factors: parameter -> factor on the learning rate.
        lr: the learning rate.

    Returns:
        One group for each factor, with keys ``params``, ``lr`` and ``factor``.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter, factor in factors.items():
        groups.setdefault(factor, []).append(parameter)
    return [{"params": p, "lr": lr * f, "factor": f} for f, p in groups.items()]


def scaled_rates(arguments: Mapping[str, Any], factors: Sequence[float]) -> dict[str, Any]:
    """Give a scheduler its learning rates group by group.

    Args:
        arguments: the scheduler's keyword arguments.
        factors: factor of each group.

    Returns:
        The arguments, with one number per group for ``max_lr``, ``base_lr`` and ``min_lr``.
    """
    scaled = dict(arguments)
    for name in RATES:
        if isinstance(scaled.get(name), int | float):
            scaled[name] = [scaled[name] * f for f in factors]
    return scaled


def configure(task: AtomisticTask, factors: Mapping[nn.Parameter, float], interval: str) -> Any:
    """Build the optimiser and the scheduler that a task was given.

    Args:
        task: SchNetPack's task.
        factors: parameter -> factor on the learning rate, for those that are trained.
        interval: the scheduler moves every ``step``, or as in SchNetPack (``epoch``).

    Returns:
        Lightning's optimiser configuration.
    """
    groups = grouped(factors, task.lr)
    optimizer = task.optimizer_cls(groups, **task.optimizer_kwargs)
    if task.scheduler_cls is None:
        return optimizer
    arguments = scaled_rates(task.scheduler_kwargs, [g["factor"] for g in groups])
    schedule: dict[str, Any] = {
        "scheduler": task.scheduler_cls(optimizer, **arguments),
        "name": "lr_schedule",
    }
    if task.schedule_monitor:
        schedule["monitor"] = task.schedule_monitor
    if interval == "step":
        schedule |= {"interval": "step", "frequency": 1}
    elif task.trainer.val_check_interval > 1.0:  # as SchNetPack: at every validation
        schedule |= {"interval": "step", "frequency": task.trainer.val_check_interval}
    return [optimizer], [schedule]
