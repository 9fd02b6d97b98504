"""What a ladder is made of, as the `ladder` section of the configuration says."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra.utils import to_absolute_path

from schnetpack_tpainn.errors import LadderError, refuse_unknown

__all__ = ["LadderSettings", "Rung", "Walk"]

SELECTIONS = ("random", "farthest", "kmeans")


@dataclass(frozen=True)
class Walk:
    """Dynamics with the model of the rung before, from which a rung takes its frames.

    Attributes:
        temperatures_k: temperatures in K.
        n_trajectories: trajectories at each, from random frames of the rung before.
        duration_ps: length of each in ps.
        interval_fs: time between frames in fs.
        timestep_fs: time step in fs.
        max_force_ev_per_ang: a trajectory ends before the first larger force, in eV/Å.
    """

    temperatures_k: tuple[float, ...] = (300.0, 450.0, 600.0)
    n_trajectories: int = 2
    duration_ps: float = 5.0
    interval_fs: float = 20.0
    timestep_fs: float = 0.5
    max_force_ev_per_ang: float = 50.0


@dataclass(frozen=True)
class Rung:
    """One teacher.

    Attributes:
        name: its name.
        calculator: Hydra node of its ASE calculator; None for the first rung, whose frames and
            labels the experiment's own data source makes.
        n_frames: frames to label; all of the rung before when None.
        select: which: ``random``, or ``farthest`` or ``kmeans`` in the representation of the rung
            before.
        walk: sample them with the model of the rung before; None: take them from its data.
        max_failed: share of the frames that may fail.
        steps: optimiser steps; the experiment's when None.
        lr: learning rate; the experiment's when None.
        overrides: anything else, as on the command line.
    """

    name: str
    calculator: Mapping[str, Any] | None = None
    n_frames: int | None = None
    select: str = "random"
    walk: Walk | None = None
    max_failed: float = 0.02
    steps: int | None = None
    lr: float | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class LadderSettings:
    """A checked ``ladder`` section; ``configs/transfer/ladder/xtb.yaml`` describes its keys.

    Attributes:
        directory: where everything goes.
        rungs: from cheap to dear.
        tune: overrides of a tuning that is run from every rung, to say what each is worth; None
            for none.
        seed: of choices and dynamics.
        parallel: tunings at once on this machine; None: one per core.
    """

    directory: Path
    rungs: tuple[Rung, ...]
    tune: tuple[str, ...] | None = None
    seed: int = 0
    parallel: int | None = None

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> "LadderSettings":
        """Check a ``ladder`` section.

        Args:
            node: the section, plain.

        Returns:
            The settings.

        Raises:
            LadderError: a key is not known, or a value makes no sense.
        """
        refuse_unknown(node, _keys(cls), "ladder", LadderError)
        content = {name: c for name, c in (node.get("rungs") or {}).items() if c is not None}
        if len(content) < 2:
            raise LadderError(f"expected two rungs or more in ladder.rungs, got {[*content]}")
        rungs = tuple(_rung(str(name), c, k) for k, (name, c) in enumerate(content.items()))
        tune = node.get("tune")
        if tune is not None and not any(str(o).startswith("experiment=") for o in tune):
            raise LadderError(f"expected ladder.tune to name an experiment=, got {tune}")
        parallel = node.get("parallel")
        if parallel is not None and (not isinstance(parallel, int) or parallel < 1):
            raise LadderError(f"expected ladder.parallel of 1 or more, or null, got {parallel}")
        return cls(
            directory=Path(to_absolute_path(str(Path(node["directory"]).expanduser()))),
            rungs=rungs,
            tune=None if tune is None else tuple(map(str, tune)),
            seed=int(node.get("seed") or 0),
            parallel=parallel,
        )


def _rung(name: str, content: Mapping[str, Any], place: int) -> Rung:
    where = f"ladder.rungs.{name}"
    refuse_unknown(content, _keys(Rung), where, LadderError)
    values = dict(content)
    if (walk := values.get("walk")) is not None:
        refuse_unknown(walk, _keys(Walk), f"{where}.walk", LadderError)
        plain: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in walk.items()}
        values["walk"] = Walk(**plain)
        _refuse_small(values["walk"], f"{where}.walk")
    values["overrides"] = tuple(map(str, values.get("overrides") or ()))
    rung = Rung(name=name, **{k: v for k, v in values.items() if v is not None})
    if place == 0 and (rung.calculator or rung.n_frames or rung.walk):
        raise LadderError(
            f"{where} is the first rung, which data/source= and its keys describe; drop its "
            "calculator, n_frames and walk"
        )
    if place > 0 and (
        not isinstance(rung.calculator, Mapping) or "_target_" not in rung.calculator
    ):
        raise LadderError(
            f"expected {where}.calculator with the _target_ of an ASE calculator, got "
            f"{rung.calculator}"
        )
    if rung.select not in SELECTIONS:
        raise LadderError(f"expected {where}.select of {SELECTIONS}, got {rung.select!r}")
    for key in ("n_frames", "steps", "lr"):
        value = getattr(rung, key)
        if value is not None and not value > 0:
            raise LadderError(f"expected {where}.{key} above 0, got {value}")
    if not 0 <= rung.max_failed < 1:
        raise LadderError(f"expected {where}.max_failed from 0 to below 1, got {rung.max_failed}")
    return rung


def _refuse_small(walk: Walk, where: str) -> None:
    for key, value in vars(walk).items():
        values = value if isinstance(value, tuple) else (value,)
        if not values or not all(v > 0 for v in values):
            raise LadderError(f"expected {where}.{key} above 0, got {value}")


def _keys(kind: type) -> list[str]:
    return [f.name for f in fields(kind) if f.name != "name"]
