"""Predict a data set with a model and measure the errors."""

from collections.abc import Iterable
from dataclasses import dataclass

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
        forces: predicted forces in eV/Å, (N, 3) over all atoms.
        forces_label: labels in eV/Å, (N, 3).
        composition: atoms of each atomic number in each structure, (M, zmax).
        numbers: atomic number of every atom, int64, (N,).
    """

    energy: torch.Tensor
    energy_label: torch.Tensor
    forces: torch.Tensor
    forces_label: torch.Tensor
    composition: torch.Tensor
    numbers: torch.Tensor

    @property
    def n_atoms(self) -> torch.Tensor:
        """Atoms per structure, (M,)."""
        return self.composition.sum(dim=1)


def predict(
    model: AtomisticModel,
    batches: Iterable[dict[str, torch.Tensor]],
    energy_key: str,
    forces_key: str,
    zmax: int = 100,
) -> Predictions:
    """Run a model without its postprocessors over batches of preprocessed samples.

    Args:
        model: SchNetPack model.
        batches: SchNetPack batches with labels, offsets removed.
        energy_key: key of the energy, in the results and in the batches.
        forces_key: key of the forces.
        zmax: number of atomic numbers provided for.

    Returns:
        Predictions and labels, on the CPU, float64.
    """
    device = next(model.parameters()).device
    columns: dict[str, list[torch.Tensor]] = {k: [] for k in Predictions.__annotations__}
    training, postprocessing = model.training, model.do_postprocessing
    model.eval()
    model.do_postprocessing = False
    try:
        for batch in batches:
            columns["energy_label"].append(batch[energy_key])
            columns["forces_label"].append(batch[forces_key])
            counts = torch.zeros(len(batch[properties.n_atoms]), zmax, dtype=torch.float64)
            one = torch.ones((), dtype=torch.float64)
            counts.index_put_((batch[properties.idx_m], batch[properties.Z]), one, accumulate=True)
            columns["composition"].append(counts)
            columns["numbers"].append(batch[properties.Z])
            with torch.enable_grad():
                results = model({k: v.to(device) for k, v in batch.items()})
            columns["energy"].append(results[energy_key].detach().cpu())
            columns["forces"].append(results[forces_key].detach().cpu())
    finally:
        model.train(training)
        model.do_postprocessing = postprocessing
    joined = {k: torch.cat(v) for k, v in columns.items()}
    return Predictions(**{k: v.double() if v.is_floating_point() else v for k, v in joined.items()})


def errors(p: Predictions) -> dict[str, float]:
    """Mean absolute, root-mean-square and mean errors.

    Args:
        p: predictions and labels.

    Returns:
        ``energy_mae_mev``, ``energy_rmse_mev``, the same per atom, and ``forces_mae_mev_per_ang``,
        ``forces_rmse_mev_per_ang`` over Cartesian components; ``energy_bias_mev_per_atom`` is the
        mean of prediction minus label.
    """
    de = (p.energy - p.energy_label) * MEV
    df = (p.forces - p.forces_label) * MEV
    per_atom = de / p.n_atoms
    return {
        "n_frames": len(de),
        "energy_mae_mev": de.abs().mean().item(),
        "energy_rmse_mev": de.square().mean().sqrt().item(),
        "energy_mae_mev_per_atom": per_atom.abs().mean().item(),
        "energy_rmse_mev_per_atom": per_atom.square().mean().sqrt().item(),
        "energy_bias_mev_per_atom": per_atom.mean().item(),
        "forces_mae_mev_per_ang": df.abs().mean().item(),
        "forces_rmse_mev_per_ang": df.square().mean().sqrt().item(),
    }
