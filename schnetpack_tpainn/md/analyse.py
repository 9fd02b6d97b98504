"""What a trajectory says about the model: energy conservation, and agreement with a reference."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.db import connect
from ase.io.trajectory import TrajectoryReader

from schnetpack_tpainn.data.label import label_frames
from schnetpack_tpainn.data.store import fingerprint
from schnetpack_tpainn.errors import MDError

__all__ = ["Comparison", "EnergyDrift", "compare_with_reference", "energy_drift"]


@dataclass(frozen=True)
class EnergyDrift:
    """How well a trajectory conserves its total energy.

    Attributes:
        slope_mev_per_atom_per_ps: slope of the straight line fitted to the total energy.
        rms_mev_per_atom: root mean square deviation from that line.
    """

    slope_mev_per_atom_per_ps: float
    rms_mev_per_atom: float


def energy_drift(time_fs: np.ndarray, etot_ev: np.ndarray, n_atoms: int) -> EnergyDrift:
    """Linear drift of the total energy, and the fluctuation around it.

    Args:
        time_fs: times in fs, shape (T,).
        etot_ev: total energies in eV, shape (T,).
        n_atoms: number of atoms.

    Returns:
        The drift.

    Raises:
        MDError: fewer than three different times.
    """
    if len(np.unique(time_fs)) < 3:
        raise MDError(
            f"expected at least 3 times for a drift, got {len(np.unique(time_fs))}; "
            "run longer or shorten log_interval"
        )
    time = (time_fs - np.mean(time_fs)) / 1000  # ps
    energy = (etot_ev - np.mean(etot_ev)) * 1000 / n_atoms  # meV/atom; the mean would cost digits
    slope = float(time @ energy / (time @ time))
    rms = float(np.sqrt(np.mean((energy - slope * time) ** 2)))
    return EnergyDrift(slope, rms)


@dataclass(frozen=True)
class Comparison:
    """A model's energies and forces against a reference's, on frames of the model's trajectory.

    Attributes:
        n_frames: frames that were compared.
        n_failed: frames for which the reference gave nothing.
        energy_offset_mev: mean of model minus reference energy, per structure.
        energy_mae_mev: mean absolute energy difference, per structure.
        energy_mae_centred_mev: the same after the mean difference is taken away.
        force_mae_mev_per_ang: mean absolute difference of the force components.
        force_rmse_mev_per_ang: root mean square difference of the force components.
        reference: database with the reference labels.
    """

    n_frames: int
    n_failed: int
    energy_offset_mev: float
    energy_mae_mev: float
    energy_mae_centred_mev: float
    force_mae_mev_per_ang: float
    force_rmse_mev_per_ang: float
    reference: str


def _evenly_spaced(trajectory: Path, n_frames: int) -> list[Atoms]:
    if n_frames < 1:
        raise MDError(f"expected n_frames >= 1, got {n_frames}")
    try:
        with TrajectoryReader(trajectory) as frames:
            indices = np.unique(np.linspace(0, len(frames) - 1, n_frames).round().astype(int))
            return [frames[int(i)] for i in indices]
    except (OSError, IndexError) as error:
        raise MDError(
            f"expected an ASE trajectory with frames, got {trajectory}: {error}"
        ) from error


def _bare(frame: Atoms, number: int) -> Atoms:
    """The structure alone, with its number and, for force fields, its SMILES."""
    info = {k: v for k, v in frame.info.items() if k == "smiles"} | {"frame_of_run": number}
    return Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc, info=info)


def compare_with_reference(
    trajectory: str | Path,
    calculator: Mapping[str, Any],
    n_frames: int = 20,
    n_workers: int | None = None,
) -> Comparison:
    """Label frames of a trajectory with a reference method and compare.

    The labels stay beside the trajectory as ``reference-<hash>.db``: a second call reads them, a
    killed one goes on. They are made in spawned processes, so a script that calls this
    needs the usual ``if __name__ == "__main__":``.

    Args:
        trajectory: ``trajectory.traj`` of a run, with the model's energies (eV) and forces (eV/Å).
        calculator: Hydra node of the reference's ASE calculator, such as
            ``{"_target_": "schnetpack_tpainn.data.pyscf.PySCF", "basis": "def2-svp"}``.
        n_frames: number of frames, evenly spaced, first and last included.
        n_workers: processes to label with; all cores when None.

    Returns:
        The differences.

    Raises:
        MDError: the trajectory has no frames, or the reference failed on every one of them.
        LabelError: the reference calculator cannot be built.
    """
    trajectory = Path(trajectory)
    frames = _evenly_spaced(trajectory, n_frames)
    bare = [_bare(frame, i) for i, frame in enumerate(frames)]
    content = {"calculator": dict(calculator), "frames": [a.positions.tolist() for a in bare]}
    database = trajectory.with_name(f"reference-{fingerprint(content)}.db")
    if not database.is_file():
        label_frames(bare, calculator, database, n_workers=n_workers)
    if not database.is_file():
        raise MDError(
            f"the reference calculator {calculator.get('_target_')} failed on all of {len(bare)} "
            f"frames; its messages are in {database.with_suffix('.failed.extxyz')}"
        )
    rows = list(connect(str(database), use_lock_file=False).select())
    energy = np.array([frames[r.frame_of_run].get_potential_energy() for r in rows])
    forces = np.array([frames[r.frame_of_run].get_forces() for r in rows])  # (K, N, 3)
    energy_error = 1000 * (energy - np.array([float(r.data["energy"][0]) for r in rows]))  # meV
    force_error = 1000 * (forces - np.array([r.data["forces"] for r in rows]))  # meV/Å
    return Comparison(
        n_frames=len(rows),
        n_failed=len(frames) - len(rows),
        energy_offset_mev=float(energy_error.mean()),
        energy_mae_mev=float(np.abs(energy_error).mean()),
        energy_mae_centred_mev=float(np.abs(energy_error - energy_error.mean()).mean()),
        force_mae_mev_per_ang=float(np.abs(force_error).mean()),
        force_rmse_mev_per_ang=float(np.sqrt(np.mean(force_error**2))),
        reference=str(database),
    )
