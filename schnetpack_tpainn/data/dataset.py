"""SchNetPack's ASE data set with a bounded cache of preprocessed samples."""

from collections.abc import Sequence
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np
import torch
from schnetpack.data import ASEAtomsData, BaseAtomsData
from schnetpack.data.loader import _atoms_collate_fn
from torch.utils.data import DataLoader, Subset, get_worker_info

from schnetpack_tpainn.data.cache import SampleCache
from schnetpack_tpainn.data.packed import ENTRY, PackedSamples, Record, Sample, pack

__all__ = ["Batch", "CachedAtomsData", "collate"]

CHUNK = 64  # samples that a worker sends at a time
PROBES = 32


class CachedAtomsData(ASEAtomsData):
    """``ASEAtomsData`` that keeps preprocessed samples, and floats in float64 until they are cast.

    Subsets share their samples until they get transforms of their own. Do not use it with
    transforms that draw random numbers.

    Args:
        datapath: path of the SchNetPack database.
        cache: the cache.
        **kwargs: arguments of ``schnetpack.data.ASEAtomsData``.
    """

    packed: PackedSamples

    def __init__(self, datapath: str, cache: SampleCache, **kwargs: Any) -> None:
        self.cache = cache
        super().__init__(datapath, **kwargs)

    @property
    def transforms(self) -> list[torch.nn.Module]:
        """Preprocessing transforms; setting them begins with no samples kept."""
        return self._transforms

    @transforms.setter
    def transforms(self, value: list[torch.nn.Module] | None) -> None:
        BaseAtomsData.transforms.fset(self, value)
        self.packed = PackedSamples(self.cache, self.conn.count())

    def _get_properties(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        properties = super()._get_properties(*args, **kwargs)
        return {
            k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v
            for k, v in properties.items()
        }

    def frames(self, indices: Sequence[int]) -> list[int]:
        """Places in the database of samples of this (sub)set.

        Args:
            indices: places in this set.

        Returns:
            Places in the database.
        """
        return list(indices) if self.subset_idx is None else [self.subset_idx[i] for i in indices]

    def read(self, indices: Sequence[int]) -> list[Sample]:
        """Read and preprocess samples, past the cache.

        Args:
            indices: places in this set.

        Returns:
            The samples.
        """
        with self.conn:  # without it, ASE opens the file anew for every frame
            return [super(CachedAtomsData, self).__getitem__(i) for i in indices]

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        """Samples from the cache, or read and put there.

        Args:
            indices: places in this set.

        Returns:
            The samples, in tensors of their own.
        """
        frames = self.frames(indices)
        here = self.packed.has(frames)
        kept = iter(self.packed.get(list(compress(frames, here))))
        absent = list(compress(indices, ~here))
        new = self.read(absent) if absent else []
        if get_worker_info() is None:  # a loader's worker would lose them at its end
            for frame, sample in zip(self.frames(absent), new, strict=True):
                self.packed.put(frame, pack(sample))
        read = iter(new)
        return [next(kept) if h else next(read) for h in here]

    def fill(self, n_workers: int) -> None:
        """Preprocess the samples that the cache has room for.

        Args:
            n_workers: processes that read and preprocess.
        """
        absent = self._absent()
        if not absent or self.cache.full:
            return
        loader: DataLoader[Any] = DataLoader(
            Subset(self, absent),
            batch_size=CHUNK,
            num_workers=n_workers,
            multiprocessing_context="fork" if n_workers else None,
            collate_fn=_records,
        )
        for chunk in loader:
            for frame, record in chunk:
                self.packed.put(frame, record)
            if self.cache.full:
                return

    def _absent(self) -> list[int]:
        here = self.packed.has(self.frames(range(len(self))))
        return np.flatnonzero(~here).tolist()

    def fits(self) -> bool:
        """Whether the cache has room for all samples, judged by a few."""
        absent = self._absent()
        if not absent or self.cache.full or self.cache.directory is not None:
            return not absent or not self.cache.full
        probes = np.linspace(0, len(absent) - 1, min(PROBES, len(absent))).round().astype(int)
        records = map(pack, self.read([absent[k] for k in probes]))
        size = np.mean([len(record.content) + ENTRY for record in records])
        return bool(self.cache.n_bytes + size * len(absent) <= self.cache.max_bytes)

    def __getitem__(self, idx: int) -> Sample:
        return self.samples([idx])[0]

    def __getitems__(self, indices: Sequence[int]) -> "Batch":
        """Samples of a batch, for torch's loader.

        Args:
            indices: places in this set.

        Returns:
            A sequence, which SchNetPack's loader collates as it does a list.
        """
        return Batch(self, indices)

    @property
    def atomrefs(self) -> dict[str, torch.Tensor]:
        """Isolated-atom values from the metadata, float64, shape (elements,)."""
        stored = self.metadata.get("atomrefs") or {}
        return {
            k: self.conversions[k] * torch.tensor(v, dtype=torch.float64) for k, v in stored.items()
        }


class Batch(Sequence[Sample]):
    """Samples of a batch, read when they are asked for.

    Args:
        data: the data set.
        indices: places in it.
    """

    def __init__(self, data: CachedAtomsData, indices: Sequence[int]) -> None:
        self.data = data
        self.indices = indices

    @cached_property
    def _samples(self) -> list[Sample]:
        return self.data.samples(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self._samples[index]


def collate(batch: Any) -> Sample:
    """Collate as SchNetPack does: straight from the cache if it has all samples.

    Args:
        batch: a :class:`Batch`.

    Returns:
        SchNetPack's batch.
    """
    frames, packed = batch.data.frames(batch.indices), batch.data.packed
    if packed.has(frames).all():
        return packed.batch(frames)
    return _atoms_collate_fn(list(batch))


def _records(batch: Any) -> list[tuple[int, Record]]:
    samples = batch.data.read(batch.indices)
    return [
        (frame, pack(sample))
        for frame, sample in zip(batch.data.frames(batch.indices), samples, strict=True)
    ]
