"""Stop a simulation, or keep frames for labelling, where an ensemble is not sure of its forces."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md.guard import StoppedError

__all__ = ["Uncertainty", "UncertaintyError", "Watch"]

ACTIONS = ("stop", "flag")
STD = "forces_std"


class UncertaintyError(StoppedError):
    """The forces became too uncertain.

    Args:
        message: what happened.
        step: time step at which it was seen.
    """


@dataclass(frozen=True)
class Uncertainty:
    """When the forces of an ensemble are too uncertain, and what is done then.

    Attributes:
        max_force_std_ev_per_ang: largest standard deviation of a force component on any atom that
            is accepted, in eV/Å; it needs an
            :class:`~schnetpack_tpainn.md.EnsembleCalculator`. None: nothing is watched.
        action: ``stop`` the run; or ``flag``: go on.
        spacing: flagged frames are at least so many time steps apart, for neighbours are alike.

    Raises:
        MDError: a value makes no sense.
    """

    max_force_std_ev_per_ang: float | None = None
    action: str = "stop"
    spacing: int = 20

    def __post_init__(self) -> None:
        limit = self.max_force_std_ev_per_ang
        if limit is not None and not limit > 0:
            raise MDError(f"expected uncertainty.max_force_std_ev_per_ang > 0 or null, got {limit}")
        if self.action not in ACTIONS:
            raise MDError(f"expected uncertainty.action stop or flag, got {self.action!r}")
        if self.spacing < 1:
            raise MDError(f"expected uncertainty.spacing >= 1, got {self.spacing}")

    def check_calculator(self, calculator: object) -> None:
        """Refuse a calculator that cannot be watched.

        Args:
            calculator: ASE calculator.

        Raises:
            MDError: a limit is set, and the calculator has no deviation of the forces.
        """
        known = getattr(calculator, "implemented_properties", ())
        if self.max_force_std_ev_per_ang is not None and STD not in known:
            raise MDError(
                "expected an ensemble for uncertainty.max_force_std_ev_per_ang, got "
                f"{type(calculator).__name__}, which has no {STD}; make one with tpainn-ensemble "
                "and give its directory as model=, or set the limit to null"
            )


class Watch:
    """Compares the deviation of the forces with the limit, step by step.

    Args:
        settings: the limit and what to do.
        folder: output folder, for ``uncertain.extxyz`` and ``last_good.extxyz``.
    """

    def __init__(self, settings: Uncertainty, folder: Path) -> None:
        self.settings = settings
        self.frames = folder / "uncertain.extxyz"
        self.last_good = folder / "last_good.extxyz"
        self.n_flagged = 0
        self.last_flagged: int | None = None  # time step, in the present phase
        self._good: Atoms | None = None

    def go_on(self, n_flagged: int, last_flagged: int | None, atoms: Atoms) -> None:
        """Go on as a restart file says; frames after it are cut off.

        Args:
            n_flagged: frames to keep.
            last_flagged: time step of the last of them in the present phase.
            atoms: structure of the restart file.
        """
        self.n_flagged, self.last_flagged = n_flagged, last_flagged
        self._good = atoms.copy()
        self.last_good.unlink(missing_ok=True)
        if not n_flagged:
            self.frames.unlink(missing_ok=True)
        elif len(kept := read(self.frames, ":", format="extxyz")) > n_flagged:
            temporary = self.frames.with_name(f".{self.frames.name}.tmp")
            write(temporary, kept[:n_flagged], format="extxyz")
            temporary.replace(self.frames)

    def check(self, atoms: Atoms, step: int, phase: str) -> None:
        """Accept a structure, keep it for labelling, or stop.

        Args:
            atoms: structure with its calculator.
            step: time step.
            phase: what is running.

        Raises:
            UncertaintyError: the forces are too uncertain, and the run is to stop then.
        """
        limit = self.settings.max_force_std_ev_per_ang
        if limit is None:
            return
        std = atoms.calc.get_property(STD, atoms)  # (N,)
        if (std <= limit).all():  # written so that NaN is beyond every limit
            if self.settings.action == "stop":
                self._good = atoms.copy()
            return
        worst = int(np.argmax(std))
        last = self.last_flagged
        if self.settings.action == "stop" or last is None or step - last >= self.settings.spacing:
            self._keep(atoms, step, phase, float(std[worst]))
        if self.settings.action == "flag":
            return
        if self._good is not None:
            write(self.last_good, self._good, format="extxyz")
        place = f"; the last good frame is {self.last_good}" if self._good is not None else ""
        raise UncertaintyError(
            f"{atoms.get_chemical_formula()} is beyond what the ensemble is sure of at step {step} "
            f"of the {phase}: the standard deviation of the force on atom {worst} is "
            f"{std[worst]:.3g} eV/Å (limit {limit:g}). Label {self.frames} and train on it, or "
            f"raise uncertainty.max_force_std_ev_per_ang{place}",
            step,
        )

    def _keep(self, atoms: Atoms, step: int, phase: str, std: float) -> None:
        """Append a frame without the model's energy and forces, which are no labels."""
        info = {**atoms.info, "phase": phase, "step": step, "force_std_ev_per_ang": std}
        frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)
        write(self.frames, frame, format="extxyz", append=self.n_flagged > 0)
        self.n_flagged += 1
        self.last_flagged = step
