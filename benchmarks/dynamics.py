"""Molecular dynamics of water through ASE: SchNetPack's calculator beside ours."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from schnetpack.interfaces import SpkCalculator
from schnetpack.transform import MatScipyNeighborList

from benchmarks.checks import Tensors, errors, within
from benchmarks.models import STOCK, backend, potential
from benchmarks.structures import CUTOFF, structure
from benchmarks.timing import Settings, Work, clocked, time_sound
from schnetpack_tpainn.md import TPaiNNCalculator

__all__ = ["SIZES", "check", "run", "works"]

SIZES = (192, 1536)
TIMESTEP_FS = 0.5
CHECKED_STEPS = 5
STOCK_STEPS, STEPS = 2, 20  # of a turn; stock makes its list anew at every step, ours now and then


def calculator(name: str, device: str) -> Calculator:
    """SchNetPack's calculator for the stock model, ours for the others.

    Args:
        name: one of :data:`benchmarks.models.VARIANTS`.
        device: ``cpu`` or ``cuda``.

    Returns:
        The calculator.
    """
    model = potential(name)
    if name == STOCK:
        return SpkCalculator(
            model, MatScipyNeighborList(CUTOFF), energy_unit="eV", device=torch.device(device)
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best_model"
        torch.save(model, path)
        return TPaiNNCalculator(path, device=device)


def dynamics(name: str, atoms: int, device: str) -> VelocityVerlet:
    """NVE at 0.5 fs; velocities of 300 K, the same for every model.

    Args:
        name: of the model.
        atoms: one of ``SIZES``.
        device: ``cpu`` or ``cuda``.

    Returns:
        ASE's integrator, with its structure in ``atoms``.
    """
    system: Atoms = structure(atoms)
    MaxwellBoltzmannDistribution(system, temperature_K=300, rng=np.random.default_rng(0))
    system.calc = calculator(name, device)
    return VelocityVerlet(system, TIMESTEP_FS * units.fs)


def trajectory(md: VelocityVerlet) -> Tensors:
    """Potential energies of the first steps, and the forces after them.

    Args:
        md: from :func:`dynamics`.

    Returns:
        ``md_energy`` (CHECKED_STEPS + 1,) in eV, ``md_forces`` (N, 3) in eV/Å.
    """
    energies = [md.atoms.get_potential_energy() for _ in md.irun(CHECKED_STEPS)]
    return {
        "md_energy": torch.tensor(energies, dtype=torch.float64),
        "md_forces": torch.from_numpy(md.atoms.get_forces()),
    }


def check(name: str, expected: Tensors, atoms: int, device: str) -> dict[str, Any]:
    """Compare the first steps with those of the stock model and calculator.

    Args:
        name: of the model.
        expected: trajectory of the stock model.
        atoms: one of ``SIZES``.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``errors``, ``correct`` and ``backend``.
    """
    md = dynamics(name, atoms, device)
    found = errors(trajectory(md), expected)
    return {
        "errors": found,
        "correct": within(found, torch.float32),
        "backend": backend(md.atoms.calc.model),
    }


def works(names: list[str], atoms: int, device: str) -> dict[str, Work]:
    """The first steps of each model's trajectory, whose time is given per step.

    Every turn starts from the same structure: with random weights, nothing keeps molecules together
    for long.

    Args:
        names: of the models.
        atoms: one of ``SIZES``.
        device: ``cpu`` or ``cuda``.

    Returns:
        Model -> work.
    """

    def work(name: str) -> Work:
        md = dynamics(name, atoms, device)
        start = md.atoms.copy()
        steps = STOCK_STEPS if name == STOCK else STEPS
        run_steps = clocked(lambda: md.run(steps), device)

        def turn() -> float:
            md.atoms.set_positions(start.positions)
            md.atoms.set_momenta(start.get_momenta())
            md.atoms.get_forces()
            return run_steps() / steps

        return turn

    return {name: work(name) for name in names}


def run(atoms: int, settings: Settings) -> dict[str, Any]:
    """Check, then time.

    Args:
        atoms: one of ``SIZES``.
        settings: how to measure.

    Returns:
        ``models``: model -> what was found.
    """
    device = settings.device
    expected = trajectory(dynamics(STOCK, atoms, device))
    models: dict[str, dict[str, Any]] = {STOCK: {"correct": True}}
    for name in settings.variants:
        models[name] = check(name, expected, atoms, device)
    return time_sound(models, lambda names: works(names, atoms, device), settings, STOCK)
