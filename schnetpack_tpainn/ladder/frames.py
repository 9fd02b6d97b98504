"""The frames that a rung labels: chosen from the rung before, or walked to with its model."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from ase import Atoms

from schnetpack_tpainn.data.store import fingerprint
from schnetpack_tpainn.data.structures import identity, read_frames, write_frames
from schnetpack_tpainn.errors import LadderError
from schnetpack_tpainn.ladder.settings import Rung, Walk
from schnetpack_tpainn.md import NVT, MDSettings, TPaiNNCalculator, run_md
from schnetpack_tpainn.md.guard import ExplosionError, Limits
from schnetpack_tpainn.selection.select import SelectionSettings, select
from schnetpack_tpainn.transfer.portable import PORTABLE_NAME

__all__ = ["frames_to_label"]

log = logging.getLogger(__name__)


def frames_to_label(rung: Rung, pool: Path, before: Path, place: Path, seed: int) -> Path:
    """File with the frames of a rung, made once.

    Args:
        rung: the rung.
        pool: data set of the rung before.
        before: run directory of the rung before.
        place: folder for what is made.
        seed: of choice and dynamics.

    Returns:
        The pool itself where the rung takes a random choice of it, or all; else an extended-XYZ
        file of the frames that its model walked to or selected. Refuses with ``SelectionError`` a
        pool that is too small.
    """
    model = before / PORTABLE_NAME
    chosen = rung.select != "random" and rung.n_frames is not None
    if rung.walk is None and not chosen:
        return pool
    what = {
        "walk": None if rung.walk is None else asdict(rung.walk),
        "choice": [rung.select, rung.n_frames] if chosen else None,
        "seed": seed,
        "model": identity(str(model)),
    }
    folder = place / f"{rung.name}_{fingerprint(what)}"
    made = folder / "frames.extxyz"
    if made.exists():
        return made
    folder.mkdir(exist_ok=True)
    frames = read_frames(pool)
    if rung.walk is not None:
        frames = walk(rung.walk, frames, model, folder, seed)
    if chosen:
        settings = SelectionSettings(rung.n_frames or 0, rung.select, seed)
        frames = select(frames, settings, [model]).frames
    write_frames(made, frames)
    return made


def walk(
    settings: Walk, starts: Sequence[Atoms], model: Path, folder: Path, seed: int
) -> list[Atoms]:
    """Frames of guarded Langevin dynamics with a model; killed work goes on.

    A trajectory that blows up, by a force beyond the limit, atoms that meet or a structure that
    comes apart, ends there: its frames up to then are kept.

    Args:
        settings: how to walk.
        starts: structures (Å), from which each trajectory draws its start.
        model: portable file of the model.
        folder: a folder for every trajectory's files.
        seed: of starts, velocities and noise.

    Returns:
        Structures (Å), without the start of each trajectory.

    Raises:
        LadderError: no trajectory gave a frame.
    """
    calculator = TPaiNNCalculator(model)
    stride = max(1, round(settings.interval_fs / settings.timestep_fs))
    rng = np.random.default_rng(seed)
    frames: list[Atoms] = []
    lost = 0
    n = settings.n_trajectories
    for temperature in settings.temperatures_k:
        for k in range(n):
            start = starts[int(rng.integers(len(starts)))]
            dynamics = MDSettings(
                ensemble=NVT(),
                duration_ps=settings.duration_ps,
                timestep_fs=settings.timestep_fs,
                temperature_k=temperature,
                seed=seed + k,
                trajectory_interval=stride,
                limits=Limits(max_force_ev_per_ang=settings.max_force_ev_per_ang),
            )
            place = folder / f"{temperature:g}K_{k}"
            try:
                run_md(dynamics, start, calculator, place)
            except ExplosionError as error:
                lost += 1
                log.warning("%s; its frames up to then are kept", error)
            frames += _trajectory(place / "trajectory.traj", start)
    if not frames:
        raise LadderError(
            f"expected frames of dynamics with {model}, all {lost} trajectories blew up at once; "
            "train the rung before for longer, shorten timestep_fs, or lower temperatures_k"
        )
    if lost:
        log.warning("%d of %d trajectories blew up", lost, n * len(settings.temperatures_k))
    return frames


def _trajectory(path: Path, start: Atoms) -> list[Atoms]:
    """Frames of a trajectory but its first, with the start's charge and SMILES string."""
    if not path.is_file():
        return []
    kept = {k: v for k, v in start.info.items() if k in ("smiles", "total_charge")}
    frames = read_frames(path)[1:]
    for frame in frames:
        frame.calc, frame.info = None, dict(kept)
    return frames
