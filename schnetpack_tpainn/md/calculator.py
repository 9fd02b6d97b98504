"""The ASE calculator of SchNetPack models: a Verlet list, float64 energies, stress, checks."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
)
from ase.stress import full_3x3_to_voigt_6_stress
from schnetpack.interfaces import SpkCalculator
from schnetpack.model import AtomisticModel

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.files import file_sha256
from schnetpack_tpainn.md.converter import SystemConverter, check_structure
from schnetpack_tpainn.md.memory import MemoryCheck
from schnetpack_tpainn.md.neighbors import VerletList
from schnetpack_tpainn.md.potential import Potential, open_potential
from schnetpack_tpainn.md.repulsion import ZBL

__all__ = ["TPaiNNCalculator"]


class TPaiNNCalculator(SpkCalculator):
    """Energy (eV), forces (eV/Å) and stress (eV/Å³) of a SchNetPack model, for ASE.

    It takes any ``best_model``, whatever its representation, and is
    ``schnetpack.interfaces.SpkCalculator`` 2.2 with

    - a :class:`~schnetpack_tpainn.md.neighbors.VerletList` with a skin, right for changing cells;
      atoms may leave the cell, and the cell may be smaller than the cutoff;
    - energies added up in float64, from the atoms' contributions to the atomic reference energies;
    - the stress, also of models that were trained without one;
    - the model's own cutoff and, if recorded, units and elements;
    - no gradients of the parameters, no tensor made twice that did not change;
    - an error for coincident atoms, NaN, cells without volume, and too little memory.

    .. code-block:: yaml

        calculator:
          _target_: schnetpack_tpainn.md.TPaiNNCalculator
          path: runs/autotuned/best_model

    Args:
        path: the model as SchNetPack's training saved it, or a portable ``.safetensors`` file.
            Unpickling runs code: of the former, open only models that you trust.
        device: ``cpu``, ``cuda``, ``cuda:1`` ..., or ``auto``: the GPU if there is one.
        dtype: ``float32`` or ``float64``, of the network.
        energy_key: name of the energy among the model's outputs.
        force_key: name of the forces among the model's outputs.
        stress_key: name of the stress among the model's outputs.
        stress: compute the stress even if the model was trained without it, as the derivative of
            the energy by strain; NPT dynamics and cell relaxation need it.
        energy_unit: the model's unit of energy; by default what it recorded, or eV. Its unit of
            length must be Å: none is converted.
        skin_ang: the neighbour list reaches so much further than the cutoff, in Å. It changes no
            energy, only how often the list is made: 0 makes it at every step.
        repulsion: add the repulsion of nuclei closer than any bond,
            :class:`~schnetpack_tpainn.md.ZBL`; nothing else changes.

    Raises:
        CheckpointError: a portable file is damaged, or does not say how its model is built.
        MDError: the file is missing or holds no SchNetPack model, the model has no cutoff or lacks
            an output, it was not trained in Å, or device, dtype or skin are unknown.
    """

    implemented_properties: tuple[str, ...] = ("energy", "free_energy", "forces", "stress")

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        dtype: str = "float32",
        energy_key: str = "energy",
        force_key: str = "forces",
        stress_key: str = "stress",
        stress: bool = False,
        energy_unit: str | None = None,
        skin_ang: float = 0.5,
        repulsion: bool = False,
    ) -> None:
        if not skin_ang >= 0:
            raise MDError(f"expected skin_ang >= 0, got {skin_ang}")
        potential = open_potential(
            path, device, dtype, energy_key, force_key, stress_key, stress, energy_unit
        )
        self._set_up(potential, skin_ang, repulsion, {"model_sha256": file_sha256(path)})

    def _set_up(
        self, potential: Potential, skin_ang: float, repulsion: bool, provenance: dict[str, Any]
    ) -> None:
        """What all calculators have; the neighbour list is for the cutoff of one potential."""
        self.potential, self.repulsion = potential, ZBL() if repulsion else None
        super().__init__(
            potential.model,
            neighbor_list=VerletList(potential.cutoff, skin_ang, potential.device),
            energy_key=potential.energy_key,
            force_key=potential.force_key,
            stress_key=potential.stress_key,
            energy_unit=potential.energy_unit,
            device=potential.device,
            dtype=potential.dtype,
            converter=_converter,
        )
        self._check_memory = MemoryCheck(potential, skin_ang)
        self.provenance = {
            **provenance,
            "dtype": str(potential.dtype).removeprefix("torch."),
            "energy_unit": potential.energy_unit,
            "repulsion": repulsion,
        }

    def _load_model(self, model: AtomisticModel, device: Any, dtype: Any) -> AtomisticModel:
        """Called by the parent, which would cast energies and offsets to the network's type."""
        return model

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """All properties, in one pass through the network.

        Args:
            atoms: the structure (Å).
            properties: ASE's list of properties; all are always computed.
            system_changes: ASE's list of what is new.

        Raises:
            MDError: the structure has an element that the model does not know, atoms in the same
                place, NaN, or a cell without volume; or the memory does not suffice.
            PropertyNotImplementedError: the stress was asked for, and either the model does not
                compute it or the structure is not periodic in three directions.
        """
        Calculator.calculate(self, atoms, properties, system_changes)
        has_stress = self._has_stress(self.atoms, "stress" in (properties or ()))
        check_structure(self.atoms.positions, self.atoms.cell.array, self.atoms.pbc)
        if "numbers" in system_changes:
            self.potential.check_elements(self.atoms.numbers.tolist())
            self._check_memory(self.atoms)
        self.results = self._evaluate(self.converter(self.atoms), has_stress)
        if self.repulsion is not None:
            self.repulsion.calculate(self.atoms)
            for name in self.results.keys() & self.repulsion.results.keys():
                self.results[name] = self.results[name] + self.repulsion.results[name]
        self.results["free_energy"] = self.results["energy"]

    def _evaluate(self, inputs: dict[str, torch.Tensor], has_stress: bool) -> dict[str, Any]:
        """The results for ASE of one batch."""
        return self._of_model(self.model, inputs, has_stress)

    def _of_model(
        self, model: AtomisticModel, inputs: dict[str, torch.Tensor], has_stress: bool
    ) -> dict[str, Any]:
        """What one network says: energy in eV, forces in eV/Å (N, 3), stress in eV/Å³ (6,)."""
        outputs = model(inputs)
        results = {
            "energy": self._in_ase_units(outputs, "energy").item(),
            "forces": self._in_ase_units(outputs, "forces"),
        }
        if has_stress:
            # SchNetPack divides by a volume that is negative for left-handed cells
            sign = np.sign(self.atoms.cell.handedness)
            stress = sign * self._in_ase_units(outputs, "stress")[0]  # (3, 3)
            results["stress"] = full_3x3_to_voigt_6_stress(stress)
        return results

    def renew_neighbors(self) -> None:
        """Make the neighbour list anew at the next step, wherever the atoms have moved."""
        self.converter.neighbor_list.renew()

    def _in_ase_units(self, outputs: dict[str, torch.Tensor], name: str) -> np.ndarray:
        tensor = outputs[self.property_map[name]].detach().cpu()
        return tensor.numpy() * self.property_units[name]

    def _has_stress(self, atoms: Atoms, wanted: bool) -> bool:
        if wanted and self.stress_key is None:
            raise PropertyNotImplementedError(
                "expected a model that computes the stress, got one that does not; make the "
                "calculator with stress=True"
            )
        if wanted and not atoms.pbc.all():
            raise PropertyNotImplementedError(
                "expected a structure that is periodic in three directions, for the stress is per "
                f"volume, got pbc={atoms.pbc.tolist()}"
            )
        return self.stress_key is not None and bool(atoms.pbc.all())


def _converter(
    neighbor_list: VerletList, device: torch.device, dtype: torch.dtype, **unused: Any
) -> SystemConverter:
    """Called by the parent in the place of ``AtomsConverter``."""
    return SystemConverter(neighbor_list, device, dtype)
