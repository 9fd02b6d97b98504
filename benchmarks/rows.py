"""The rows: what ``--rows`` names, and what measures each."""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import dynamics, energy, epoch, peers, startup, training
from benchmarks.timing import Settings, Work

__all__ = ["PROFILED", "ROWS"]

Row = Callable[[Settings], dict[str, Any]]
ROWS: dict[str, Row] = {
    **{f"energy-{n}": partial(energy.run, n) for n in energy.SIZES},
    **{f"train-{n}": partial(training.run, n) for n in training.BATCHES},
    **{f"epoch-{n}": partial(epoch.run, n) for n in epoch.BATCHES},
    **{f"md-{n}": partial(dynamics.run, n) for n in dynamics.SIZES},
    "help": startup.run,
    **{f"peers-{n}": partial(peers.run, n) for n in peers.SIZES},
}

# Row -> the work of one model, for the profiler.
PROFILED: dict[str, Callable[[str, str], Work]] = {
    f"{kind}-{n}": lambda model, device, n=n, works=works: works([model], n, device)[model]
    for kind, works, sizes in (
        ("energy", energy.works, energy.SIZES),
        ("train", training.works, training.BATCHES),
        ("md", dynamics.works, dynamics.SIZES),
    )
    for n in sizes
}
