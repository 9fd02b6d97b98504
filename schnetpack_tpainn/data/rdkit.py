"""RDKit's classical force fields as an ASE calculator."""

from typing import Any

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
    the first geometry seen; they stay fixed, as in any classical force field, until a structure
    comes in which a perceived bond is stretched by half.

    .. code-block:: yaml

        calculator:
          _target_: schnetpack_tpainn.data.rdkit.RDKitForceField
          force_field: MMFF94

    Args:
        force_field: ``MMFF94``, ``MMFF94s`` or ``UFF``.
        smiles: SMILES whose atom order, hydrogens added last, is that of the structures.
        charge: total charge in units of e, for bonds perceived from a geometry.

    Raises:
        LabelError: the force field is not one of these.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - as ASE declares it

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
        self._molecule: Any = None  # the force field refers to it
        self._field: Any = None
        self._bonds = np.zeros((0, 2), dtype=int)  # perceived ones, (bonds, 2)
        self._longest = np.zeros(0)  # Å, (bonds,)

    def _perceive(self, atoms: Atoms) -> Any:
        """RDKit molecule with bonds found from the geometry."""
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdDetermineBonds

        block = f"{len(atoms)}\n\n" + "\n".join(
            f"{s} {x:.8f} {y:.8f} {z:.8f}"
            for s, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
        )
        molecule = Chem.MolFromXYZBlock(block)
        try:
            with rdBase.BlockLogs():
                rdDetermineBonds.DetermineBonds(molecule, charge=self.charge)
        except ValueError as error:
            raise LabelError(
                f"RDKit cannot perceive the bonds of {atoms.get_chemical_formula()} "
                f"({error}); give the calculator its `smiles` or `charge`"
            ) from error
        return molecule

    def _from_smiles(self, smiles: str, atoms: Atoms) -> Any:
        """RDKit molecule of a SMILES string, with one conformer."""
        from rdkit import Chem, rdBase

        with rdBase.BlockLogs():
            molecule = Chem.MolFromSmiles(smiles)
        if molecule is None:
            raise LabelError(f"expected a SMILES string, RDKit cannot read {smiles!r}")
        molecule = Chem.AddHs(molecule)
        numbers = [a.GetAtomicNum() for a in molecule.GetAtoms()]
        if numbers != list(atoms.numbers):
            raise LabelError(
                f"SMILES {smiles!r} gives atoms {numbers}, the structure has "
                f"{list(atoms.numbers)}; the order must agree"
            )
        molecule.AddConformer(Chem.Conformer(len(atoms)))
        return molecule

    def _lengths(self, atoms: Atoms) -> np.ndarray:
        """Lengths of the perceived bonds in Å, shape (bonds,)."""
        i, j = self._bonds.T
        return np.linalg.norm(atoms.positions[i] - atoms.positions[j], axis=1)

    def _prepare(self, atoms: Atoms) -> Any:
        """RDKit force field of the structure's topology, built once."""
        smiles = self.smiles or atoms.info.get("smiles")
        key = (smiles, tuple(atoms.numbers))
        if key == self._key and (self._lengths(atoms) < self._longest).all():
            return self._field
        self._key = None
        molecule = self._perceive(atoms) if smiles is None else self._from_smiles(smiles, atoms)
        conformer = molecule.GetConformer()
        for i, position in enumerate(atoms.positions):
            conformer.SetAtomPosition(i, position.tolist())
        field = self._build(molecule)
        if field is None:
            raise LabelError(
                f"{self.force_field} has no parameters for {atoms.get_chemical_formula()}; "
                "use another force field or calculator"
            )
        field.Initialize()
        bonds = [] if smiles else [b.GetBeginAtomIdx() for b in molecule.GetBonds()]
        ends = [] if smiles else [b.GetEndAtomIdx() for b in molecule.GetBonds()]
        self._bonds = np.array([bonds, ends], dtype=int).T
        self._longest = 1.5 * self._lengths(atoms)
        self._key, self._molecule, self._field = key, molecule, field
        return field

    def _build(self, molecule: Any) -> Any:
        """RDKit force field of a molecule or complex, None without parameters."""
        from rdkit import rdBase
        from rdkit.Chem import rdForceFieldHelpers

        with rdBase.BlockLogs():
            if self.force_field == "UFF":
                if not rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
                    return None
                return rdForceFieldHelpers.UFFGetMoleculeForceField(
                    molecule, ignoreInterfragInteractions=False
                )
            parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(molecule, self.force_field)
            if parameters is None:
                return None
            return rdForceFieldHelpers.MMFFGetMoleculeForceField(
                molecule, parameters, ignoreInterfragInteractions=False
            )

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """ASE's test for changes, exact; its own costs more than a small molecule's forces.

        Args:
            atoms: the structure.
            tol: ASE's tolerance, unused.

        Returns:
            ASE's names of what has changed; here all or nothing.
        """
        last = self.atoms
        same = (
            last is not None
            and np.array_equal(last.positions, atoms.positions)
            and np.array_equal(last.numbers, atoms.numbers)
            and np.array_equal(last.pbc, atoms.pbc)
            and last.info.get("smiles") == atoms.info.get("smiles")
        )
        return [] if same else list(all_changes)

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
            LabelError: the structure is periodic, or has no bonds or parameters.
        """
        super().calculate(atoms, properties, system_changes)
        structure: Any = self.atoms
        if structure.pbc.any():
            raise LabelError("RDKit's force fields are for molecules; the structure is periodic")
        field = self._prepare(structure)
        flat = structure.positions.ravel().tolist()
        self.results["energy"] = field.CalcEnergy(flat) * KCAL_PER_MOL
        gradient = np.array(field.CalcGrad(flat)).reshape(-1, 3)
        self.results["forces"] = -gradient * KCAL_PER_MOL
