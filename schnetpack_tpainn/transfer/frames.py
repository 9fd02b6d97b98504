"""Frames of the force field, preprocessed as the labels are, with energies of their own zero."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import schnetpack.properties as properties
import torch
from ase.data import chemical_symbols
from schnetpack import AtomisticTask
from schnetpack.data.loader import _atoms_collate_fn
from schnetpack.transform import RemoveOffsets

from schnetpack_tpainn.data.cache import SampleCache
from schnetpack_tpainn.data.check import check_database
from schnetpack_tpainn.data.dataset import CachedAtomsData
from schnetpack_tpainn.data.offsets import fit_offsets
from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.context import TransferRecord
from schnetpack_tpainn.transfer.part import Part

__all__ = ["FramesPart", "draw", "force_field_frames", "known_frames", "pretraining_frames"]


def force_field_frames(
    path: str | Path,
    datamodule: Any,
    n_frames: int | None = None,
    seed: int = 0,
    transforms: Sequence[torch.nn.Module] | None = None,
    elements: Sequence[int] | None = None,
    with_forces: bool = True,
) -> CachedAtomsData:
    """Frames of a database with force-field labels, drawn at random.

    They go through the transforms of the labels (same units, neighbours, precision), but lose
    offsets of their own: those that all energies of the database fit best.

    Args:
        path: SchNetPack database.
        datamodule: data module of the labels, set up.
        n_frames: number of frames; all when None or when there are not as many.
        seed: seed of the draw.
        transforms: those of other force-field frames, whose offsets to take; fitted when None.
        elements: atomic numbers that pretraining saw; others are refused.
        with_forces: load forces too, if the labels have them.

    Returns:
        The data set, energies in eV and forces in eV/Å; ``Context.batches`` makes a loader of it.

    Raises:
        TransferError: there are elements that pretraining never saw.
    """
    energy_key, forces_key = datamodule.energy_key, datamodule.forces_key if with_forces else None
    keys = [key for key in (energy_key, forces_key) if key is not None]
    frames = check_database(path, energy_key, forces_key)
    unseen = set(np.flatnonzero(frames.counts.any(axis=0)).tolist()) - set(elements or range(100))
    if unseen:
        raise TransferError(
            f"{path} holds {', '.join(chemical_symbols[z] for z in sorted(unseen))}, which the "
            "pretraining never saw; expected its frames: give their database as transfer.frames"
        )
    dataset: Any = CachedAtomsData(
        str(path),
        SampleCache(datamodule.cache.max_bytes),
        property_units={key: datamodule.dataset.units[key] for key in keys},
        distance_unit=datamodule.dataset.distance_unit,
        load_properties=keys,
    )
    if n_frames is not None and n_frames < len(frames):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(len(frames), generator=generator)[:n_frames]
        dataset = dataset.subset(drawn.sort().values.tolist())
    if transforms is None:
        energies = frames.energies * dataset.conversions[energy_key]
        offsets = torch.from_numpy(fit_offsets(frames.counts, energies, "force-field energy"))
        transforms = [copy.deepcopy(t) for t in datamodule.train_transforms]
        for transform in transforms:
            if isinstance(transform, RemoveOffsets) and transform._property == energy_key:
                transform.remove_mean, transform.remove_atomrefs = False, True
                transform.atomref = offsets
    dataset.transforms = list(transforms)
    return dataset


def known_frames(record: TransferRecord) -> Path:
    """Database of the frames that the model was pretrained on.

    Args:
        record: what the transfer did.

    Returns:
        Its path.

    Raises:
        TransferError: it is not known or not there.
    """
    if record.frames is None:
        raise TransferError(
            "expected the database of the pretraining frames, the checkpoint does not say where "
            "it is; give its path as transfer.frames"
        )
    path = Path(record.frames)
    if not path.is_file():
        raise TransferError(
            f"expected the database of the pretraining frames at {path}, got no such file; give "
            "its path as transfer.frames"
        )
    return path


def pretraining_frames(
    record: TransferRecord,
    datamodule: Any,
    n_frames: int | None = None,
    seed: int = 0,
    with_forces: bool = True,
) -> CachedAtomsData:
    """Frames that the model was pretrained on, as far as the checkpoint or the user says.

    Args:
        record: what the transfer did.
        datamodule: data module of the labels, set up.
        n_frames: number of frames; all when None or when there are not as many.
        seed: seed of the draw.
        with_forces: see :func:`force_field_frames`.

    Returns:
        As :func:`force_field_frames`.

    Raises:
        TransferError: their database is not known or not there, or holds other elements.
    """
    path = known_frames(record)
    elements = record.pretrained.get("elements")
    return force_field_frames(
        path, datamodule, n_frames, seed, elements=elements, with_forces=with_forces
    )


def draw(datasets: Sequence[CachedAtomsData], n: int, *key: int) -> dict[str, torch.Tensor]:
    """Frames for one training step.

    Args:
        datasets: what to draw from.
        n: number of frames.
        *key: what alone decides which; with seed, step and process a resumed run goes on as before.

    Returns:
        SchNetPack's batch.
    """
    total = sum(map(len, datasets))
    drawn = np.random.default_rng(key).choice(total, n, replace=n > total)
    samples = []
    for frames in datasets:
        samples += frames.samples(drawn[(drawn >= 0) & (drawn < len(frames))].tolist())
        drawn = drawn - len(frames)
    return _atoms_collate_fn(samples)


class FramesPart(Part):
    """Base class of parts that train on frames of a force field beside the labels.

    Args:
        ratio: frames per labelled frame.
        seed: seed of the draws.
    """

    def __init__(self, ratio: float, seed: int) -> None:
        super().__init__()
        self.ratio, self.seed = ratio, seed
        self._frames: list[CachedAtomsData] = []

    def __getstate__(self) -> dict[str, Any]:
        """State without the frames, for a pickle of the task."""
        return {**self.__dict__, "_frames": []}

    def beside(self, batch: dict[str, Any], task: AtomisticTask) -> dict[str, torch.Tensor]:
        """Frames to go with a batch of labels.

        Args:
            batch: the batch.
            task: the task, in training.

        Returns:
            SchNetPack's batch, on the task's device.
        """
        n = max(1, round(self.ratio * len(batch[properties.n_atoms])))
        step = task.trainer.fit_loop.total_batch_idx
        frames = draw(self._frames, n, self.seed, step, task.global_rank)
        return {key: value.to(task.device) for key, value in frames.items()}
