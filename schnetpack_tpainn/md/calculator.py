"""SchNetPack's ASE calculator for a ``best_model``, with its sharp edges taken off."""

import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import all_changes
from ase.data import chemical_symbols
from schnetpack.interfaces import SpkCalculator
from schnetpack.model import AtomisticModel
from schnetpack.transform import CastTo64, MatScipyNeighborList
from schnetpack.units import convert_units
from schnetpack.utils import load_model

from schnetpack_tpainn.errors import MDError

__all__ = ["ModelCalculator"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class ModelCalculator(SpkCalculator):
    """Energy (eV) and forces (eV/Å) of a SchNetPack ``best_model``, whatever its representation.

    This is ``schnetpack.interfaces.SpkCalculator`` 2.2 with the model's own cutoff for its
    neighbour list, except that

    - the path may be a ``pathlib.Path``;
    - the energy is float64 throughout the postprocessors. The parent casts the atomic reference
      energies to the network's float32, which costs 1e-4 eV at 1e4 eV;
    - no gradients of the parameters are prepared.

    .. code-block:: yaml

        calculator:
          _target_: schnetpack_tpainn.md.ModelCalculator
          path: runs/autotuned/best_model

    Args:
        path: the model as SchNetPack's training saved it. Unpickling runs code: open only models
            that you trust.
        device: ``cpu``, ``cuda``, ``cuda:1`` ..., or ``auto``: the GPU if there is one.
        dtype: ``float32`` or ``float64``, of the network.
        energy_key: name of the energy among the model's outputs.
        force_key: name of the forces among the model's outputs.
        energy_unit: the model's unit of energy; by default what it recorded, or eV. Its unit of
            length must be Å: the parent converts none.

    Raises:
        MDError: the file is missing or holds no SchNetPack model, the model has no cutoff or lacks
            an output, it was not trained in Å, or device or dtype are unknown.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        dtype: str = "float32",
        energy_key: str = "energy",
        force_key: str = "forces",
        energy_unit: str | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise MDError(f"expected dtype float32 or float64, got {dtype!r}")
        where = _device(device)
        model = _load(Path(path), where)
        _check_outputs(model, {"energy_key": energy_key, "force_key": force_key})
        unit = _energy_unit(model, energy_unit)
        super().__init__(
            model,
            neighbor_list=MatScipyNeighborList(cutoff=_cutoff(model)),
            energy_key=energy_key,
            force_key=force_key,
            energy_unit=unit,
            device=where,
            dtype=DTYPES[dtype],
        )
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        self.provenance = {"model_sha256": digest, "dtype": dtype, "energy_unit": unit}

    def _load_model(
        self, model: AtomisticModel, device: torch.device, dtype: torch.dtype
    ) -> AtomisticModel:
        """Called by the parent: the network gets ``dtype``, its postprocessors float64."""
        postprocessors = model.postprocessors.to(device=device, dtype=torch.float64)
        model.postprocessors = torch.nn.ModuleList()
        model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
        if not any(isinstance(p, CastTo64) for p in postprocessors):
            postprocessors.insert(0, CastTo64())
        model.postprocessors = postprocessors
        return model

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Energy and forces, in one pass through the network.

        Args:
            atoms: the structure (Å).
            properties: ASE's list of properties; both are always computed.
            system_changes: ASE's list of what is new.

        Raises:
            MDError: the structure has an element that the model does not know.
        """
        if atoms is not None and "numbers" in system_changes:
            _check_elements(self.model, atoms)
        super().calculate(atoms, properties, system_changes)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise MDError(
            f"expected device auto, cpu or a GPU of this machine, got {name!r}: {error}"
        ) from error
    return torch.device(name)


def _load(path: Path, device: torch.device) -> AtomisticModel:
    if not path.is_file():
        raise MDError(
            f"expected a SchNetPack model, got {path}: no such file; give the `best_model` "
            "of a training run"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*torch.jit.*", FutureWarning)
            return load_model(str(path), device=device)
    except Exception as error:  # unpickling raises anything
        raise MDError(
            f"expected a SchNetPack model, got {path}, which cannot be read as one "
            f"({type(error).__name__}: {error}); give the `best_model` of a training run, not a "
            "Lightning checkpoint or a state dict, and install the packages it was made with"
        ) from error


def _cutoff(model: AtomisticModel) -> float:
    """Cutoff radius of the model's representation in Å."""
    representation = getattr(model, "representation", None)
    cutoff = getattr(representation, "cutoff", None)
    if cutoff is None:
        cutoff = getattr(getattr(representation, "cutoff_fn", None), "cutoff", None)
    if cutoff is None:
        raise MDError(
            f"the representation {type(representation).__name__} of the model names no cutoff: "
            "expected its attribute `cutoff` or `cutoff_fn.cutoff` in Å"
        )
    return float(cutoff)


def _check_outputs(model: AtomisticModel, keys: dict[str, str]) -> None:
    outputs = sorted(model.model_outputs or [])
    for name, key in keys.items():
        if key not in outputs:
            raise MDError(
                f"expected {name}={key!r} among the outputs of the model, got {outputs}; "
                f"set {name} to one of them"
            )


def _metadata(model: AtomisticModel) -> dict[str, Any]:
    """What the model's training recorded in it; our tasks do, SchNetPack's do not."""
    return getattr(model, "metadata", None) or {}


def _energy_unit(model: AtomisticModel, given: str | None) -> str:
    units = _metadata(model).get("units", {})
    length = units.get("distance", "Ang")
    if abs(convert_units(length, "Ang") - 1) > 1e-9:
        raise MDError(
            f"expected a model trained with positions in Å, got {length!r}; train with "
            "data.distance_unit=Ang, SchNetPack converts the data"
        )
    unit = given or units.get("energy", "eV")
    try:
        convert_units(unit, "eV")
    except Exception as error:  # ASE's parser raises anything
        raise MDError(f"expected energy_unit such as eV or kcal/mol, got {unit!r}") from error
    return unit


def _check_elements(model: AtomisticModel, atoms: Atoms) -> None:
    known = _metadata(model).get("elements")
    strange = set(atoms.numbers.tolist()) - set(known or ())
    if known is not None and strange:
        raise MDError(
            f"expected the elements that the model was trained for ({_names(known)}), got "
            f"{_names(strange)} too; train a model with them"
        )


def _names(numbers: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in sorted(numbers))
