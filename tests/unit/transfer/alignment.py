"""Predictions with a known fit, and what `Align` works on, for the tests of this folder."""

from dataclasses import replace
from types import SimpleNamespace

import torch
from schnetpack.atomistic import Atomwise
from schnetpack.transform import RemoveOffsets
from torch import nn

from schnetpack_tpainn.transfer.evaluate import Predictions
from schnetpack_tpainn.transfer.offsets import AddAtomicOffsets, get_offsets

CHOICES = [[4, 1], [6, 2], [8, 3], [2, 2]]
WATER = [[2, 1], [4, 2], [6, 3], [2, 1]]  # rank 1


def predictions(
    composition: list[list[int]], scale: float, offsets: list[float], noise: float = 0.0
) -> Predictions:
    """Labels that are `scale` times the model plus `offsets` per element (H, C), plus noise."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    counts = torch.zeros(len(composition), 100, dtype=torch.float64)
    counts[:, [1, 6]] = torch.tensor(composition, dtype=torch.float64)
    n_atoms = int(counts.sum())
    energy, forces = randn(len(composition)), randn(n_atoms, 3)
    shift = counts[:, [1, 6]] @ torch.tensor(offsets, dtype=torch.float64)
    return Predictions(
        energy,
        scale * energy + shift + noise * randn(len(composition)),
        forces,
        scale * forces + noise * randn(n_atoms, 3),
        counts,
        torch.cat([torch.tensor([1] * h + [6] * c) for h, c in composition]),
    )


class Setting:
    """A model that knows its predictions, and data with offsets: what `Align` works on."""

    def __init__(self, labels: Predictions, atoms: dict[int, float] | None = None) -> None:
        torch.manual_seed(0)
        self.labels = labels  # with no offsets removed
        self.head = Atomwise(n_in=4, output_key="energy")
        self.adder = AddAtomicOffsets("energy")
        self.model = nn.ModuleList([self.head, self.adder])
        self.energy_key = "energy"
        remover = RemoveOffsets("energy", remove_atomrefs=True)
        atomrefs = torch.zeros(100, dtype=torch.float64)
        for z, value in (atoms or {}).items():
            atomrefs[z] = value
        self.datamodule = SimpleNamespace(
            train_transforms=[remover],
            elements=lambda: [1, 6, 8],
            dataset=SimpleNamespace(atomrefs={"energy": atomrefs} if atoms else {}),
        )
        self.remover = remover
        now = torch.zeros(100, dtype=torch.float64)
        now[[1, 6]] = torch.tensor([0.3, -0.7], dtype=torch.float64)
        self.adder.set_offsets(now)

    def predictions(self, part: str, max_frames: int | None) -> Predictions:
        p = self.labels
        removed = p.composition @ get_offsets(self.model, "energy")
        return replace(p, energy_label=p.energy_label - removed)

    def offsets(self) -> list[float]:
        offsets = get_offsets(self.model, "energy")
        assert torch.allclose(self.remover.atomref, offsets, atol=1e-9)
        return offsets[[1, 6, 8]].tolist()


ATOMS = {1: -13.6, 6: -1030.0, 8: -2041.0}
