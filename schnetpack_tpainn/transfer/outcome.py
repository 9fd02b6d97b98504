"""What came of a run: its history, its errors by element, and how it stands beside its start."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from schnetpack import AtomisticTask
from torch import Tensor, nn

from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.evaluate import MEV, Predictions
from schnetpack_tpainn.transfer.lora import merged
from schnetpack_tpainn.transfer.offsets import get_offsets
from schnetpack_tpainn.transfer.parameters import block_of, names_of

__all__ = [
    "ADVICE",
    "TARGETS",
    "count_parameters",
    "described_offsets",
    "errors_by_element",
    "find_warnings",
    "history",
    "learning_rates",
    "parameter_changes",
    "provenance",
    "targets",
    "write_predictions",
]

TARGETS = {"forces": ("forces_mae_mev_per_ang", "meV/Å"), "energy": ("energy_mae_mev", "meV")}
ADVICE = (
    "What to do: lower the learning rate (globals.lr), hold the weights (transfer/anchor=l2sp) or "
    "freeze blocks (transfer=frozen_embedding), keep the weights that validate best "
    "(callbacks.model_checkpoint.monitor=val_loss callbacks.model_checkpoint.mode=min), add "
    "labels, or ask tpainn-diagnose whether this force field is a useful teacher."
)


def targets(errors: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """What errors are of: forces and energy, or energy alone.

    Args:
        errors: what :func:`~schnetpack_tpainn.transfer.evaluate.errors` gave.

    Returns:
        Those entries of ``TARGETS`` that the errors have.
    """
    return {what: (key, unit) for what, (key, unit) in TARGETS.items() if key in errors}


def history(
    directory: Path, energy_key: str = "energy", forces_key: str | None = "forces"
) -> dict[str, np.ndarray]:
    """Validation errors of a run.

    Args:
        directory: run directory with the files of Lightning's CSV logger.
        energy_key: key of the energy in the model's results.
        forces_key: key of the forces; None for a run on energies alone.

    Returns:
        ``step``, ``energy`` (MAE, meV) and ``forces`` (MAE, meV/Å), each (T,), without ``forces``
        where there are none; T = 0 where no CSV logger was at work.
    """
    keys = {"energy": energy_key, "forces": forces_key}
    columns = {k: f"val_{key}_mae" for k, key in keys.items() if key is not None}
    found: dict[int, dict[str, float]] = {}
    files = directory.glob("csv/version_*/metrics.csv")  # one more after each resume
    for file in sorted(files, key=lambda f: int(f.parent.name.rpartition("_")[2])):
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                here = {k: float(row[c]) * MEV for k, c in columns.items() if row.get(c)}
                if here:
                    found[int(row["step"]) + 1] = here
    steps = sorted(found)
    known = [k for k in columns if all(k in found[s] for s in steps)]
    return {"step": np.array(steps), **{k: np.array([found[s][k] for s in steps]) for k in known}}


def errors_by_element(p: Predictions) -> dict[str, dict[str, float]]:
    """Errors of the forces on the atoms of each element.

    Args:
        p: predictions and labels.

    Returns:
        Element -> ``n_atoms`` and ``forces_mae_mev_per_ang`` over Cartesian components; none on
        energies alone.
    """
    found: dict[str, dict[str, float]] = {}
    if p.forces_error is None:
        return found
    error = p.forces_error.abs().mean(dim=1) * MEV  # (N,)
    for z in p.numbers.unique().tolist():
        here = error[p.numbers == z]
        found[chemical_symbols[z]] = {
            "n_atoms": len(here),
            "forces_mae_mev_per_ang": here.mean().item(),
        }
    return found


def count_parameters(task: Any) -> dict[str, int]:
    """Parameters in all, copied, reinitialised and frozen.

    Args:
        task: a TransferTask after its transfer step.

    Returns:
        Counts of scalars.
    """
    parameters = list(task.model.parameters())
    record = task.record
    return {
        "total": sum(p.numel() for p in parameters),
        "copied": record.total("copied") if record else 0,
        "reinitialised": record.total("reinitialised") if record else 0,
        "frozen": sum(p.numel() for p in parameters if not p.requires_grad),
    }


def described_offsets(model: nn.Module, energy_key: str) -> dict[str, float]:
    """Offsets of a model.

    Args:
        model: SchNetPack model.
        energy_key: key of the energy.

    Returns:
        Element -> eV, where it is not zero.
    """
    offsets = get_offsets(model, energy_key)
    return {chemical_symbols[z]: c for z, c in enumerate(offsets.tolist()) if c != 0.0}


def provenance(datamodule: Any) -> dict[str, Any]:
    """Where the data are and how they came about.

    Args:
        datamodule: data module, set up.

    Returns:
        ``path`` and the database's metadata.
    """
    metadata = {k: v for k, v in datamodule.dataset.metadata.items() if k != "atomrefs"}
    return {"path": str(Path(datamodule.datapath).resolve()), **metadata}


def write_predictions(path: Path, p: Predictions, offsets: Tensor) -> None:
    """Write predictions and labels, offsets added to both, at once.

    Args:
        path: ``.npz`` to write; without forces on energies alone.
        p: predictions and labels without offsets.
        offsets: eV per atomic number, (zmax,).
    """
    shift = p.composition @ offsets  # (M,)
    forces: dict[str, Any] = {}
    if p.forces is not None and p.forces_label is not None:
        forces["forces"] = p.forces.numpy().astype(np.float32)
        forces["forces_label"] = p.forces_label.numpy().astype(np.float32)
    temporary = path.with_name(f".{path.stem}.tmp.npz")
    np.savez_compressed(
        temporary,
        energy=(p.energy + shift).numpy(),
        energy_label=(p.energy_label + shift).numpy(),
        n_atoms=p.n_atoms.numpy().astype(int),
        **forces,
    )
    temporary.replace(path)


def _block(name: str) -> str:
    block, number = block_of(name)
    return block if number is None else f"{block} {number}"


def learning_rates(task: AtomisticTask) -> dict[str, Any]:
    """Learning rate and the factors on it, as the optimiser has them.

    Args:
        task: a task whose optimiser is set up.

    Returns:
        ``base``, ``groups`` (``factor`` and number of ``parameters``) and ``blocks``: block of the
        model -> lowest and highest factor, for blocks that are trained.
    """
    groups = [group for o in task.trainer.optimizers for group in o.param_groups]
    factors = {p: group["factor"] for group in groups for p in group["params"]}
    blocks: dict[str, list[float]] = {}
    for parameter, names in names_of(task.model).items():
        if parameter in factors:
            blocks.setdefault(_block(names[0]), []).append(factors[parameter])
    return {
        "base": task.lr,
        "groups": [
            {"factor": g["factor"], "parameters": sum(p.numel() for p in g["params"])}
            for g in groups
        ],
        "blocks": {block: [min(values), max(values)] for block, values in blocks.items()},
    }


def parameter_changes(start: Mapping[str, Tensor], model: nn.Module) -> dict[str, float]:
    r"""How far each block has moved: :math:`\lVert\theta - \theta_0\rVert / \lVert\theta_0\rVert`.

    Args:
        start: weights at the start, see
            :func:`~schnetpack_tpainn.transfer.copying.network_state`.
        model: the model as it is; adapters count as part of the weights they adapt.

    Returns:
        Block -> relative change; blocks that started at zero are left out.
    """
    state = network_state(model)
    squares: dict[str, tuple[float, float]] = {}
    for names in names_of(merged(model)).values():
        change, norm = squares.get(_block(names[0]), (0.0, 0.0))
        before = start[names[0]].double()
        difference = state[names[0]].double() - before
        squares[_block(names[0])] = (
            change + difference.square().sum().item(),
            norm + before.square().sum().item(),
        )
    return {block: math.sqrt(c / n) for block, (c, n) in squares.items() if n > 0}


def find_warnings(
    zero_shot: Mapping[str, float] | None,
    kept: Mapping[str, float],
    validations: Mapping[str, np.ndarray],
    scratch: Mapping[str, Any] | None = None,
) -> list[str]:
    """What a user must not miss: tuning that made the model worse, transfer that lost to scratch.

    Args:
        zero_shot: errors on the validation frames before any step; None where nothing was
            transferred.
        kept: errors on the same frames of the weights that were kept.
        validations: what :func:`history` gave.
        scratch: what :func:`against_scratch` gave.

    Returns:
        One sentence each; none where all went well.
    """
    found = []
    for what, (key, unit) in targets(kept).items():
        if zero_shot is not None and not kept[key] <= zero_shot[key]:  # true for NaN
            found.append(
                f"Tuning made the {what} worse: validation MAE {kept[key]:.1f} {unit} with the "
                f"weights that were kept, {zero_shot[key]:.1f} before any step"
                + _best(validations["step"], validations.get(what), zero_shot[key], unit)
            )
        if scratch is not None and not scratch["ratio"][key] >= 1:
            found.append(
                f"The run from scratch has the better {what}: test MAE "
                f"{scratch['test'][key]:.1f} {unit}, {1 / scratch['ratio'][key]:.2f} times lower."
            )
    return found


def _best(steps: np.ndarray, errors: np.ndarray | None, before: float, unit: str) -> str:
    """Whether any validation of the run was better than its start."""
    if errors is None or not np.isfinite(errors).any():
        return "."
    k = int(np.nanargmin(errors))
    if errors[k] < before:
        return f"; it was better on the way ({errors[k]:.1f} {unit} at step {steps[k]})."
    return f", and no validation of the run was better ({errors[k]:.1f} {unit} at best)."
