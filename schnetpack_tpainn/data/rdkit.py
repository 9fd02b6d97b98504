"""RDKit's classical force fields as an ASE calculator."""

from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.units import kcal, mol

from schnetpack_tpainn.errors import LabelError

__all__ = ["RDKitForceField"]

KCAL_PER_MOL = kcal / mol  # in eV


class RDKitForceField(Calculator):
    """MMFF94 (Halgren 1996) or UFF (Rappé 1992) energies and forces of a molecule.

    The bonds come from ``smiles``, from the structure's ``info["smiles"]``, or are perceived from
    the first geometry seen; they stay fixed, as in any classical force field.

    Args:
        force_field: ``MMFF94``, ``MMFF94s`` or ``UFF``.
        smiles: SMILES whose atom order, hydrogens added last, is that of the structures.
        charge: total charge in units of e, for bonds perceived from a geometry.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(
        self, force_field: str = "MMFF94", smiles: str | None = None, charge: int = 0
    ) -> None:
        super().__init__()
        if force_field not in ("MMFF94", "MMFF94s", "UFF"):
            raise LabelError(f"expected force_field MMFF94, MMFF94s or UFF, got {force_field!r}")
        self.force_field = force_field
        self.smiles = smiles
        self.charge = charge
        self._key: Any = None
        self._field: Any = None

    def _topology(self, atoms: Atoms) -> Any:
        """RDKit molecule with bonds and one conformer for a structure."""
        from rdkit import Chem, RDLogger
        from rdkit.Chem import rdDetermineBonds

        RDLogger.DisableLog("rdApp.*")
        smiles = self.smiles or atoms.info.get("smiles")
        if smiles is None:
            block = f"{len(atoms)}\n\n" + "\n".join(
                f"{s} {x:.8f} {y:.8f} {z:.8f}"
                for s, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
            )
            molecule = Chem.MolFromXYZBlock(block)
            try:
                rdDetermineBonds.DetermineBonds(molecule, charge=self.charge)
            except ValueError as error:
                raise LabelError(
                    f"RDKit cannot perceive the bonds of {atoms.get_chemical_formula()} "
                    f"({error}); give the calculator its `smiles` or `charge`"
                ) from error
            return molecule
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        numbers = [a.GetAtomicNum() for a in molecule.GetAtoms()]
        if numbers != list(atoms.numbers):
            raise LabelError(
                f"SMILES {smiles!r} gives atoms {numbers}, the structure has "
                f"{list(atoms.numbers)}; the order must agree"
            )
        conformer = Chem.Conformer(len(atoms))
        molecule.AddConformer(conformer)
        return molecule

    def _prepare(self, atoms: Atoms) -> Any:
        """RDKit force field of the structure's topology, built once."""
        from rdkit.Chem import AllChem

        key = (self.smiles or atoms.info.get("smiles"), tuple(atoms.numbers))
        if key == self._key:
            return self._field
        molecule = self._topology(atoms)
        self._molecule = molecule  # the force field refers to it
        conformer = molecule.GetConformer()
        for i, position in enumerate(atoms.positions):
            conformer.SetAtomPosition(i, position.tolist())
        if self.force_field == "UFF":
            usable = AllChem.UFFHasAllMoleculeParams(molecule)
            field = AllChem.UFFGetMoleculeForceField(molecule) if usable else None
        else:
            properties = AllChem.MMFFGetMoleculeProperties(molecule, self.force_field)
            field = properties and AllChem.MMFFGetMoleculeForceField(molecule, properties)
        if field is None:
            raise LabelError(
                f"{self.force_field} has no parameters for {atoms.get_chemical_formula()}; "
                "use another force field or calculator"
            )
        field.Initialize()
        self._key, self._field = key, field
        return field

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
            LabelError: periodic structure, no bonds, or no parameters.
        """
        super().calculate(atoms, properties, system_changes)
        if self.atoms.pbc.any():
            raise LabelError("RDKit's force fields are for molecules; the structure is periodic")
        field = self._prepare(self.atoms)
        flat = self.atoms.positions.ravel().tolist()
        self.results["energy"] = field.CalcEnergy(flat) * KCAL_PER_MOL
        gradient = np.array(field.CalcGrad(flat)).reshape(-1, 3)
        self.results["forces"] = -gradient * KCAL_PER_MOL
