"""What a transfer works on, and what it leaves on record."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from schnetpack.data import AtomsLoader
from torch import nn
from torch.utils.data import Subset

from schnetpack_tpainn.transfer.evaluate import Predictions, predict

__all__ = ["Context", "TransferRecord"]


@dataclass(frozen=True)
class Context:
    """What a strategy works on.

    Attributes:
        model: the model, with offsets fitted to the labels alone.
        datamodule: data module, set up.
        energy_key: key of the energy in model and data.
        forces_key: key of the forces; None for energies alone.
    """

    model: nn.Module
    datamodule: Any
    energy_key: str
    forces_key: str | None

    def dataset(self, part: str, max_frames: int | None = None) -> Any:
        """Labelled frames.

        Args:
            part: ``train``, ``val`` or ``test``.
            max_frames: so many frames at most, evenly spaced.

        Returns:
            The data set.
        """
        dataset = getattr(self.datamodule, f"{part}_dataset")
        if max_frames is None or len(dataset) <= max_frames:
            return dataset
        spaced = torch.linspace(0, len(dataset) - 1, max_frames).round().int().tolist()
        return Subset(dataset, spaced)

    def batches(self, dataset: Any) -> AtomsLoader:
        """Loader over a data set in its order."""
        return AtomsLoader(dataset, batch_size=self.datamodule.val_batch_size, num_workers=0)

    def predictions(self, part: str, max_frames: int | None = None) -> Predictions:
        """Predictions beside labels, offsets removed from both.

        Args:
            part: ``train``, ``val`` or ``test``.
            max_frames: so many frames at most, evenly spaced.

        Returns:
            The predictions of the model as it stands.
        """
        batches = self.batches(self.dataset(part, max_frames))
        return predict(self.model, batches, self.energy_key, self.forces_key)


@dataclass
class TransferRecord:
    """What a transfer did, in plain values for checkpoint and report.

    Attributes:
        strategy: name of the strategy.
        checkpoint: file that the weights came from, or None.
        frames: database of the pretraining frames, or None where it is not known.
        blocks: block of the model -> scalars ``copied``, ``reinitialised``, ``frozen``,
            ``adapter``, ``trained``.
        renamed: parameter of the checkpoint -> parameter of this model, where they differ.
        reinitialised: parameters that keep their random start because the user said so.
        differences: what differs from the pretraining and was accepted, as readable lines.
        new_elements: element that pretraining never saw -> where its embedding comes from.
        alignment: what the closed-form fit found.
        diagnosis: what the pretrained model is worth on the labels.
        zero_shot: errors before any step, of the model as it was copied with offsets from the
            labels alone (``copied``) and after the alignment (``aligned``) on the test frames, and
            after the alignment on the validation frames (``validation``).
        parts: what anchors, replay and gradual unfreezing say of themselves.
        pretrained: what the checkpoint says of itself.
    """

    strategy: str
    checkpoint: str | None = None
    frames: str | None = None
    blocks: dict[str, dict[str, int]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    reinitialised: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    new_elements: dict[str, str] = field(default_factory=dict)
    alignment: dict[str, Any] = field(default_factory=dict)
    diagnosis: dict[str, Any] = field(default_factory=dict)
    zero_shot: dict[str, dict[str, float]] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    pretrained: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """The record as a dictionary."""
        return asdict(self)

    def total(self, kind: str) -> int:
        """Scalars of one kind over all blocks.

        Args:
            kind: a key of the entries of ``blocks``.

        Returns:
            Their number.
        """
        return sum(block.get(kind, 0) for block in self.blocks.values())
