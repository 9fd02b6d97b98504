"""OpenMM force fields of periodic liquids as an ASE calculator."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import kJ, mol

from schnetpack_tpainn.data.liquid import Molecules, waters
from schnetpack_tpainn.data.openmm_system import (
    build_system,
    fitting_cutoff,
    lattice_nm,
    make_context,
)
from schnetpack_tpainn.data.openmm_topology import read_pdb, require_openmm, topology_of
from schnetpack_tpainn.errors import LabelError

__all__ = ["KJ_PER_MOL", "OpenMMForceField"]

KJ_PER_MOL = kJ / mol  # in eV
STRAIN = 1e-3
CHANGE = 0.02  # of the cell, after which the Ewald grid is laid anew


def _periodic(atoms: Atoms) -> bool:
    """Whether a structure is periodic in three directions, not in none."""
    if atoms.pbc.any() and (not atoms.pbc.all() or atoms.cell.rank < 3):
        raise LabelError(
            "expected a structure that is periodic in three directions or none, got pbc "
            f"{atoms.pbc.tolist()} and a cell of rank {atoms.cell.rank}"
        )
    return bool(atoms.pbc.all())


class OpenMMForceField(Calculator):
    """Energy, forces and stress of a liquid of flexible molecules.

    A periodic structure's charges are summed by PME; Lennard-Jones terms end smoothly at the cutoff
    and have OpenMM's correction for what lies beyond. A structure without a cell is computed with
    all its pairs. Molecules may be cut by the cell's faces. The stress is the derivative of the
    energy by central finite strains of 0.001, twelve evaluations; its isotropic part takes two.

    .. code-block:: yaml

        calculator:
          _target_: schnetpack_tpainn.data.openmm.OpenMMForceField
          model: iamoeba
          cutoff_ang: 5.5

    Args:
        model: flexible water ``iamoeba`` (Wang et al. 2013), ``spcfw`` (Wu, Tepper, Voth 2006) or
            ``tip3p`` (Jorgensen et al. 1983, with the bonds of its AMBER form), or OpenMM XML
            files.
        topology: PDB file with the molecules' residues and bonds; None for water, whose atoms are
            ordered O, H, H.
        cutoff_ang: cutoff of pair terms in Å; None: what fits into the cell. State it where
            energies of cells of different size are compared.
        platform: OpenMM's platform: ``CPU``, ``CUDA``, ``OpenCL`` or ``Reference`` (double
            precision).
        threads: threads of the platform ``CPU``.
        isotropic_stress: give the mean of the stress's diagonal in its place, and zero off it: all
            that a barostat needs which scales the cell alike in all directions.

    Raises:
        LabelError: OpenMM is not installed, or cannot read the topology.
    """

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE declares it

    def __init__(
        self,
        model: str | Sequence[str] = "iamoeba",
        topology: str | None = None,
        cutoff_ang: float | None = None,
        platform: str = "CPU",
        threads: int = 1,
        isotropic_stress: bool = False,
    ) -> None:
        super().__init__()
        require_openmm()
        self.isotropic_stress = isotropic_stress
        self.model = model if isinstance(model, str) else list(model)
        self.cutoff_ang, self.platform, self.threads = cutoff_ang, platform, threads
        self._topology: Any = None
        self._molecules: Molecules | None = None
        self._fixed = topology is not None
        if topology is not None:
            self._topology, atoms = read_pdb(topology)
            bonds = [(b[0].index, b[1].index) for b in self._topology.bonds()]
            self._molecules = Molecules(atoms.numbers, np.array(bonds, dtype=int).reshape(-1, 2))
        self._cutoff, self._cell = 0.0, np.zeros((3, 3))  # Å, of the context
        self._context: Any = None

    def molecules(self, atoms: Atoms) -> Molecules:
        """The molecules that a structure must consist of.

        Args:
            atoms: the structure.

        Returns:
            Those of the topology, or water.

        Raises:
            LabelError: its number of atoms is not that of water molecules.
        """
        if self._molecules is None or not (
            self._fixed or len(self._molecules.numbers) == len(atoms)
        ):
            if len(atoms) == 0 or len(atoms) % 3:
                raise LabelError(
                    f"expected water, three atoms a molecule, got {atoms.get_chemical_formula()}; "
                    "for other liquids give a topology (PDB)"
                )
            self._molecules = waters(len(atoms) // 3)
            self._topology = topology_of(self._molecules)
            self._context = None
        return self._molecules

    def system(self, atoms: Atoms, accurate: bool = True) -> Any:
        """A new OpenMM system for a structure.

        Args:
            atoms: the structure (Å), periodic in three directions or none.
            accurate: Ewald sums for labels, or for dynamics alone.

        Returns:
            The system; its default box is the structure's, in OpenMM's orientation.

        Raises:
            LabelError: the cell is too narrow, or periodic in part; see also
                :func:`~schnetpack_tpainn.data.openmm_system.build_system`.
        """
        self.molecules(atoms)
        if not _periodic(atoms):
            return build_system(self.model, self._topology, None, np.inf)
        cutoff = fitting_cutoff(atoms.cell, self.cutoff_ang)
        lower = np.array(atoms.cell.standard_form()[0])
        return build_system(self.model, self._topology, lower, cutoff, accurate)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Energy (eV), forces (eV/Å) and, where it is asked for, stress (eV/Å³).

        Args:
            atoms: the structure.
            properties: ASE's list of properties.
            system_changes: ASE's list of changes, unused.

        Raises:
            LabelError: the atoms are not in the topology's order, a molecule is broken, the box is
                too small, the force field is not flexible or does not fit, or energy or forces
                are not finite.
        """
        super().calculate(atoms, properties, system_changes)
        structure: Any = self.atoms
        positions = self.molecules(structure).whole(structure)
        periodic, with_stress = _periodic(structure), "stress" in (properties or [])
        if with_stress and not periodic:
            raise LabelError("expected a periodic structure for a stress, got one without a cell")
        self._prepare(structure)
        lower, rotation = np.eye(3), np.eye(3)
        if periodic:
            lower, rotation = map(np.array, structure.cell.standard_form())
        turned = positions @ rotation.T
        state = self._state(turned, lower if periodic else None, forces=True)
        energy = state.getPotentialEnergy()._value * KJ_PER_MOL
        forces = state.getForces(asNumpy=True)._value @ rotation * (KJ_PER_MOL / 10)
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise LabelError("OpenMM's energy or forces are not finite; do atoms overlap?")
        self.results = {"energy": float(energy), "forces": forces}
        if with_stress:
            stress = rotation.T @ self._stress(turned, lower) @ rotation
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)

    def _prepare(self, atoms: Atoms) -> None:
        """A context with a grid for the structure's cell, made anew when that has changed."""
        cutoff, cell = 0.0, np.zeros((3, 3))
        if _periodic(atoms):
            cutoff, cell = fitting_cutoff(atoms.cell, self.cutoff_ang), atoms.cell.array.copy()
        near = np.abs(cell - self._cell).max() <= CHANGE * np.abs(cell).max()
        if self._context is None or cutoff != self._cutoff or not near:
            system = self.system(atoms)
            integrator = require_openmm().VerletIntegrator(0.001)  # never steps
            self._context = make_context(system, integrator, self.platform, self.threads)
            self._cutoff, self._cell = cutoff, cell

    def _state(self, positions: np.ndarray, lower: np.ndarray | None, forces: bool) -> Any:
        """OpenMM's state of positions and lower triangular cell in Å."""
        openmm = require_openmm()
        try:
            if lower is not None:
                self._context.setPeriodicBoxVectors(*(openmm.Vec3(*v) for v in lattice_nm(lower)))
            self._context.setPositions(positions / 10)
            return self._context.getState(energy=True, forces=forces)
        except openmm.OpenMMException as error:
            raise LabelError(f"OpenMM failed: {error}") from error

    def _stress(self, positions: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Stress in eV/Å³, shape (3, 3), by strains that keep the cell lower triangular.

        The energy does not change when everything is turned, so that its derivative by a lower
        triangular strain gives the symmetric stress, too.
        """
        if self.isotropic_stress:
            stress = np.eye(3) * self._derivative(positions, lower, np.eye(3)) / 3
        else:
            stress = np.zeros((3, 3))
            for i, j in zip(*np.tril_indices(3), strict=True):
                direction = np.zeros((3, 3))
                direction[i, j] = 1.0
                stress[i, j] = stress[j, i] = self._derivative(positions, lower, direction)
        return stress / abs(np.linalg.det(lower))

    def _derivative(self, positions: np.ndarray, lower: np.ndarray, direction: np.ndarray) -> float:
        """Derivative of the energy by a strain, in eV."""
        energies = []
        for sign in (1, -1):
            strain = np.eye(3) + sign * STRAIN * direction
            state = self._state(positions @ strain, lower @ strain, forces=False)
            energies.append(state.getPotentialEnergy()._value * KJ_PER_MOL)
        return (energies[0] - energies[1]) / (2 * STRAIN)
