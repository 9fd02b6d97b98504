"""Ensembles: the integrator, what it conserves, and how many degrees of freedom it leaves."""

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import ase
import numpy as np
from ase import Atoms, units
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet

from schnetpack_tpainn.errors import MDError

__all__ = ["NPT", "NVE", "NVT", "Ensemble", "Integrator", "draw_velocities"]

LINEAR = 1e-3  # smallest / largest moment of inertia below which a molecule counts as linear


class Integrator(Protocol):
    """ASE's integrators, as far as they are used here."""

    def step(self) -> Any:
        """Make one time step."""


class Ensemble(ABC):
    """What :func:`schnetpack_tpainn.md.run_md` asks of an ensemble."""

    conserves_energy: bool = False
    needs_stress: bool = False

    @abstractmethod
    def dynamics(
        self, atoms: Atoms, timestep_fs: float, temperature_k: float, rng: np.random.Generator
    ) -> Integrator:
        """The integrator.

        Args:
            atoms: structure with velocities and a calculator.
            timestep_fs: time step in fs.
            temperature_k: temperature in K of the bath, if there is one.
            rng: source of the bath's noise.

        Returns:
            An ASE integrator. What it keeps, but ``atoms`` and ``rng``, :meth:`remember` tells.
        """

    def remember(self, dynamics: Any) -> np.ndarray:
        """What a resumed run's integrator must :meth:`recall`; nothing, by default.

        Args:
            dynamics: the integrator.

        Returns:
            In ASE's units, of any shape.
        """
        return np.zeros(0)

    def recall(self, dynamics: Any, remembered: np.ndarray) -> None:  # noqa: B027
        """Bring an integrator to where another was.

        Args:
            dynamics: the integrator, changed in place.
            remembered: from :meth:`remember`.
        """

    @abstractmethod
    def degrees_of_freedom(self, atoms: Atoms) -> int:
        """Number of momenta that move independently: T = 2 E_kin / (n k_B)."""

    @abstractmethod
    def start(self, atoms: Atoms) -> None:
        """Bring the velocities into the ensemble.

        Args:
            atoms: structure with velocities, changed in place.
        """


@dataclass(frozen=True)
class NVE(Ensemble):
    """Constant energy by velocity Verlet (Swope et al., J. Chem. Phys. 76, 637, 1982).

    The total momentum is set to zero at the start, and for molecules the angular momentum too;
    the temperature counts only the 3N-3, 3N-5 or 3N-6 degrees of freedom that are left.
    """

    conserves_energy = True

    def dynamics(
        self, atoms: Atoms, timestep_fs: float, temperature_k: float, rng: np.random.Generator
    ) -> Integrator:
        """ASE's ``VelocityVerlet``."""
        return VelocityVerlet(atoms, timestep_fs * units.fs)

    def degrees_of_freedom(self, atoms: Atoms) -> int:
        """3N less the conserved momenta, and at least one."""
        n = 3 * len(atoms) - 3
        if not atoms.pbc.any():
            moments = np.sort(atoms.get_moments_of_inertia())
            n -= 2 if moments[0] < LINEAR * moments[-1] else 3
        return max(n, 1)

    def start(self, atoms: Atoms) -> None:
        """Take away the motion of the whole."""
        Stationary(atoms, preserve_temperature=False)
        if not atoms.pbc.any():
            ZeroRotation(atoms, preserve_temperature=False)


@dataclass(frozen=True)
class NVT(Ensemble):
    """Constant temperature by Langevin dynamics, BAOAB splitting where ASE has it.

    Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013). The centre of mass and the rotation
    feel the bath as everything else does, so all 3N degrees of freedom count.

    Attributes:
        friction_per_fs: friction in 1/fs.
    """

    friction_per_fs: float = 0.01

    def __post_init__(self) -> None:
        if self.friction_per_fs <= 0:
            raise MDError(f"expected friction_per_fs > 0, got {self.friction_per_fs}")

    def dynamics(
        self, atoms: Atoms, timestep_fs: float, temperature_k: float, rng: np.random.Generator
    ) -> Integrator:
        """ASE's ``LangevinBAOAB``, or ``Langevin`` before ASE had it."""
        step, friction = timestep_fs * units.fs, self.friction_per_fs / units.fs
        try:
            from ase.md.langevinbaoab import LangevinBAOAB
        except ImportError:
            from ase.md.langevin import Langevin

            return Langevin(
                atoms,
                step,
                temperature_K=temperature_k,
                friction=friction,
                fixcm=False,
                rng=rng,
            )
        return LangevinBAOAB(atoms, step, temperature_K=temperature_k, T_tau=1 / friction, rng=rng)

    def degrees_of_freedom(self, atoms: Atoms) -> int:
        """All 3N."""
        return 3 * len(atoms)

    def start(self, atoms: Atoms) -> None:
        """Leave the velocities as they are: the bath acts on all of them."""


@dataclass(frozen=True)
class NPT(Ensemble):
    """Constant temperature and pressure by Langevin dynamics of atoms and cell.

    Quigley and Probert, J. Chem. Phys. 120, 11432 (2004), in BAOAB splitting, by ASE. The
    structure must be periodic in three directions, and the calculator must give the stress.

    Attributes:
        pressure_gpa: pressure in GPa; 1 bar is 1e-4 GPa.
        friction_per_fs: friction of the atoms in 1/fs.
        barostat_time_fs: time of the cell's fluctuations in fs.
        isotropic: keep the cell's shape.
    """

    pressure_gpa: float = 1e-4
    friction_per_fs: float = 0.01
    barostat_time_fs: float = 1000.0
    isotropic: bool = True
    needs_stress = True

    def __post_init__(self) -> None:
        for name in ("friction_per_fs", "barostat_time_fs"):
            if not getattr(self, name) > 0:
                raise MDError(f"expected {name} > 0, got {getattr(self, name)}")

    def dynamics(
        self, atoms: Atoms, timestep_fs: float, temperature_k: float, rng: np.random.Generator
    ) -> Integrator:
        """ASE's ``LangevinBAOAB`` with a barostat."""
        try:
            from ase.md.langevinbaoab import LangevinBAOAB
        except ImportError as error:
            raise MDError(
                f"expected an ASE with LangevinBAOAB, got {ase.__version__}; update it for NPT"
            ) from error
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using heuristic P_mass")
            return LangevinBAOAB(
                atoms,
                timestep_fs * units.fs,
                temperature_K=temperature_k,
                externalstress=-self.pressure_gpa * units.GPa,
                hydrostatic=self.isotropic,
                T_tau=units.fs / self.friction_per_fs,
                P_tau=self.barostat_time_fs * units.fs,
                rng=rng,
            )

    def degrees_of_freedom(self, atoms: Atoms) -> int:
        """All 3N."""
        return 3 * len(atoms)

    def start(self, atoms: Atoms) -> None:
        """Leave the velocities as they are: the bath acts on all of them."""

    def remember(self, dynamics: Any) -> np.ndarray:
        """Momentum of the cell and the force on it."""
        return np.array([dynamics.p_eps * np.ones_like(dynamics.force_eps), dynamics.force_eps])

    def recall(self, dynamics: Any, remembered: np.ndarray) -> None:
        """Momentum of the cell and the force on it."""
        dynamics.p_eps, dynamics.force_eps = remembered.copy()


def draw_velocities(atoms: Atoms, temperature_k: float, rng: np.random.Generator) -> None:
    """Velocities from the Maxwell-Boltzmann distribution.

    Args:
        atoms: structure, changed in place.
        temperature_k: temperature in K.
        rng: source of random numbers.
    """
    scale = np.sqrt(atoms.get_masses() * units.kB * temperature_k)[:, None]  # (N, 1)
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * scale)
