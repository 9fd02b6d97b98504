"""The files of a simulation: written so that a killed run can go on as if nothing had happened."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.io.trajectory import TrajectoryReader, TrajectoryWriter

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.files import claim_directory

__all__ = ["LOG_COLUMNS", "Recorder", "RestartState", "RunFiles", "read_log"]

LOG_COLUMNS = ("time_fs", "temperature_k", "epot_ev", "ekin_ev", "etot_ev", "max_force_ev_per_ang")
ARRAYS = ("positions", "momenta", "cell", "integrator")  # of a restart file


def read_log(path: str | Path) -> dict[str, np.ndarray]:
    """Columns of a ``log.csv``.

    Args:
        path: the file.

    Returns:
        Column name -> values, shape (lines,); the names carry the units.

    Raises:
        MDError: the file is missing or no log of ours.
    """
    try:
        lines = Path(path).read_text().splitlines()[1:]
        table = np.array([line.split(",") for line in lines], dtype=float)
        return dict(zip(LOG_COLUMNS, table.reshape(-1, len(LOG_COLUMNS)).T, strict=True))
    except (OSError, ValueError) as error:
        raise MDError(f"expected the log.csv of a tpainn-md run, got {path}: {error}") from error


@dataclass
class RestartState:
    """All that the future of a run depends on.

    Attributes:
        phase: ``equilibration`` or ``production``.
        step: time steps done in this phase.
        positions: Å, shape (N, 3).
        momenta: in ASE's units, shape (N, 3).
        cell: Å, shape (3, 3).
        integrator: what the integrator remembers, in ASE's units, of any shape.
        rng: state of the random-number generator.
        n_frames: frames in the trajectory.
        n_lines: lines in the log, without its head.
        n_flagged: frames that were too uncertain.
        last_flagged: time step of the last of them in this phase.
    """

    phase: str
    step: int
    positions: np.ndarray
    momenta: np.ndarray
    cell: np.ndarray
    integrator: np.ndarray
    rng: dict[str, Any]
    n_frames: int
    n_lines: int
    n_flagged: int = 0
    last_flagged: int | None = None


class RunFiles:
    """The output folder of a run.

    Args:
        folder: the folder, made if it is missing.
        content: everything that decides what a run gives, JSON-serialisable.

    Raises:
        MDError: the folder holds a run with other content, or files of something else.
    """

    def __init__(self, folder: str | Path, content: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.trajectory = self.folder / "trajectory.traj"
        self.log = self.folder / "log.csv"
        self.restart = self.folder / "restart.npz"
        self.report = self.folder / "report.json"
        self.figure = self.folder / "energy.png"
        claim_directory(self.folder, content, "run", "output", MDError)

    def load(self) -> RestartState | None:
        """State to go on from, or None when there is none yet.

        Returns:
            The state.

        Raises:
            MDError: the restart file is of an older version.
        """
        if not self.restart.is_file():
            return None
        with np.load(self.restart, allow_pickle=False) as file:
            missing = [name for name in ARRAYS if name not in file]
            if missing:
                raise MDError(
                    f"expected a restart file of this version, got {self.restart} without "
                    f"{missing}; choose another output"
                )
            arrays = {name: file[name] for name in ARRAYS}
            return RestartState(**arrays, **json.loads(str(file["scalars"])))

    def save(self, state: RestartState) -> None:
        """Replace the restart file at once.

        Args:
            state: the state; frames and lines before it have been written.
        """
        arrays = {name: getattr(state, name) for name in ARRAYS}
        scalars = {k: v for k, v in vars(state).items() if k not in ARRAYS}
        temporary = self.restart.with_name(".restart.tmp.npz")
        np.savez(temporary, **arrays, scalars=json.dumps(scalars))
        temporary.replace(self.restart)


class Recorder:
    """Appends to trajectory and log; a context manager that closes them.

    Args:
        files: the files of the run.
        n_frames: frames to keep: what came after the restart file is cut off.
        n_lines: lines to keep.
    """

    def __init__(self, files: RunFiles, n_frames: int, n_lines: int) -> None:
        self.n_frames, self.n_lines = n_frames, n_lines
        if n_frames:
            _cut_trajectory(files.trajectory, n_frames)
        _cut_log(files.log, n_lines)
        mode = "a" if n_frames else "w"
        self._writer = TrajectoryWriter(files.trajectory, mode, properties=["energy", "forces"])
        self._log = files.log.open("a")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()
        self._log.close()

    def add_frame(self, atoms: Atoms) -> None:
        """Append a frame with energy, forces and velocities to the trajectory.

        Args:
            atoms: structure whose calculator has the energy and forces.
        """
        self._writer.write(atoms)
        self.n_frames += 1

    def add_line(self, values: Sequence[float]) -> None:
        """Append a line to the log.

        Args:
            values: one value for each of ``LOG_COLUMNS``.
        """
        self._log.write(",".join(repr(float(value)) for value in values) + "\n")
        self.n_lines += 1

    def flush(self) -> None:
        """Hand the lines to the system; ASE does so with every frame."""
        self._log.flush()


def _cut_trajectory(path: Path, n_frames: int) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with TrajectoryReader(path) as old:
        if len(old) == n_frames:
            return
        with TrajectoryWriter(temporary) as new:
            for i in range(n_frames):
                new.write(old[i])
    temporary.replace(path)


def _cut_log(path: Path, n_lines: int) -> None:
    lines = [",".join(LOG_COLUMNS)]
    if n_lines:
        lines += path.read_text().splitlines()[1 : n_lines + 1]
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(path)
