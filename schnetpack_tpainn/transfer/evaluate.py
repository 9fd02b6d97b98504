"""Predict a data set with a model and measure the errors."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import schnetpack.properties as properties
import torch
from schnetpack.model import AtomisticModel

__all__ = ["Predictions", "errors", "predict"]

MEV = 1e3  # meV in an eV


@dataclass(frozen=True)
class Predictions:
    """Predictions of a model beside the labels, offsets removed on both sides.

    Attributes:
        energy: predicted energies in eV, float64, (M,).
        energy_label: labels in eV, (M,).
        forces: predicted forces in eV/Å, (N, 3) over all atoms; None on energies alone.
        forces_label: labels in eV/Å, (N, 3); likewise.
        composition: atoms of each atomic number in each structure, (M, zmax).
        numbers: atomic number of every atom, int64, (N,).
    """

    energy: torch.Tensor
    energy_label: torch.Tensor
    forces: torch.Tensor | None
    forces_label: torch.Tensor | None
    composition: torch.Tensor
    numbers: torch.Tensor

    @property
    def n_atoms(self) -> torch.Tensor:
        """Atoms per structure, (M,)."""
        return self.composition.sum(dim=1)

    @property
    def forces_error(self) -> torch.Tensor | None:
        """Predicted forces less the labels in eV/Å, (N, 3); None on energies alone."""
        if self.forces is None or self.forces_label is None:
            return None
        return self.forces - self.forces_label


def predict(
    model: AtomisticModel,
    batches: Iterable[dict[str, torch.Tensor]],
    energy_key: str,
    forces_key: str | None,
    zmax: int = 100,
) -> Predictions:
    """Run a model without its postprocessors over batches of preprocessed samples.

    Args:
        model: SchNetPack model.
        batches: SchNetPack batches with labels, offsets removed.
        energy_key: key of the energy, in the results and in the batches.
        forces_key: key of the forces; None where the labels have none.
        zmax: number of atomic numbers provided for.

    Returns:
        Predictions and labels, on the CPU, float64.
    """
    device = next(model.parameters()).device
    columns: dict[str, list[torch.Tensor]] = {k: [] for k in Predictions.__annotations__}
    if forces_key is None:
        del columns["forces"], columns["forces_label"]
    training, postprocessing = model.training, model.do_postprocessing
    model.eval()
    model.do_postprocessing = False
    try:
        for batch in batches:
            columns["energy_label"].append(batch[energy_key])
            counts = torch.zeros(len(batch[properties.n_atoms]), zmax, dtype=torch.float64)
            one = torch.ones((), dtype=torch.float64)
            counts.index_put_((batch[properties.idx_m], batch[properties.Z]), one, accumulate=True)
            columns["composition"].append(counts)
            columns["numbers"].append(batch[properties.Z])
            with torch.set_grad_enabled(bool(model.required_derivatives)):
                results = model({k: v.to(device) for k, v in batch.items()})
            columns["energy"].append(results[energy_key].detach().cpu())
            if forces_key is not None:
                columns["forces_label"].append(batch[forces_key])
                columns["forces"].append(results[forces_key].detach().cpu())
    finally:
        model.train(training)
        model.do_postprocessing = postprocessing
    joined = {k: torch.cat(v) for k, v in columns.items()}
    found: dict[str, Any] = dict.fromkeys(Predictions.__annotations__)
    found |= {k: v.double() if v.is_floating_point() else v for k, v in joined.items()}
    return Predictions(**found)


def errors(p: Predictions) -> dict[str, float]:
    """Mean absolute, root-mean-square and mean errors.

    Args:
        p: predictions and labels.

    Returns:
        ``energy_mae_mev``, ``energy_rmse_mev``, the same per atom, and ``forces_mae_mev_per_ang``,
        ``forces_rmse_mev_per_ang`` over Cartesian components, which are absent on energies alone;
        ``energy_bias_mev_per_atom`` is the mean of prediction minus label.
    """
    de = (p.energy - p.energy_label) * MEV
    per_atom = de / p.n_atoms
    found = {
        "n_frames": len(de),
        "energy_mae_mev": de.abs().mean().item(),
        "energy_rmse_mev": de.square().mean().sqrt().item(),
        "energy_mae_mev_per_atom": per_atom.abs().mean().item(),
        "energy_rmse_mev_per_atom": per_atom.square().mean().sqrt().item(),
        "energy_bias_mev_per_atom": per_atom.mean().item(),
    }
    if p.forces_error is not None:
        df = p.forces_error * MEV
        found["forces_mae_mev_per_ang"] = df.abs().mean().item()
        found["forces_rmse_mev_per_ang"] = df.square().mean().sqrt().item()
    return found
