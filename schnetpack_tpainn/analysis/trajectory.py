"""Trajectories as arrays, from ``tpainn-md`` or from any file that ASE reads."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from ase.io import iread
from ase.io.trajectory import TrajectoryReader
from ase.symbols import Symbols
from tqdm import tqdm

from schnetpack_tpainn.data.liquid import GRAM_PER_CM3
from schnetpack_tpainn.data.structures import read_frames
from schnetpack_tpainn.errors import AnalysisError, TPaiNNError

__all__ = ["RunRecord", "Trajectory", "read_trajectory"]

TRAJECTORY = "trajectory.traj"  # in the output folder of tpainn-md
STRAIN = 1e-6  # relative change of a cell that counts as one


@dataclass(frozen=True)
class RunRecord:
    """What ``tpainn-md`` wrote beside a trajectory.

    Attributes:
        ensemble: its name and settings.
        status: ``finished``, ``stopped`` or ``unfinished``.
        reason: why it was stopped, or None.
        survival_ps: simulated time in ps; None while unfinished.
        log: columns of ``log.csv``, units in their names, shape (lines,) each.
    """

    ensemble: Mapping[str, Any]
    status: str
    reason: str | None
    survival_ps: float | None
    log: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Trajectory:
    """Frames of one composition at equal intervals.

    Attributes:
        label: name in tables and figures.
        source: where it was read from.
        numbers: atomic numbers, shape (N,).
        masses: masses in u, shape (N,).
        positions: Å, wrapped into the cell or not, shape (T, N, 3).
        cells: cell vectors in Å, as rows, shape (T, 3, 3).
        pbc: periodic directions, shape (3,).
        interval_fs: time between frames in fs.
        start_ps: time of the first frame in ps.
        temperatures_k: from the velocities, all 3N degrees of freedom counted, in K, shape (T,);
            None where the file has none.
        run: record of ``tpainn-md``; None for other files.
    """

    label: str
    source: str
    numbers: np.ndarray
    masses: np.ndarray
    positions: np.ndarray
    cells: np.ndarray
    pbc: np.ndarray
    interval_fs: float
    start_ps: float = 0.0
    temperatures_k: np.ndarray | None = None
    run: RunRecord | None = None

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.positions)

    @property
    def times_ps(self) -> np.ndarray:
        """Times of the frames in ps, shape (T,)."""
        return self.start_ps + np.arange(self.n_frames) * self.interval_fs / 1000

    @property
    def duration_ps(self) -> float:
        """Time from the first to the last frame in ps."""
        return (self.n_frames - 1) * self.interval_fs / 1000

    @property
    def formula(self) -> str:
        """Chemical formula of a frame."""
        return str(Symbols(self.numbers).get_chemical_formula())

    @property
    def volumes(self) -> np.ndarray:
        """Volumes in Å³, shape (T,).

        Raises:
            AnalysisError: the trajectory is not periodic in three directions.
        """
        volumes = np.abs(np.linalg.det(self.cells))
        if not self.pbc.all() or not (volumes > 0).all():
            raise AnalysisError(
                "expected frames that are periodic in three directions, got "
                f"pbc = {self.pbc.tolist()}; only a box has a volume"
            )
        return np.asarray(volumes)

    @property
    def densities(self) -> np.ndarray:
        """Densities in g/cm³, shape (T,).

        Raises:
            AnalysisError: the trajectory is not periodic in three directions.
        """
        return np.asarray(self.masses.sum() / self.volumes * GRAM_PER_CM3)

    @property
    def box_changes(self) -> bool:
        """Whether the cell is not that of the first frame throughout."""
        return not np.allclose(
            self.cells, self.cells[0], rtol=STRAIN, atol=STRAIN * np.abs(self.cells[0]).max()
        )

    def frame(self, t: int) -> Atoms:
        """One frame as ASE's atoms.

        Args:
            t: its number.

        Returns:
            The structure.
        """
        return Atoms(self.numbers, self.positions[t], cell=self.cells[t], pbc=self.pbc)


def read_trajectory(
    source: str | Path,
    label: str | None = None,
    interval_fs: float | None = None,
    skip_ps: float = 0.0,
    every: int = 1,
) -> Trajectory:
    """Read a trajectory.

    Args:
        source: output folder of ``tpainn-md``, its trajectory, or a file that ASE reads.
        label: name in tables and figures; that of folder or file when None.
        interval_fs: time between the frames of the file in fs; ``tpainn-md`` records it.
        skip_ps: leave out this time at the beginning, in ps.
        every: take every so many frames.

    Returns:
        The trajectory.

    Raises:
        AnalysisError: no trajectory, fewer than two frames, no interval, or frames of other
            composition or periodicity than the first.
    """
    path = Path(source)
    file = path / TRAJECTORY if path.is_dir() else path
    if not file.is_file():
        raise AnalysisError(
            f"expected the output folder of tpainn-md, with {TRAJECTORY}, or a file that ASE "
            f"reads, got {source}"
        )
    settings = _settings(file)
    interval = _interval(file, settings, interval_fs)
    if every < 1 or not 0 <= skip_ps < np.inf:
        raise AnalysisError(f"expected every >= 1 and skip_ps >= 0, got {every} and {skip_ps}")
    first = int(np.ceil(1000 * skip_ps / interval - 1e-9))
    arrays = _collect(file, first, every)
    name = path.name if path.is_dir() or settings is None else file.absolute().parent.name
    return Trajectory(
        label=label or (name if settings is not None else path.stem),
        source=str(source),
        interval_fs=interval * every,
        start_ps=first * interval / 1000,
        run=None if settings is None else _record(file.parent, settings, skip_ps),
        **arrays,
    )


def _settings(file: Path) -> dict[str, Any] | None:
    """Settings of the run that a trajectory is of; None for other files."""
    mark = file.with_name("settings.json")
    if file.name != TRAJECTORY or not mark.is_file():
        return None
    try:
        settings = json.loads(mark.read_text("utf-8"))
        ours = {"timestep_fs", "trajectory_interval", "ensemble"} <= settings.keys()
    except (ValueError, AttributeError):
        return None
    return settings if ours else None


def _interval(file: Path, settings: Mapping[str, Any] | None, given: float | None) -> float:
    if settings is not None:
        return float(settings["timestep_fs"] * settings["trajectory_interval"])
    if given is None:
        raise AnalysisError(
            f"expected the time between frames, which {file} does not hold; give --interval-fs"
        )
    if not 0 < given < np.inf:
        raise AnalysisError(f"expected a time between frames above 0 fs, got {given}")
    return float(given)


def _record(folder: Path, settings: Mapping[str, Any], skip_ps: float) -> RunRecord:
    from schnetpack_tpainn.md.output import read_log

    log = read_log(folder / "log.csv")
    kept = log["time_fs"] >= 1000 * skip_ps - 1e-6
    path = folder / "report.json"
    report = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return RunRecord(
        ensemble=settings["ensemble"],
        status=report.get("status", "unfinished"),
        reason=report.get("reason"),
        survival_ps=report.get("survival_ps"),
        log={name: column[kept] for name, column in log.items()},
    )


def _frames(file: Path) -> Iterator[Atoms]:
    if file.suffix == ".db":
        yield from read_frames(file)
        return
    total = None
    if file.suffix == ".traj":
        with TrajectoryReader(file) as reader:
            total = len(reader)
    yield from tqdm(iread(file, index=":"), f"{file}", total, unit="frame", disable=None)


def _collect(file: Path, first: int, every: int) -> dict[str, Any]:
    """Arrays of a :class:`Trajectory`."""
    start: Atoms | None = None
    positions, cells, temperatures = [], [], []
    n_read = 0
    try:
        for n_read, frame in enumerate(_frames(file), 1):
            start = start or frame
            _check(frame, start, n_read - 1, file)
            if n_read > first and (n_read - 1 - first) % every == 0:
                positions.append(frame.get_positions())
                cells.append(frame.cell.array if frame.pbc.all() else complete_cell(frame.cell))
                if frame.has("momenta"):
                    temperatures.append(frame.get_temperature())
    except TPaiNNError:
        raise
    except Exception as error:  # ASE's readers raise anything
        raise AnalysisError(f"ASE cannot read frame {n_read} of {file}: {error}") from error
    if start is None or len(positions) < 2:
        raise AnalysisError(
            f"expected at least two frames of a trajectory, got {len(positions)} of the {n_read} "
            f"in {file}; skip less or run longer"
        )
    return {
        "numbers": start.numbers,
        "masses": start.get_masses(),
        "positions": np.array(positions),
        "cells": np.array(cells),
        "pbc": start.pbc,
        "temperatures_k": np.array(temperatures) if len(temperatures) == len(positions) else None,
    }


def _check(frame: Atoms, start: Atoms, number: int, file: Path) -> None:
    if not np.array_equal(frame.numbers, start.numbers):
        raise AnalysisError(
            f"expected the atoms of the first frame ({start.get_chemical_formula()}) in the same "
            f"order in all frames of {file}, got {frame.get_chemical_formula()} in frame {number}; "
            "a trajectory is of one system"
        )
    if not np.array_equal(frame.pbc, start.pbc):
        raise AnalysisError(
            f"expected pbc = {start.pbc.tolist()} as in the first frame of {file}, got "
            f"{frame.pbc.tolist()} in frame {number}"
        )
    if not frame.cell.any(axis=1)[frame.pbc].all():
        raise AnalysisError(
            f"expected cell vectors in the directions of pbc = {frame.pbc.tolist()}, got none in "
            f"frame {number} of {file}"
        )
    if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell.array).all()):
        raise AnalysisError(f"expected finite positions, got NaN in frame {number} of {file}")
