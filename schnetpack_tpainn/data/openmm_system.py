"""OpenMM systems of flexible molecules, and what is refused of others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.cell import Cell
from hydra.utils import to_absolute_path

from schnetpack_tpainn.data.openmm_topology import require_openmm
from schnetpack_tpainn.errors import LabelError

__all__ = [
    "MODELS",
    "POLARIZATION",
    "build_system",
    "fitting_cutoff",
    "lattice_nm",
    "make_context",
    "model_files",
]

MODELS = {  # flexible water
    "iamoeba": "iamoeba.xml",  # Wang et al., J. Phys. Chem. B 117, 9956 (2013); part of OpenMM
    "spcfw": str(Path(__file__).with_name("spcfw.xml")),
    "tip3p": "tip3p.xml",  # with its bonds and angle left free; part of OpenMM
}
LONGEST_CUTOFF_ANG = 9.0
SHORTEST_CUTOFF_ANG = 4.5  # chosen without being asked for
POLARIZATION = "polarization"  # attribute of a refitted iAMOEBA file
MARGIN = 1.01  # box over twice the cutoff: room for a finite strain
EWALD_TOLERANCE = 1e-5  # of labels; OpenMM's own, 5e-4, does for moving atoms
SWITCH_ANG = 1.0  # over which Lennard-Jones terms end


def model_files(model: str | Sequence[str]) -> list[str]:
    """Files of a force field.

    Args:
        model: a name in ``MODELS``, or names of OpenMM XML files: one's own, with relative paths
            from where a Hydra run was started, or one that comes with OpenMM.

    Returns:
        What OpenMM's ``ForceField`` reads.
    """
    names = [model] if isinstance(model, str) else list(model)
    files = [MODELS.get(name, name) for name in names]
    own = [Path(to_absolute_path(name)) for name in files]
    return [str(path) if path.is_file() else name for path, name in zip(own, files, strict=True)]


def fitting_cutoff(cell: Cell, cutoff_ang: float | None) -> float:
    """Cutoff of the pair terms that a cell has room for.

    Args:
        cell: the cell (Å).
        cutoff_ang: the cutoff asked for in Å; None: the longest that fits, in steps of 0.5 Å, up
            to 9 Å.

    Returns:
        Cutoff in Å.

    Raises:
        LabelError: the cell is narrower than twice the cutoff.
    """
    width = 10 * float(np.diag(lattice_nm(np.array(cell.standard_form()[0]))).min())
    room = width / 2 / MARGIN
    if cutoff_ang is None:
        cutoff = min(LONGEST_CUTOFF_ANG, np.floor(2 * room) / 2)
        if cutoff < SHORTEST_CUTOFF_ANG:
            raise LabelError(
                f"expected a cell of at least {2 * MARGIN * SHORTEST_CUTOFF_ANG:.2f} Å, got one "
                f"{width:.2f} Å wide, which has no room for pair terms out to "
                f"{SHORTEST_CUTOFF_ANG:g} Å: take more molecules, or set a shorter cutoff_ang"
            )
        return float(cutoff)
    if not 0 < cutoff_ang <= room:
        raise LabelError(
            f"expected a cell of at least twice the cutoff, {2 * MARGIN * cutoff_ang:.2f} Å, got "
            f"one {width:.2f} Å wide: take more molecules, a lower density, or cutoff_ang of at "
            f"most {room:.2f} (null: what fits)"
        )
    return float(cutoff_ang)


def lattice_nm(lower: np.ndarray) -> np.ndarray:
    """OpenMM's form of a lattice: reduced, lower triangular.

    Args:
        lower: lower triangular cell vectors in Å, shape (3, 3).

    Returns:
        Cell vectors of the same lattice in nm, shape (3, 3).
    """
    a, b, c = lower / 10
    c = c - b * round(c[1] / b[1])
    c = c - a * round(c[0] / a[0])
    b = b - a * round(b[0] / a[0])
    return np.array([a, b, c])


def build_system(
    model: str | Sequence[str],
    topology: Any,
    lower: np.ndarray | None,
    cutoff_ang: float,
    accurate: bool = True,
) -> Any:
    """OpenMM system in which every atom moves freely.

    Args:
        model: as in :func:`model_files`.
        topology: OpenMM's topology.
        lower: lower triangular cell vectors in Å, shape (3, 3); None: no cell, no cutoff.
        cutoff_ang: where pair terms end and Ewald sums in reciprocal space (PME) take over.
        accurate: Ewald sums for labels, or for dynamics alone.

    Returns:
        The system.

    Raises:
        LabelError: the force field cannot be read or has no parameters for the molecules; it is
            rigid; or the box is charged.
    """
    openmm = require_openmm()
    app = openmm.app
    options: dict[str, Any] = {"nonbondedMethod": app.NoCutoff}
    if lower is not None:
        topology.setPeriodicBoxVectors([openmm.Vec3(*v) for v in lattice_nm(lower)])
        options = {
            "nonbondedMethod": app.PME,
            "nonbondedCutoff": cutoff_ang / 10,
        }
    files = model_files(model)
    if model == "iamoeba" or any(_directly_polarized(name) for name in files):
        options["polarization"] = "direct"  # what the i stands for
    try:
        system = app.ForceField(*files).createSystem(
            topology, constraints=None, rigidWater=False, removeCMMotion=False, **options
        )
    except Exception as error:  # OpenMM's readers raise anything
        raise LabelError(
            f"OpenMM cannot build a system from {', '.join(files)}: {error}; expected a name of "
            f"{', '.join(MODELS)}, or force-field files with parameters for every molecule"
        ) from error
    _drop_empty(system)
    for force in system.getForces():
        if accurate and hasattr(force, "setEwaldErrorTolerance"):
            force.setEwaldErrorTolerance(EWALD_TOLERANCE)
        if hasattr(force, "setSwitchingDistance") and lower is not None:
            force.setUseSwitchingFunction(True)
            force.setSwitchingDistance((cutoff_ang - SWITCH_ANG) / 10)
    _refuse_rigid(system, topology, files)
    _refuse_charged(system, files)
    return system


def _directly_polarized(name: str) -> bool:
    """Whether a file of one's own says so."""
    path = Path(name)
    return path.is_file() and f'{POLARIZATION}="direct"' in path.read_text("utf-8")


def _drop_empty(system: Any) -> None:
    """AMOEBA's terms of four atoms, which water lacks, take seconds to set up all the same."""
    for k in reversed(range(system.getNumForces())):
        force = system.getForce(k)
        if type(force).__name__ == "CustomCompoundBondForce" and not force.getNumBonds():
            system.removeForce(k)


def _refuse_rigid(system: Any, topology: Any, files: list[str]) -> None:
    """Forces of a constraint or on a massless site are no labels of a potential."""
    n_atoms = topology.getNumAtoms()
    free = {
        frozenset(force.getBondParameters(k)[:2])
        for force in system.getForces()
        if hasattr(force, "getBondParameters") and "Bond" in type(force).__name__
        for k in range(force.getNumBonds())
    }
    bonds = {frozenset((bond[0].index, bond[1].index)) for bond in topology.bonds()}
    virtual = sum(map(system.isVirtualSite, range(system.getNumParticles())))
    found = {
        "constraints": system.getNumConstraints(),
        "virtual sites": virtual,
        "particles that are no atoms": system.getNumParticles() - virtual - n_atoms,
        "bonds without a potential": len(bonds - free),
    }
    if any(found.values()):
        raise LabelError(
            f"expected a flexible force field, whose forces on atoms are those of a potential, got "
            f"{', '.join(f'{n} {what}' for what, n in found.items() if n)} in {', '.join(files)}; "
            f"take a flexible one such as {', '.join(MODELS)}"
        )


def _refuse_charged(system: Any, files: list[str]) -> None:
    total = 0.0
    for force in system.getForces():
        if hasattr(force, "getMultipoleParameters"):
            get = force.getMultipoleParameters
            total += sum(get(k)[0]._value for k in range(force.getNumMultipoles()))
        elif type(force).__name__ == "NonbondedForce":
            get = force.getParticleParameters
            total += sum(get(k)[0]._value for k in range(force.getNumParticles()))
    if abs(total) > 1e-3:
        raise LabelError(
            f"expected a neutral box, got a charge of {total:+.4f} e with {', '.join(files)}: "
            "Ewald sums would add a uniform background; correct the charges, or add counter-ions"
        )


def make_context(system: Any, integrator: Any, platform: str, threads: int) -> Any:
    """OpenMM context, with forces that do not depend on the order of threads.

    Args:
        system: the system.
        integrator: the integrator.
        platform: ``CPU``, ``CUDA``, ``OpenCL`` or ``Reference``.
        threads: threads of ``CPU``.

    Returns:
        The context.

    Raises:
        LabelError: there is no such platform here.
    """
    openmm = require_openmm()
    properties = {
        "CPU": {"Threads": str(threads), "DeterministicForces": "true"},
        "CUDA": {"Precision": "mixed", "DeterministicForces": "true"},
        "OpenCL": {"Precision": "mixed"},
    }
    try:
        engine = openmm.Platform.getPlatformByName(platform)
        return openmm.Context(system, integrator, engine, properties.get(platform, {}))
    except openmm.OpenMMException as error:
        there = [
            openmm.Platform.getPlatform(k).getName()
            for k in range(openmm.Platform.getNumPlatforms())
        ]
        raise LabelError(
            f"OpenMM cannot work on platform {platform!r} ({error}); it has {', '.join(there)} "
            "here (CUDA: pip install openmm-cuda-12)"
        ) from error
