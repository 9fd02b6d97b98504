"""The course of a simulation: relaxation, velocities, equilibration, production."""

import logging
import time

import numpy as np
from ase import Atoms, units
from ase.optimize import BFGS
from tqdm import tqdm

from schnetpack_tpainn.md.calculator import TPaiNNCalculator
from schnetpack_tpainn.md.ensembles import Ensemble, draw_velocities
from schnetpack_tpainn.md.guard import Guard
from schnetpack_tpainn.md.output import Recorder, RestartState, RunFiles
from schnetpack_tpainn.md.settings import MDSettings
from schnetpack_tpainn.md.uncertainty import Watch

__all__ = ["Simulation"]

log = logging.getLogger(__name__)

EQUILIBRATION, PRODUCTION = "equilibration", "production"


class Simulation:
    """One run, from its start or from its restart file.

    Args:
        settings: the settings.
        atoms: start structure with a calculator; changed in place.
        files: the output folder.

    Raises:
        MDError: two atoms of the start structure are too close.
    """

    def __init__(self, settings: MDSettings, atoms: Atoms, files: RunFiles) -> None:
        self.settings = settings
        self.atoms = atoms
        self.files = files
        self.guard = Guard(settings.limits, atoms)
        self.watch = Watch(settings.uncertainty, files.folder)
        self.degrees_of_freedom = settings.ensemble.degrees_of_freedom(atoms)
        self.rng = np.random.default_rng(settings.seed)
        self._remembered: np.ndarray | None = None
        self.phase, self.step = EQUILIBRATION, 0
        self.steps_per_s: float | None = None

    def run(self) -> None:
        """Run to the end.

        Raises:
            StoppedError: the dynamics blew up, or the forces became too uncertain; what was
                recorded before is in the files.
        """
        state = self.files.load()
        if state is None:
            self._start()
        else:
            self._restore(state)
        kept = (0, 0) if state is None else (state.n_frames, state.n_lines)
        with Recorder(self.files, *kept) as recorder:
            if self.phase == EQUILIBRATION:
                self._propagate(self.settings.thermostat, self.settings.n_equilibration, recorder)
                self.settings.ensemble.start(self.atoms)
                self.phase, self.step, self._remembered = PRODUCTION, 0, None
                self.watch.last_flagged = None
            begin, first = time.perf_counter(), self.step
            self._propagate(self.settings.ensemble, self.settings.n_steps, recorder)
            if self.step > first:
                self.steps_per_s = (self.step - first) / (time.perf_counter() - begin)

    @property
    def production_ps(self) -> float:
        """Recorded time in ps."""
        return self.step * self.settings.timestep_fs / 1000 if self.phase == PRODUCTION else 0.0

    def _start(self) -> None:
        settings = self.settings
        if settings.relax_fmax_ev_per_ang is not None:
            done = BFGS(self.atoms, logfile=None).run(
                fmax=settings.relax_fmax_ev_per_ang, steps=settings.relax_steps
            )
            if not done:
                log.warning("not relaxed after relax_steps=%d steps", settings.relax_steps)
        draw_velocities(self.atoms, settings.temperature_k, self.rng)

    def _restore(self, state: RestartState) -> None:
        self.phase, self.step = state.phase, state.step
        self.atoms.set_cell(state.cell)
        self.atoms.set_positions(state.positions)
        self.atoms.set_momenta(state.momenta)
        self.rng.bit_generator.state = state.rng
        self._remembered = state.integrator
        self.watch.go_on(state.n_flagged, state.last_flagged, self.atoms)
        log.info("%s: going on at step %d of the %s", self.files.folder, self.step, self.phase)

    def _propagate(self, ensemble: Ensemble, n_steps: int, recorder: Recorder) -> None:
        """Steps of one phase; where it starts is recorded, once, before the first."""
        settings = self.settings
        if self.step >= n_steps:
            return
        if self.step == 0:
            self._renew_neighbors()
            self.atoms.calc.reset()
        dynamics = ensemble.dynamics(
            self.atoms, settings.timestep_fs, settings.temperature_k, self.rng
        )
        if self._remembered is not None:
            ensemble.recall(dynamics, self._remembered)
            self._remembered = None
        with tqdm(total=n_steps, initial=self.step, desc=self.phase, unit="step") as bar:
            if self.step == 0 and not recorder.n_lines:
                self._observe(recorder)
                self._save(ensemble.remember(dynamics), recorder)
            while self.step < n_steps:
                saves = (self.step + 1) % settings.restart_interval == 0
                saves = saves or self.step + 1 == n_steps
                if saves:
                    self._renew_neighbors()
                dynamics.step()
                self.step += 1
                self._observe(recorder)
                if saves:
                    self._save(ensemble.remember(dynamics), recorder)
                bar.update()

    def _renew_neighbors(self) -> None:
        """Make the neighbour list where a resumed run has to, for both to be rounded alike."""
        if isinstance(self.atoms.calc, TPaiNNCalculator):
            self.atoms.calc.renew_neighbors()

    def _observe(self, recorder: Recorder) -> None:
        """Check and record."""
        settings, atoms, step = self.settings, self.atoms, self.step
        kinetic = atoms.get_kinetic_energy()
        moving = self.degrees_of_freedom if self.phase == PRODUCTION else 3 * len(atoms)
        temperature = 2 * kinetic / (moving * units.kB)
        self.guard.check(atoms, step, temperature, self.phase)
        self.watch.check(atoms, step, self.phase)
        if self.phase == PRODUCTION and step % settings.log_interval == 0:
            potential = atoms.get_potential_energy()
            force = np.linalg.norm(atoms.get_forces(), axis=1).max()
            energies = (potential, kinetic, potential + kinetic)
            recorder.add_line((step * settings.timestep_fs, temperature, *energies, force))
        if self.phase == PRODUCTION and step % settings.trajectory_interval == 0:
            recorder.add_frame(atoms)

    def _save(self, integrator: np.ndarray, recorder: Recorder) -> None:
        recorder.flush()
        self.files.save(
            RestartState(
                phase=self.phase,
                step=self.step,
                positions=self.atoms.get_positions(),
                momenta=self.atoms.get_momenta(),
                cell=self.atoms.cell.array,
                integrator=integrator,
                rng=dict(self.rng.bit_generator.state),
                n_frames=recorder.n_frames,
                n_lines=recorder.n_lines,
                n_flagged=self.watch.n_flagged,
                last_flagged=self.watch.last_flagged,
            )
        )
