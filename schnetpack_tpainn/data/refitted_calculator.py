"""A refitted force field as an ASE calculator."""

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from schnetpack_tpainn.data.bondgraph import BondGraph, refuse_changed
from schnetpack_tpainn.data.correction import Correction
from schnetpack_tpainn.data.training import existing_file
from schnetpack_tpainn.errors import DataError, LabelError

__all__ = ["RefittedForceField"]


class RefittedForceField(Calculator):
    """Energies and forces of a force field with a correction fitted to few labels.

    .. code-block:: yaml

        calculator:
          _target_: schnetpack_tpainn.data.refitted_calculator.RefittedForceField
          calculator:
            _target_: schnetpack_tpainn.data.rdkit.RDKitForceField
          file: data/tpainn_refit.refit.json

    Args:
        calculator: the force field that was corrected.
        file: what :class:`~schnetpack_tpainn.data.refitted.RefittedData` leaves beside its
            database.

    Raises:
        DataError: the file is absent or holds something else.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - as ASE declares it

    def __init__(self, calculator: Calculator, file: str) -> None:
        super().__init__()
        self.calculator = calculator
        self.correction = Correction.read(existing_file(file))
        self._graph: BondGraph | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Energy (eV) and forces (eV/Å).

        Args:
            atoms: the structure.
            properties: ASE's list of properties; both are always computed.
            system_changes: ASE's list of changes, unused.

        Raises:
            LabelError: the structure is periodic, of a molecule without labels, or a bond of the
                first structure is broken.
        """
        super().calculate(atoms, properties, system_changes)
        structure: Any = self.atoms
        if structure.pbc.any():
            raise LabelError("expected a molecule, got a periodic structure; set pbc to False")
        if self._graph is None or self._graph.numbers != tuple(structure.numbers.tolist()):
            self._graph = BondGraph.of(structure)
        if not self.correction.known(self._graph):
            raise LabelError(
                f"expected one of the labelled molecules {', '.join(self.correction.constants_ev)}"
                f", got {self._graph.name}; its bonds are perceived from the first structure"
            )
        positions = np.asarray(structure.positions)[None]
        try:
            refuse_changed(self._graph, positions, [0], "dynamics")
        except DataError as error:
            raise LabelError(str(error)) from error
        self.calculator.calculate(structure, ["energy", "forces"], all_changes)
        energies, forces = self.correction.apply(self._graph, positions)
        self.results["energy"] = float(self.calculator.results["energy"] + energies[0])
        self.results["forces"] = self.calculator.results["forces"] + forces[0]
