"""Dynamics of a liquid in OpenMM, with labelled frames."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms

from schnetpack_tpainn.data.liquid import density
from schnetpack_tpainn.data.openmm import OpenMMForceField
from schnetpack_tpainn.data.openmm_system import make_context
from schnetpack_tpainn.data.openmm_topology import require_openmm
from schnetpack_tpainn.data.store import labelled
from schnetpack_tpainn.errors import LabelError

__all__ = ["sample_liquid"]

LARGEST_FORCE = 1e3  # eV/Å
GENTLE_STEPS, GENTLE_PS = 500, 1e-4  # after the minimisation; AMOEBA models need them
TOLERANCE = 50.0  # of the minimisation in kJ/mol/nm
BAROSTAT_STEPS = 25


def sample_liquid(
    start: Atoms,
    force_field: Mapping[str, Any],
    dynamics: Mapping[str, float],
    temperature_k: float,
    pressure_bar: float | None,
    n_frames: int,
    seed: int,
) -> list[Atoms]:
    """Frames of one trajectory by OpenMM's LangevinMiddle integrator, labelled by the calculator.

    Water is melted with flexible TIP3P, which costs a tenth of AMOEBA models. Then the structure is
    minimised and warmed in steps of 0.1 fs. Under a pressure, a Monte Carlo barostat scales the box
    isotropically.

    Args:
        start: periodic structure (Å).
        force_field: arguments of :class:`~schnetpack_tpainn.data.openmm.OpenMMForceField`.
        dynamics: ``interval_fs``, ``timestep_fs``, ``friction_per_fs``, ``equilibration_fs`` and
            ``melting_fs``.
        temperature_k: temperature in K.
        pressure_bar: pressure in bar; None: constant volume.
        n_frames: frames to keep.
        seed: seed of velocities, noise and barostat.

    Returns:
        Frames with energy (eV), forces (eV/Å) and stress (eV/Å³), molecules whole;
        ``temperature_k``, ``density_g_per_cm3`` and, if any, ``pressure_bar`` in their ``info``.

    Raises:
        LabelError: the dynamics blew up, the box shrank below twice the cutoff, or as the
            calculator raises it.
    """
    calculator = OpenMMForceField(**force_field)
    if dynamics["melting_fs"] and not force_field["topology"]:
        start = _melted(start, force_field, dynamics, temperature_k, seed)
    context = _started(start, calculator, dynamics, temperature_k, pressure_bar, seed)
    integrator = context.getIntegrator()
    stride = max(1, round(dynamics["interval_fs"] / dynamics["timestep_fs"]))
    first = max(stride, round(dynamics["equilibration_fs"] / dynamics["timestep_fs"]))
    info = {"temperature_k": float(temperature_k)}
    if pressure_bar is not None:
        info["pressure_bar"] = float(pressure_bar)
    frames: list[Atoms] = []
    try:
        for n_steps in [first, *[stride] * (n_frames - 1)]:
            integrator.step(n_steps)
            frames.append(_labelled(start, context, calculator, info))
    except Exception as error:  # OpenMM's own class, or the calculator's
        raise LabelError(
            f"dynamics of {start.get_chemical_formula()} at {temperature_k:g} K, "
            f"{density(start):.3f} g/cm³ at the start, failed at frame {len(frames)}: {error}; "
            "shorten timestep_fs, lower the temperature, or, if the box shrank below twice the "
            "cutoff, set a shorter cutoff_ang"
        ) from error
    return frames


def _melted(
    start: Atoms,
    force_field: Mapping[str, Any],
    dynamics: Mapping[str, float],
    temperature_k: float,
    seed: int,
) -> Atoms:
    """Water after a while with flexible TIP3P."""
    calculator = OpenMMForceField(**{**force_field, "model": "tip3p"})
    context = _started(start, calculator, dynamics, temperature_k, None, seed)
    context.getIntegrator().step(round(dynamics["melting_fs"] / dynamics["timestep_fs"]))
    return _current(start, context)


def _started(
    start: Atoms,
    calculator: OpenMMForceField,
    dynamics: Mapping[str, float],
    temperature_k: float,
    pressure_bar: float | None,
    seed: int,
) -> Any:
    """OpenMM context, minimised and warmed."""
    openmm = require_openmm()
    system = calculator.system(start, accurate=False)
    if pressure_bar is not None:
        barostat = openmm.MonteCarloBarostat(pressure_bar, temperature_k, BAROSTAT_STEPS)
        barostat.setRandomNumberSeed(seed)
        system.addForce(barostat)
    friction_per_ps = dynamics["friction_per_fs"] * 1000
    integrator = openmm.LangevinMiddleIntegrator(temperature_k, friction_per_ps, GENTLE_PS)
    integrator.setRandomNumberSeed(seed)
    context = make_context(system, integrator, calculator.platform, calculator.threads)
    try:
        context.setPositions(calculator.molecules(start).whole(start) / 10)
        openmm.LocalEnergyMinimizer.minimize(context, TOLERANCE)
        context.setVelocitiesToTemperature(temperature_k, seed)
        integrator.step(GENTLE_STEPS)
    except openmm.OpenMMException as error:
        raise LabelError(
            f"{start.get_chemical_formula()} at {density(start):.3f} g/cm³ cannot be minimised "
            f"and warmed to {temperature_k:g} K: {error}"
        ) from error
    integrator.setStepSize(dynamics["timestep_fs"] / 1000)
    return context


def _labelled(
    start: Atoms, context: Any, calculator: OpenMMForceField, info: Mapping[str, float]
) -> Atoms:
    """The current structure with its label, if the dynamics has not blown up."""
    atoms = _current(start, context)
    calculator.calculate(atoms, ["energy", "forces", "stress"])
    energy, forces, stress = (calculator.results[k] for k in ("energy", "forces", "stress"))
    if np.abs(forces).max() > LARGEST_FORCE:
        raise LabelError(
            f"expected forces below {LARGEST_FORCE:g} eV/Å, got {np.abs(forces).max():.3g}"
        )
    frame = labelled(atoms, energy, forces, density_g_per_cm3=density(atoms), **info)
    frame.calc.results["stress"] = stress
    return frame


def _current(start: Atoms, context: Any) -> Atoms:
    """The structure as the dynamics has it, molecules whole and in the cell."""
    state = context.getState(positions=True, enforcePeriodicBox=True)
    atoms = start.copy()
    atoms.set_cell(10 * state.getPeriodicBoxVectors(asNumpy=True)._value)
    atoms.positions = 10 * state.getPositions(asNumpy=True)._value
    if not np.isfinite(atoms.positions).all():
        raise LabelError("positions are NaN")
    return atoms
