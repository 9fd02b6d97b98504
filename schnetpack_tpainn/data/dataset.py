"""SchNetPack's ASE data set with a bounded cache of preprocessed samples."""

import logging
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from schnetpack.data import ASEAtomsData
from torch.utils.data import get_worker_info

__all__ = ["CachedAtomsData", "Sample", "SampleCache"]

log = logging.getLogger(__name__)

Sample = dict[str, torch.Tensor]
TENSOR_OVERHEAD = 650  # bytes of a small tensor beside its data: Python object, storage, padding


class SampleCache:
    """Samples in memory up to a number of bytes; what does not fit is not kept.

    Nothing is thrown out to make room: in shuffled epochs that would only turn hits into misses.

    Args:
        max_bytes: the bound.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._samples: dict[Hashable, Sample] = {}
        self._told = False

    def __len__(self) -> int:
        return len(self._samples)

    def get(self, key: Hashable) -> Sample | None:
        """The stored sample (its tensors are not to be changed), or None."""
        return self._samples.get(key)

    def put(self, key: Hashable, sample: Sample) -> None:
        """Keep a sample if it fits.

        Args:
            key: what :meth:`get` will ask for.
            sample: the sample; the cache owns its tensors from now on.
        """
        size = sum(t.untyped_storage().nbytes() + TENSOR_OVERHEAD for t in sample.values())
        if self.n_bytes + size <= self.max_bytes:
            self._samples[key] = sample
            self.n_bytes += size
        elif self.max_bytes and not self._told:
            self._told = True
            log.info(
                "the sample cache is full (%d samples, %.2f GiB): the others are read and "
                "preprocessed every time; raise data.cache_gib if there is memory",
                *(len(self), self.n_bytes / 2**30),
            )

    def clear(self) -> None:
        """Forget every sample."""
        self._samples.clear()
        self.n_bytes = 0
        self._told = False


class CachedAtomsData(ASEAtomsData):
    """``ASEAtomsData`` that keeps preprocessed samples, and floats in float64 until they are cast.

    Subsets share the cache. Do not use it with transforms that draw random numbers.

    Args:
        datapath: path of the SchNetPack database.
        cache: the cache.
        **kwargs: arguments of ``schnetpack.data.ASEAtomsData``.
    """

    def __init__(self, datapath: str, cache: SampleCache, **kwargs: Any) -> None:
        super().__init__(datapath, **kwargs)
        self.cache = cache
        self.name = ""

    def part(self, name: str, indices: list[int]) -> "CachedAtomsData":
        """Subset under a name of its own, so that parts may differ in their transforms."""
        part = self.subset(indices)
        part.name = name
        return part

    def _get_properties(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        properties = super()._get_properties(*args, **kwargs)
        return {
            k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v
            for k, v in properties.items()
        }

    def _shared(self, index: int) -> Sample:
        """Preprocessed sample whose tensors may be the cache's own."""
        key = (self.name, index)
        sample = self.cache.get(key)
        if sample is None:
            sample = super().__getitem__(index)
            if get_worker_info() is None:  # a loader's worker would lose it at the epoch's end
                self.cache.put(key, sample)
        return sample

    def fill(self) -> None:
        """Preprocess all samples that fit, so that worker processes inherit them."""
        for index in range(len(self)):
            self._shared(index)

    def __getitem__(self, idx: int) -> Sample:
        return {k: v.clone() for k, v in self._shared(idx).items()}

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Samples of a batch, for torch's loader; collating copies their tensors."""
        return [dict(self._shared(i)) for i in indices]

    @property
    def atomrefs(self) -> dict[str, torch.Tensor]:
        """Isolated-atom values from the metadata, float64, shape (elements,)."""
        stored = self.metadata.get("atomrefs") or {}
        return {
            k: self.conversions[k] * torch.tensor(v, dtype=torch.float64) for k, v in stored.items()
        }
