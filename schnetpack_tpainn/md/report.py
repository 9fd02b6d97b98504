"""The result of a run, and the report that keeps it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.files import write_json
from schnetpack_tpainn.md.analyse import EnergyDrift, energy_drift
from schnetpack_tpainn.md.guard import StoppedError
from schnetpack_tpainn.md.output import RunFiles, read_log
from schnetpack_tpainn.md.plot import plot_energies
from schnetpack_tpainn.md.simulation import Simulation

__all__ = ["MDResult", "read_finished", "write_report"]

MIN_LINES = 3  # of the log, for a straight line to mean anything


@dataclass(frozen=True)
class MDResult:
    """What a run gave; all but the paths is in ``report.json`` too.

    Attributes:
        folder: the output folder.
        trajectory: ASE trajectory with energies, forces and velocities.
        log: CSV with energies and temperature over time; :func:`schnetpack_tpainn.md.read_log`
            reads it.
        report: ``report.json``.
        figure: ``energy.png``.
        survival_ps: simulated time in ps.
        mean_temperature_k: mean temperature in K; None if nothing was recorded.
        steps_per_s: time steps per second of wall time, in the process that ended the run.
        drift: drift of the total energy; None where the ensemble does not conserve it, or the log
            has fewer than three lines.
        n_uncertain: frames in ``uncertain.extxyz``; None where nothing was watched.
    """

    folder: Path
    trajectory: Path
    log: Path
    report: Path
    figure: Path
    survival_ps: float
    mean_temperature_k: float | None
    steps_per_s: float | None
    drift: EnergyDrift | None
    n_uncertain: int | None = None


def _result(files: RunFiles, report: Mapping[str, Any]) -> MDResult:
    drift = report["drift"]
    return MDResult(
        folder=files.folder,
        trajectory=files.trajectory,
        log=files.log,
        report=files.report,
        figure=files.figure,
        survival_ps=report["survival_ps"],
        mean_temperature_k=report["mean_temperature_k"],
        steps_per_s=report["steps_per_s"],
        drift=None if drift is None else EnergyDrift(**drift),
        n_uncertain=report.get("n_uncertain"),
    )


def read_finished(files: RunFiles) -> MDResult | None:
    """Result of a run that was finished before.

    Args:
        files: its files.

    Returns:
        The result, or None if the run is not finished.
    """
    if not files.report.is_file():
        return None
    report = json.loads(files.report.read_text())
    return _result(files, report) if report["status"] == "finished" else None


def write_report(
    simulation: Simulation, content: Mapping[str, Any], stopped: StoppedError | None
) -> MDResult:
    """Write ``report.json`` and ``energy.png``.

    Args:
        simulation: the simulation, finished or stopped.
        content: what decided the run, for the record.
        stopped: why it ended early, or None.

    Returns:
        The result.
    """
    files, atoms, settings = simulation.files, simulation.atoms, simulation.settings
    columns = read_log(files.log)
    n_lines = len(columns["time_fs"])
    drift = None
    if settings.ensemble.conserves_energy and n_lines >= MIN_LINES:
        drift = energy_drift(columns["time_fs"], columns["etot_ev"], len(atoms))
    report = {
        "status": "finished" if stopped is None else "stopped",
        "reason": None if stopped is None else str(stopped),
        "structure": atoms.get_chemical_formula(),
        "n_atoms": len(atoms),
        "survival_ps": simulation.production_ps,
        "mean_temperature_k": float(columns["temperature_k"].mean()) if n_lines else None,
        "degrees_of_freedom": simulation.degrees_of_freedom,
        "steps_per_s": simulation.steps_per_s,
        "drift": None if drift is None else asdict(drift),
        "run": dict(content),
        "versions": software_versions(),
    }
    if settings.uncertainty.max_force_std_ev_per_ang is not None:
        report["n_uncertain"] = simulation.watch.n_flagged
    if n_lines:
        plot_energies(columns, len(atoms), files.figure, drift)
    write_json(files.report, report)
    return _result(files, report)
