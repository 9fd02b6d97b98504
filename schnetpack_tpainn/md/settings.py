"""Settings of a molecular-dynamics run."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md.ensembles import NVE, NVT, Ensemble
from schnetpack_tpainn.md.guard import Limits
from schnetpack_tpainn.md.uncertainty import Uncertainty

__all__ = ["MDSettings"]


@dataclass(frozen=True)
class MDSettings:
    """How to run molecular dynamics; the keys of ``tpainn-md`` have the same names.

    Attributes:
        ensemble: :class:`~schnetpack_tpainn.md.NVE`, :class:`~schnetpack_tpainn.md.NVT`,
            :class:`~schnetpack_tpainn.md.NPT`, :class:`~schnetpack_tpainn.md.NoseHooverNVT`,
            :class:`~schnetpack_tpainn.md.MTKNPT` or your own subclass of
            :class:`~schnetpack_tpainn.md.ensembles.Ensemble`.
        duration_ps: length of the recorded trajectory in ps.
        timestep_fs: time step in fs.
        temperature_k: temperature in K of the start velocities, equilibration, NVT and NPT.
        equilibration_ps: Langevin dynamics before the recorded trajectory, in ps. Without it a
            relaxed structure has, after some vibrations, about half the temperature.
        equilibration_friction_per_fs: its friction in 1/fs.
        relax_fmax_ev_per_ang: relax the structure first, until no force is larger (eV/Å).
        relax_steps: at most so many relaxation steps.
        seed: seed of velocities and noise.
        trajectory_interval: steps between frames of ``trajectory.traj``.
        log_interval: steps between lines of ``log.csv``.
        restart_interval: steps between restart files: what a killed run loses at most.
        limits: when the dynamics counts as exploded.
        uncertainty: when the forces of an ensemble are too uncertain, and what is done then.

    Raises:
        MDError: a value is out of range or of the wrong kind.
    """

    ensemble: Ensemble = field(default_factory=NVE)
    duration_ps: float = 10.0
    timestep_fs: float = 0.5
    temperature_k: float = 300.0
    equilibration_ps: float = 0.0
    equilibration_friction_per_fs: float = 0.02
    relax_fmax_ev_per_ang: float | None = None
    relax_steps: int = 200
    seed: int = 0
    trajectory_interval: int = 10
    log_interval: int = 5
    restart_interval: int = 200
    limits: Limits = field(default_factory=Limits)
    uncertainty: Uncertainty = field(default_factory=Uncertainty)

    def __post_init__(self) -> None:
        if not isinstance(self.ensemble, Ensemble):
            raise MDError(
                f"expected ensemble to be NVE(), NVT() or NPT() of schnetpack_tpainn.md, got "
                f"{self.ensemble!r}"
            )
        positive = ("duration_ps", "timestep_fs", "temperature_k", "equilibration_friction_per_fs")
        steps = ("relax_steps", "trajectory_interval", "log_interval", "restart_interval")
        for name in positive + steps:
            if not getattr(self, name) > 0:
                raise MDError(f"expected {name} > 0, got {getattr(self, name)}")
        if self.equilibration_ps < 0:
            raise MDError(f"expected equilibration_ps >= 0, got {self.equilibration_ps}")
        if self.relax_fmax_ev_per_ang is not None and self.relax_fmax_ev_per_ang <= 0:
            raise MDError(
                f"expected relax_fmax_ev_per_ang > 0 or null, got {self.relax_fmax_ev_per_ang}"
            )
        if self.temperature_k >= self.limits.max_temperature_k:
            raise MDError(
                f"expected temperature_k below limits.max_temperature_k "
                f"({self.limits.max_temperature_k:g} K), got {self.temperature_k:g}"
            )
        if self.n_steps < 1:
            raise MDError(
                f"expected duration_ps of at least one time step ({self.timestep_fs:g} fs), got "
                f"{self.duration_ps:g} ps"
            )

    @property
    def n_steps(self) -> int:
        """Number of recorded time steps."""
        return round(1000 * self.duration_ps / self.timestep_fs)

    @property
    def n_equilibration(self) -> int:
        """Number of time steps of the equilibration."""
        return round(1000 * self.equilibration_ps / self.timestep_fs)

    @property
    def thermostat(self) -> NVT:
        """Ensemble of the equilibration."""
        return NVT(friction_per_fs=self.equilibration_friction_per_fs)

    def asdict(self) -> dict[str, Any]:
        """The settings as plain containers, for the record and for comparison on resuming."""
        plain = dataclasses.asdict(self)
        plain["ensemble"] = {"name": type(self.ensemble).__name__, **plain["ensemble"]}
        if self.uncertainty.max_force_std_ev_per_ang is None:
            del plain["uncertainty"]  # nothing is watched
        return plain
