"""Stop a simulation that has blown up, and say when and how."""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import find_mic
from ase.neighborlist import neighbor_list
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from schnetpack_tpainn.data.liquid import bonded_pairs
from schnetpack_tpainn.errors import MDError

__all__ = ["ExplosionError", "Guard", "Limits", "StoppedError"]


class StoppedError(MDError):
    """A run was ended before its time.

    Args:
        message: what happened.
        step: time step at which it was seen.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class ExplosionError(StoppedError):
    """The dynamics blew up.

    Args:
        message: what happened.
        step: time step at which it was seen.
    """


@dataclass(frozen=True)
class Limits:
    """What counts as an explosion.

    Attributes:
        max_force_ev_per_ang: largest force on an atom in eV/Å.
        max_temperature_k: largest instantaneous temperature in K.
        min_distance_ang: smallest distance of two atoms in Å.
        max_gap_ang: the structure has come apart when it has more pieces than at the start, a
            piece being further than this from all others, in Å; null where that may happen, as
            in a gas.
        max_bond_stretch: longest that a bond of the start structure
            (:func:`~schnetpack_tpainn.data.liquid.bonded_pairs`) may become, in sums of covalent
            radii; a dissociated molecule has one beyond 1.5. Null where molecules may react.
        interval: time steps between checks of the distances; force and temperature are checked
            at every step.

    Raises:
        MDError: a limit is not positive.
    """

    max_force_ev_per_ang: float = 100.0
    max_temperature_k: float = 5000.0
    min_distance_ang: float = 0.5
    max_gap_ang: float | None = 4.0
    max_bond_stretch: float | None = None
    interval: int = 10

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise MDError(f"expected limits.{name} > 0, got {value}")


class Guard:
    """Checks a structure against limits.

    Args:
        limits: the limits.
        start: the start structure; it is checked too.

    Raises:
        MDError: two atoms of the start structure are too close.
    """

    def __init__(self, limits: Limits, start: Atoms) -> None:
        self.limits = limits
        watched = limits.max_bond_stretch is not None
        self._bonds = bonded_pairs(start) if watched else np.zeros((0, 2), dtype=int)
        closest, self._pieces = self._distances(start)
        if closest < limits.min_distance_ang:
            raise MDError(
                f"two atoms of the start structure are {closest:.3g} Å apart, expected at least "
                f"limits.min_distance_ang={limits.min_distance_ang:g} Å; check its units"
            )

    def _distances(self, atoms: Atoms) -> tuple[float, int]:
        """Smallest distance within reach (Å), and number of pieces."""
        gap = self.limits.max_gap_ang
        reach = max(self.limits.min_distance_ang, gap or 0.0)
        i, j, d = neighbor_list("ijd", atoms, reach)  # (P,)
        closest = float(d.min()) if len(d) else np.inf
        if gap is None:
            return closest, 1
        near = d < gap
        n = len(atoms)
        graph = coo_array((np.ones(near.sum()), (i[near], j[near])), shape=(n, n))
        return closest, int(connected_components(graph, directed=False)[0])

    def _broken(self, atoms: Atoms) -> str:
        """The bond that is stretched most, if it is beyond the limit."""
        limit = self.limits.max_bond_stretch
        if limit is None or not len(self._bonds):
            return ""
        i, j = self._bonds.T
        _, lengths = find_mic(atoms.positions[j] - atoms.positions[i], atoms.cell, atoms.pbc)
        radii = covalent_radii[atoms.numbers]
        stretch = lengths / (radii[i] + radii[j])
        k = stretch.argmax()
        if stretch[k] <= limit:
            return ""
        bond = "-".join(f"{atoms.symbols[a]}{a}" for a in self._bonds[k])
        return (
            f"bond {bond} is {lengths[k]:.2f} Å long, {stretch[k]:.2f} times the sum of covalent "
            f"radii (limit {limit:g}): a molecule dissociated"
        )

    def check(self, atoms: Atoms, step: int, temperature_k: float, phase: str) -> None:
        """Raise if the structure is beyond a limit.

        Args:
            atoms: structure whose calculator has the forces.
            step: time step, for the message.
            temperature_k: instantaneous temperature in K.
            phase: what is running, for the message.

        Raises:
            ExplosionError: it is.
        """
        limits = self.limits
        force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())  # eV/Å
        energy = atoms.get_potential_energy()
        found = ""
        # written so that NaN is beyond every limit
        if not (force <= limits.max_force_ev_per_ang and np.isfinite(energy)):
            found = f"the largest force is {force:.4g} eV/Å (limit {limits.max_force_ev_per_ang:g})"
        elif not temperature_k <= limits.max_temperature_k:
            found = f"the temperature is {temperature_k:.4g} K (limit {limits.max_temperature_k:g})"
        elif step % limits.interval == 0:
            closest, pieces = self._distances(atoms)
            if closest < limits.min_distance_ang:
                found = f"two atoms are {closest:.3g} Å apart (limit {limits.min_distance_ang:g} Å)"
            elif pieces > self._pieces:
                found = (
                    f"it came apart into {pieces} pieces more than {limits.max_gap_ang:g} Å from "
                    f"each other (from {self._pieces} at the start)"
                )
            else:
                found = self._broken(atoms)
        if found:
            raise ExplosionError(
                f"{atoms.get_chemical_formula()} blew up at step {step} of the {phase}: {found}. "
                "Shorten timestep_fs, relax the structure, lower temperature_k, or train the model "
                "on such geometries; if this is no explosion, raise the limit",
                step,
            )
