"""A SchNetPack ``best_model`` or a portable file made ready for simulation."""

import warnings
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from schnetpack.atomistic import Atomwise, Forces
from schnetpack.md.utils import activate_model_stress
from schnetpack.model import AtomisticModel
from schnetpack.transform import CastTo64
from schnetpack.units import convert_units
from schnetpack.utils import load_model

from schnetpack_tpainn.errors import MDError

__all__ = ["Potential", "open_potential"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Potential:
    """A model with what a simulation needs to know of it.

    Attributes:
        model: the model, in evaluation mode, without gradients of the parameters; its energy is
            float64 from the sum over the atoms on.
        device: where it runs.
        dtype: floating-point type of the network.
        cutoff: of its representation, in Å.
        energy_key: name of the energy among its outputs.
        force_key: name of the forces.
        stress_key: name of the stress, None if it computes none.
        energy_unit: its unit of energy.
    """

    model: AtomisticModel
    device: torch.device
    dtype: torch.dtype
    cutoff: float
    energy_key: str
    force_key: str
    stress_key: str | None
    energy_unit: str

    @property
    def elements(self) -> list[int] | None:
        """Atomic numbers that the model was trained for, if it says for which."""
        return _metadata(self.model).get("elements")

    def check_elements(self, numbers: Iterable[int]) -> None:
        """Refuse elements that the model was not trained for, if it says for which it was.

        Args:
            numbers: atomic numbers.

        Raises:
            MDError: one of them is unknown.
        """
        known = self.elements
        strange = set(numbers) - set(known or ())
        if known is not None and strange:
            raise MDError(
                f"expected the elements that the model was trained for ({_names(known)}), got "
                f"{_names(strange)} too; train a model with them"
            )


def open_potential(
    source: str | Path | AtomisticModel,
    device: str,
    dtype: str,
    energy_key: str,
    force_key: str,
    stress_key: str,
    stress: bool,
    energy_unit: str | None,
) -> Potential:
    """Load a model, check it, and give it device, precision and stress.

    Args:
        source: the model, or the path of a ``best_model`` or a portable ``.safetensors`` file.
        device: ``cpu``, ``cuda``, ``cuda:1`` ..., or ``auto``.
        dtype: ``float32`` or ``float64``.
        energy_key: name of the energy among the model's outputs.
        force_key: name of the forces.
        stress_key: name of the stress.
        stress: compute the stress where the model does not do so by itself.
        energy_unit: the model's unit of energy; by default what it recorded, or eV.

    Returns:
        The potential; ``source`` is left as it is.

    Raises:
        CheckpointError: a portable file is damaged, or does not say how its model is built.
        MDError: one of them is not as expected.
    """
    if dtype not in DTYPES:
        raise MDError(f"expected dtype float32 or float64, got {dtype!r}")
    where = _device(device)
    model = deepcopy(source) if isinstance(source, AtomisticModel) else _load(Path(source), where)
    _check_outputs(model, {"energy_key": energy_key, "force_key": force_key})
    unit = _energy_unit(model, energy_unit)
    cutoff = _cutoff(model)
    if stress and stress_key not in model.model_outputs:
        _activate_stress(model, stress_key)
    return Potential(
        model=_prepared(model, where, DTYPES[dtype]),
        device=where,
        dtype=DTYPES[dtype],
        cutoff=cutoff,
        energy_key=energy_key,
        force_key=force_key,
        stress_key=stress_key if stress_key in model.model_outputs else None,
        energy_unit=unit,
    )


def _prepared(model: AtomisticModel, device: torch.device, dtype: torch.dtype) -> AtomisticModel:
    """The network gets ``dtype``; the sum over the atoms and the postprocessors get float64."""
    postprocessors = model.postprocessors.to(device=device, dtype=torch.float64)
    model.postprocessors = torch.nn.ModuleList()
    model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, Atomwise):
            module.outnet.register_forward_hook(_to_float64)
    if not any(isinstance(p, CastTo64) for p in postprocessors):
        postprocessors.insert(0, CastTo64())
    model.postprocessors = postprocessors
    return model


def _to_float64(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return output.double()


def _activate_stress(model: AtomisticModel, key: str) -> None:
    """Let the module of the forces compute the response to a strain too."""
    for module in model.output_modules:
        if isinstance(module, Forces):
            module.stress_key = key
    try:
        activate_model_stress(model, key)
    except Exception as error:  # SchNetPack's own, or what a module lacks
        raise MDError(
            "expected a model whose forces come from schnetpack.atomistic.Forces, which can "
            f"compute the stress too, got {[type(m).__name__ for m in model.output_modules]}; "
            "leave stress=True away"
        ) from error


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
            f"expected a SchNetPack model, got {path}: no such file; give the `best_model` or the "
            "`model.safetensors` of a training run"
        )
    if path.suffix == ".safetensors":
        from schnetpack_tpainn.transfer.portable import build_model
        from schnetpack_tpainn.transfer.pretrained import load_pretrained

        return build_model(load_pretrained(path)).to(device)
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


def _check_outputs(model: AtomisticModel, names: dict[str, str]) -> None:
    outputs = sorted(model.model_outputs or [])
    for name, key in names.items():
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


def _names(numbers: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in sorted(numbers))
