"""Run molecular dynamics with any ASE calculator: resumable, guarded, reported."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError

from schnetpack_tpainn.data.store import fingerprint
from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md.ensembles import Ensemble
from schnetpack_tpainn.md.guard import StoppedError
from schnetpack_tpainn.md.output import RunFiles
from schnetpack_tpainn.md.report import MDResult, read_finished, write_report
from schnetpack_tpainn.md.settings import MDSettings
from schnetpack_tpainn.md.simulation import Simulation

__all__ = ["run_md"]

PARTS = ("numbers", "positions", "cell", "pbc", "masses")

log = logging.getLogger(__name__)


def run_md(
    settings: MDSettings,
    atoms: Atoms,
    calculator: Calculator,
    output: str | Path,
    provenance: Mapping[str, Any] | None = None,
) -> MDResult:
    """Run molecular dynamics, or go on with a run that was killed.

    A resumed run gives what an unbroken one gives: the restart file holds positions, momenta and
    the state of the random numbers (on a GPU, up to its rounding, as sums there have no fixed
    order). A finished run is not repeated; its result is read.

    .. code-block:: python

        from schnetpack_tpainn.md import MDSettings, TPaiNNCalculator, read_structure, run_md

        calculator = TPaiNNCalculator("runs/autotuned/best_model")
        settings = MDSettings(duration_ps=10, equilibration_ps=1)
        result = run_md(settings, read_structure("CCO"), calculator, "runs/md")

    Args:
        settings: ensemble, duration, time step and so on.
        atoms: start structure (Å); left as it is, and its velocities are not used.
        calculator: any ASE calculator with energy and forces.
        output: folder for ``trajectory.traj``, ``log.csv``, ``restart.npz``, ``report.json``,
            ``energy.png`` and ``settings.json``.
        provenance: what else decides the result and must not change on resuming,
            JSON-serialisable. A :class:`~schnetpack_tpainn.md.TPaiNNCalculator` adds its model.

    Returns:
        Paths, speed and energy drift.

    Raises:
        MDError: the structure or the settings cannot be run, or ``output`` holds something else.
        StoppedError: the dynamics blew up, or an ensemble is no longer sure of the forces; the
            outputs up to then are complete, and the report says why.
    """
    settings.uncertainty.check_calculator(calculator)
    start = _checked(atoms, settings.ensemble)
    content = {
        **settings.asdict(),
        "calculator": f"{type(calculator).__module__}.{type(calculator).__qualname__}",
        "structure": fingerprint({k: v.tolist() for k, v in start.todict().items() if k in PARTS}),
        **getattr(calculator, "provenance", {}),
        **(provenance or {}),
    }
    files = RunFiles(output, content)
    finished = read_finished(files)
    if finished is not None:
        log.info("%s is finished; its result is read", files.folder)
        return finished
    start.calc = calculator
    _check_stress(settings.ensemble, start)
    simulation = Simulation(settings, start, files)
    return _reported(simulation, content)


def _reported(simulation: Simulation, content: Mapping[str, Any]) -> MDResult:
    """Run, and write the report however it ends."""
    try:
        simulation.run()
    except StoppedError as error:
        write_report(simulation, content, error)
        raise
    return write_report(simulation, content, None)


def _check_stress(ensemble: Ensemble, atoms: Atoms) -> None:
    if not ensemble.needs_stress:
        return
    try:
        atoms.get_stress()
    except PropertyNotImplementedError as error:
        raise MDError(f"expected a structure and a calculator with a stress: {error}") from error


def _checked(atoms: Atoms, ensemble: Ensemble) -> Atoms:
    """Copy of the structure, if it can be simulated."""
    if len(atoms) < 2:
        raise MDError(f"expected a structure of at least two atoms, got {len(atoms)}")
    if ensemble.needs_stress and not atoms.pbc.all():
        raise MDError(
            "expected a structure that is periodic in three directions, for a pressure, got pbc = "
            f"{atoms.pbc.tolist()}; run NVT"
        )
    if atoms.constraints:
        raise MDError(
            "expected a structure without constraints, which the temperature would have to count; "
            "call atoms.set_constraint()"
        )
    return Atoms(
        atoms.numbers,
        atoms.positions,
        cell=atoms.cell,
        pbc=atoms.pbc,
        masses=atoms.get_masses(),
        info=dict(atoms.info),
    )
