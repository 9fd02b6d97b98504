"""Ensembles by Nosé-Hoover chains: deterministic, without the friction of Langevin dynamics."""

from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from ase import Atoms, units

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md.ensembles import NVE, Ensemble, Integrator

__all__ = ["MTKNPT", "NoseHooverNVT"]


class _NoseHoover(Ensemble):
    """What both have in common.

    A chain scales all velocities alike: a total momentum of zero stays zero, as in NVE, and the
    temperature counts the 3N-3, 3N-5 or 3N-6 degrees of freedom that are left.
    """

    thermostat_time_fs: float
    chain_length: int

    def degrees_of_freedom(self, atoms: Atoms) -> int:
        """3N less the conserved momenta, and at least one."""
        return NVE().degrees_of_freedom(atoms)

    def start(self, atoms: Atoms) -> None:
        """Take away the motion of the whole."""
        NVE().start(atoms)

    def _chain(self, atoms: Atoms, temperature_k: float) -> Any:
        """ASE's thermostat for the degrees of freedom there are, where ASE would take 3N."""
        chains = _chains()
        return chains.NoseHooverChainThermostat(
            num_atoms_global=self.degrees_of_freedom(atoms) / 3,
            masses=atoms.get_masses()[:, None],
            temperature_K=temperature_k,
            tdamp=self.thermostat_time_fs * units.fs,
            tchain=self.chain_length,
        )

    def remember(self, dynamics: Any) -> np.ndarray:
        """Positions and momenta of the chain."""
        chain = dynamics._thermostat
        return np.concatenate([chain._eta, chain._p_eta])

    def recall(self, dynamics: Any, remembered: np.ndarray) -> None:
        """Positions and momenta of the chain."""
        chain = dynamics._thermostat
        chain._eta, chain._p_eta = remembered.reshape(2, -1).copy()


def _chains() -> Any:
    try:
        from ase.md import nose_hoover_chain
    except ImportError as error:
        raise MDError(
            f"expected an ASE with Nosé-Hoover chains, got {ase.__version__}; update it"
        ) from error
    return nose_hoover_chain


def _check(ensemble: Any, *times: str) -> None:
    for name in times:
        if not getattr(ensemble, name) > 0:
            raise MDError(f"expected {name} > 0, got {getattr(ensemble, name)}")
    if ensemble.chain_length < 1:
        raise MDError(f"expected chain_length >= 1, got {ensemble.chain_length}")


@dataclass(frozen=True)
class NoseHooverNVT(_NoseHoover):
    """Constant temperature by a Nosé-Hoover chain, by ASE.

    Martyna, Klein and Tuckerman, J. Chem. Phys. 97, 2635 (1992). It hardly disturbs the motion:
    for diffusion. Small stiff molecules alone are better kept at their temperature by
    :class:`~schnetpack_tpainn.md.NVT`.

    Attributes:
        thermostat_time_fs: time of the temperature's fluctuations in fs.
        chain_length: thermostats in the chain.

    Raises:
        MDError: a value is not positive, or ASE is too old.
    """

    thermostat_time_fs: float = 100.0
    chain_length: int = 3

    def __post_init__(self) -> None:
        _check(self, "thermostat_time_fs")

    def dynamics(
        self, atoms: Atoms, timestep_fs: float, temperature_k: float, rng: np.random.Generator
    ) -> Integrator:
        """ASE's ``NoseHooverChainNVT``."""
        dynamics = _chains().NoseHooverChainNVT(
            atoms, timestep_fs * units.fs, temperature_k, self.thermostat_time_fs * units.fs
        )
        dynamics._thermostat = self._chain(atoms, temperature_k)
        return dynamics


@dataclass(frozen=True)
class MTKNPT(_NoseHoover):
    """Constant temperature and pressure by Nosé-Hoover chains for atoms and volume, by ASE.

    Martyna, Tobias and Klein, J. Chem. Phys. 101, 4177 (1994), isotropic: the cell keeps its shape.
    The structure must be periodic in three directions, and the calculator must give the stress.

    Attributes:
        pressure_gpa: pressure in GPa; 1 bar is 1e-4 GPa.
        thermostat_time_fs: time of the temperature's fluctuations in fs.
        barostat_time_fs: time of the volume's fluctuations in fs.
        chain_length: thermostats in each of the chains.

    Raises:
        MDError: a value is not positive, or ASE is too old.
    """

    pressure_gpa: float = 1e-4
    thermostat_time_fs: float = 100.0
    barostat_time_fs: float = 1000.0
    chain_length: int = 3
    needs_stress = True

    def __post_init__(self) -> None:
        _check(self, "thermostat_time_fs", "barostat_time_fs")

    def dynamics(
        self, atoms: Atoms, timestep_fs: float, temperature_k: float, rng: np.random.Generator
    ) -> Integrator:
        """ASE's ``IsotropicMTKNPT``."""
        chains = _chains()
        if not hasattr(chains, "IsotropicMTKNPT"):
            raise MDError(f"expected an ASE with IsotropicMTKNPT, got {ase.__version__}; update it")
        dynamics = chains.IsotropicMTKNPT(
            atoms,
            timestep_fs * units.fs,
            temperature_k,
            pressure_au=self.pressure_gpa * units.GPa,
            tdamp=self.thermostat_time_fs * units.fs,
            pdamp=self.barostat_time_fs * units.fs,
            pchain=self.chain_length,
        )
        dynamics._thermostat = self._chain(atoms, temperature_k)
        dynamics._num_atoms_global = self.degrees_of_freedom(atoms) / 3
        return dynamics

    def remember(self, dynamics: Any) -> np.ndarray:
        """Chains, volume and its momentum; the start's cell, of which ASE keeps the multiple."""
        barostat = dynamics._barostat
        volume = [dynamics._eps, dynamics._p_eps, dynamics._volume0]
        chains = [super().remember(dynamics), barostat._xi, barostat._p_xi]
        return np.concatenate([*chains, volume, dynamics._cell0.ravel()])

    def recall(self, dynamics: Any, remembered: np.ndarray) -> None:
        """Chains, volume and its momentum; the start's cell."""
        n, barostat = self.chain_length, dynamics._barostat
        super().recall(dynamics, remembered[: 2 * n])
        barostat._xi, barostat._p_xi = remembered[2 * n : 4 * n].reshape(2, n).copy()
        dynamics._eps, dynamics._p_eps, dynamics._volume0 = remembered[4 * n : 4 * n + 3].tolist()
        dynamics._cell0 = remembered[4 * n + 3 :].reshape(3, 3).copy()
