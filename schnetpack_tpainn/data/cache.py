"""Room for preprocessed samples, in memory and in a file."""

import logging
import os
import tempfile
from collections.abc import Sized
from pathlib import Path
from typing import IO, Any, Protocol
from weakref import WeakSet

import numpy as np

from schnetpack_tpainn.errors import DataError

__all__ = ["SampleCache"]

log = logging.getLogger(__name__)

_BLOCK = 2**24  # bytes of memory taken at a time
_IN_FILE = -1


class Part(Sized, Protocol):
    """Something that keeps samples in a cache."""

    def clear(self) -> None:
        """Forget every sample."""


class SampleCache:
    """Room for preprocessed samples: memory up to a bound, then, if given, a file in a folder.

    Nothing is thrown out to make room: in shuffled epochs that would only turn hits into misses.
    The file has no name: it belongs to this process and those that it forks, and vanishes with
    them, killed or not, so that no later run can meet samples that are stale or incomplete.

    Args:
        max_bytes: bound on the memory.
        directory: folder on a local disk for samples beyond the bound; None to keep no more.
    """

    def __init__(self, max_bytes: int, directory: str | Path | None = None) -> None:
        self.max_bytes = max_bytes
        self.directory = None if directory is None else Path(directory)
        self._parts: WeakSet[Part] = WeakSet()
        self._file: IO[bytes] | None = None
        self.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in a process that was not forked is empty."""
        return type(self), (self.max_bytes, self.directory)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def clear(self) -> None:
        """Forget every sample."""
        for part in self._parts:
            part.clear()
        if self._file is not None:
            self._file.close()
        self._file = None
        self._blocks: list[memoryview] = []
        self._free = 0  # bytes at the end of the last block
        self.n_bytes = 0  # in memory
        self.n_file_bytes = 0
        self.full = not self.max_bytes and self.directory is None

    def register(self, part: Part) -> None:
        """Tell something that keeps samples here to forget them when the cache does.

        Args:
            part: what keeps samples here.
        """
        self._parts.add(part)

    def write(self, content: bytes, extra: int) -> tuple[int, int] | None:
        """Keep some bytes.

        Args:
            content: the bytes.
            extra: bytes of memory that their owner needs beside.

        Returns:
            Block and first byte, for :meth:`read`; None if there is no room.
        """
        if not self.full:
            size = len(content)
            if self.n_bytes + size + extra <= self.max_bytes:
                return self._to_memory(content, extra)
            if self.directory is not None:
                return self._to_file(content, self.directory)
            self.full = True
            log.info(
                "the sample cache is full (%d samples, %.2f GiB): the others are read and "
                "preprocessed every time; raise data.cache_gib if there is memory, or name a "
                "folder on a local disk with data.cache_dir",
                *(len(self), self.n_bytes / 2**30),
            )
        return None

    def _to_memory(self, content: bytes, extra: int) -> tuple[int, int]:
        size = len(content)
        if size > self._free:
            self._free = max(size, min(_BLOCK, self.max_bytes - self.n_bytes))
            self._blocks.append(memoryview(np.empty(self._free, dtype=np.uint8)))
        block = self._blocks[-1]
        start = len(block) - self._free
        block[start : start + size] = content
        self._free -= size
        self.n_bytes += size + extra
        return len(self._blocks) - 1, start

    def _to_file(self, content: bytes, directory: Path) -> tuple[int, int] | None:
        try:
            if self._file is None:
                directory.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115
                log.info("samples beyond data.cache_gib go into a file in %s", directory)
            start = self.n_file_bytes
            if self._file.write(content) != len(content):
                raise OSError("no space left")  # noqa: TRY301
        except OSError as error:
            if self._file is None:
                raise DataError(
                    f"expected a folder that can be written to as data.cache_dir, got {directory}: "
                    f"{error}"
                ) from error
            self.full = True
            log.warning(
                "%s takes no more samples after %.2f GiB (%s): the others are read and "
                "preprocessed every time",
                *(directory, self.n_file_bytes / 2**30, error),
            )
            return None
        self.n_file_bytes += len(content)
        return _IN_FILE, start

    def read(self, block: int, start: int, size: int) -> memoryview:
        """Bytes that were kept.

        Args:
            block: as :meth:`write` said.
            start: as :meth:`write` said.
            size: number of bytes.

        Returns:
            The bytes, not to be changed.
        """
        if block != _IN_FILE:
            return self._blocks[block][start : start + size]
        if self._file is None:
            raise DataError("the sample cache was cleared while a batch was read")
        return memoryview(os.pread(self._file.fileno(), size, start))
