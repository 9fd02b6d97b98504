"""Preprocessed samples as bytes, from which batches are cut."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from schnetpack import properties

from schnetpack_tpainn.data.cache import SampleCache

__all__ = ["ENTRY", "PackedSamples", "Record", "Sample", "pack"]

Sample = dict[str, torch.Tensor]
Schema = tuple[tuple[str, torch.dtype, torch.Size], ...]  # key, type and shape of a row

ENTRY = 24  # bytes of a sample's place: block, first byte, lengths
_ABSENT = -2
ATOM_INDICES = (properties.idx_i, properties.idx_j, properties.idx_i_triples)
PAIR_INDICES = (properties.idx_j_triples, properties.idx_k_triples)


class Record(NamedTuple):
    """A sample as bytes.

    Attributes:
        content: the bytes of its tensors, one after the other.
        schema: keys, types and shapes of rows, the same for all samples of a data set.
        ends: where each tensor begins, and the last ends.
    """

    content: bytes
    schema: Schema
    ends: tuple[int, ...]


def pack(sample: Sample) -> Record:
    """Put a sample's tensors into one run of bytes.

    Args:
        sample: tensors with at least one dimension each, as collating needs them.

    Returns:
        The record; it shares no memory with the sample.
    """
    parts = [t.contiguous().flatten().view(torch.uint8).numpy() for t in sample.values()]
    ends = (0, *np.cumsum([len(part) for part in parts]).tolist())
    schema = tuple((key, t.dtype, t.shape[1:]) for key, t in sample.items())
    return Record(b"".join(parts), schema, ends)


class PackedSamples:
    """Samples of a data set under one list of transforms.

    Args:
        cache: where their bytes are.
        n_frames: frames in the data set.
    """

    def __init__(self, cache: SampleCache, n_frames: int) -> None:
        self.cache = cache
        self.n_frames = n_frames
        self.clear()
        cache.register(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in a process that was not forked is empty."""
        return PackedSamples, (self.cache, self.n_frames)

    def __len__(self) -> int:
        return int((self._places[:, 0] != _ABSENT).sum())

    def has(self, indices: Sequence[int]) -> np.ndarray:
        """Which samples are here.

        Args:
            indices: frames in the data set, M of them.

        Returns:
            Booleans, shape (M,).
        """
        return self._places[indices, 0] != _ABSENT

    def clear(self) -> None:
        """Forget every sample."""
        # block, first byte and index into `_ends` of each frame
        self._places = np.full((self.n_frames, 3), _ABSENT)
        self._schema: Schema | None = None
        self._ends: list[tuple[int, ...]] = []  # few: those of samples of one shape are equal
        self._which: dict[tuple[int, ...], int] = {}

    def put(self, index: int, record: Record) -> bool:
        """Keep a sample if there is room and it has the keys, types and shapes of the others.

        Args:
            index: frame in the data set.
            record: the sample.

        Returns:
            Whether it is kept.
        """
        if self.has([index]).all():
            return True
        schema = self._schema or record.schema
        if schema != record.schema or not all(row.numel() for _, _, row in schema):
            return False
        place = self.cache.write(record.content, ENTRY)
        if place is None:
            return False
        self._schema = schema
        which = self._which.setdefault(record.ends, len(self._ends))
        if which == len(self._ends):
            self._ends.append(record.ends)
        self._places[index] = *place, which
        return True

    def _records(self, indices: Sequence[int]) -> list[tuple[memoryview, tuple[int, ...]]]:
        read, ends = self.cache.read, self._ends
        return [
            (read(block, start, ends[which][-1]), ends[which])
            for block, start, which in self._places[indices].tolist()
        ]

    def get(self, indices: Sequence[int]) -> list[Sample]:
        """Samples that are here, as tensors of their own.

        Args:
            indices: frames in the data set.

        Returns:
            The samples.
        """
        return [
            {
                key: _tensor(_bytes(bytearray(content[a:b])), dtype, row)
                for (key, dtype, row), (a, b) in zip(
                    self._schema or (), pairwise(ends), strict=True
                )
            }
            for content, ends in self._records(indices)
        ]

    def batch(self, indices: Sequence[int]) -> Sample:
        """The batch that SchNetPack's ``AtomsLoader`` makes of samples that are here.

        Args:
            indices: frames in the data set.

        Returns:
            The batch, in tensors of its own.
        """
        records = self._records(indices)
        batch: Sample = {}
        n_rows: dict[str, torch.Tensor] = {}  # (B,) each
        columns = _columns(records)
        for k, (key, dtype, row) in enumerate(self._schema or ()):
            batch[key] = _tensor(columns[k], dtype, row)
            if key in ATOM_INDICES or key in PAIR_INDICES:
                sizes = [ends[k + 1] - ends[k] for _, ends in records]
                n_rows[key] = torch.tensor(sizes) // dtype.itemsize
        n_atoms = batch[properties.n_atoms]  # (B,)
        batch[properties.idx_m] = torch.repeat_interleave(torch.arange(len(records)), n_atoms)
        for key, rows in n_rows.items():
            counts = n_atoms if key in ATOM_INDICES else n_rows[properties.idx_j]
            before = (counts.cumsum(0) - counts).to(batch[key].dtype)  # (B,)
            if key in ATOM_INDICES:
                batch[f"{key}_local"] = batch[key]
            batch[key] = batch[key] + torch.repeat_interleave(before, rows)
        return batch


def _columns(records: Sequence[tuple[memoryview, tuple[int, ...]]]) -> list[np.ndarray]:
    """Bytes of each tensor of a batch, from contents and ends of its samples."""
    ends = records[0][1]
    if all(other is ends for _, other in records):  # as those of one molecule often are
        table = _bytes(bytearray().join([content for content, _ in records]))
        table = table.reshape(len(records), ends[-1])
        return [table[:, a:b].copy().reshape(-1) for a, b in pairwise(ends)]
    return [
        _bytes(bytearray().join([content[e[k] : e[k + 1]] for content, e in records]))
        for k in range(len(ends) - 1)
    ]


def _bytes(content: bytearray) -> np.ndarray:
    return np.frombuffer(content, dtype=np.uint8)


def _tensor(content: np.ndarray, dtype: torch.dtype, row: torch.Size) -> torch.Tensor:
    flat = torch.from_numpy(content).view(dtype)
    return flat.view(len(flat) // row.numel(), *row)
