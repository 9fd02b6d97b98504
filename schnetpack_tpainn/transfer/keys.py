"""Runs on energies alone: keys that fit together, and models that predict forces all the same."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import schnetpack.properties as properties
from hydra.utils import instantiate
from omegaconf import DictConfig
from schnetpack.atomistic import Forces
from torch import nn

from schnetpack_tpainn.errors import TransferError

__all__ = ["check_config", "check_keys", "check_outputs", "config_with_forces", "with_forces"]


def check_keys(forces_key: str | None, data_key: str | None) -> None:
    """Refuse data that are loaded for another purpose than the task's.

    Args:
        forces_key: key of the forces in the task; None for energies alone.
        data_key: the same in the data module.

    Raises:
        TransferError: the two differ.
    """
    if forces_key != data_key:
        raise TransferError(
            f"expected task.forces_key and data.forces_key to be one, got {_said(forces_key)} and "
            f"{_said(data_key)}; set globals.forces_key alone (null: energies alone), both follow"
        )


def _said(key: str | None) -> str:
    return "null" if key is None else key


def check_outputs(
    model: Any, names: Sequence[str], energy_key: str, forces_key: str | None
) -> None:
    """Refuse a model that lacks what is trained, or computes forces that nobody asked for.

    Args:
        model: SchNetPack model.
        names: names of the outputs that the task trains or measures.
        energy_key: key of the energy.
        forces_key: key of the forces; None for energies alone.

    Raises:
        TransferError: model and outputs do not fit these keys.
    """
    predicted = sorted(str(output) for output in model.model_outputs)
    if forces_key is None and properties.R in model.required_derivatives:
        raise TransferError(
            "forces_key=null: expected a model for energies alone, got one that takes derivatives "
            f"by positions for its outputs ({', '.join(predicted)}); set globals.forces_key=null "
            "alone with model=tpainn_potential, which leaves out schnetpack.atomistic.Forces with "
            "a null force_key, or take that module out of model.output_modules"
        )
    wanted = {"task.energy_key": energy_key, "task.forces_key": forces_key}
    wanted |= {f"task.outputs[{k}].name": name for k, name in enumerate(names)}
    wrong = [f"{o}={key}" for o, key in wanted.items() if key is not None and key not in predicted]
    if wrong or not names:
        raise TransferError(
            f"expected outputs that the model predicts ({', '.join(predicted)}), got "
            f"{', '.join(wrong) or 'none'}; set globals.energy_key and globals.forces_key (null: "
            "energies alone) in place of single keys, or change task.outputs"
        )


def check_config(config: DictConfig) -> None:
    """Check the keys of a run before anything is made.

    Args:
        config: the configuration of the run; that of another task passes.

    Raises:
        TransferError: model, task and data do not fit together.
    """
    task, data = config.get("task"), config.get("data")
    if task is None or "forces_key" not in task:
        return
    if data is not None and "forces_key" in data:
        check_keys(task.forces_key, data.forces_key)
    names = [output.name for output in task.outputs if output.name is not None]
    check_outputs(instantiate(config.model), names, task.energy_key, task.forces_key)


def config_with_forces(model_config: Mapping[str, Any], energy_key: str) -> dict[str, Any]:
    """Hydra node of a model trained on energies alone, with forces among its outputs.

    Args:
        model_config: node of the model.
        energy_key: key of the energy.

    Returns:
        The node; forces, which no weight belongs to, are the energy's negative gradient.
    """
    nodes = [n for n in model_config["output_modules"] if n.get("force_key", "") is not None]
    forces = {"_target_": "schnetpack.atomistic.Forces", "energy_key": energy_key}
    return {**model_config, "output_modules": [*nodes, forces]}


def with_forces(model: nn.Module, energy_key: str) -> nn.Module:
    """A model trained on energies alone, with forces among its outputs.

    Args:
        model: SchNetPack model.
        energy_key: key of the energy.

    Returns:
        A model with the same weights, not copies of them.
    """
    made: Any = copy.copy(model)
    made._modules = dict(model._modules)
    forces = Forces(energy_key=energy_key).train(model.training)
    made.output_modules = nn.ModuleList([*made.output_modules, forces])
    made.collect_derivatives()
    made.collect_outputs()
    return made
