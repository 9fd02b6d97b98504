"""How much memory an evaluation takes, said before it is allocated."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import schnetpack.properties as keys
import torch
from ase import Atoms
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md.converter import atom_inputs, cell_inputs
from schnetpack_tpainn.md.neighbors import VerletList
from schnetpack_tpainn.md.potential import Potential

__all__ = ["MemoryCheck"]

PAIR_BYTES = 150  # of the neighbour list, at its building
LARGE = 100_000  # pairs; what has fewer fits
PROBES = ((4, 0.4), (6, 0.4), (6, 0.6))  # cubes: atoms along an edge, spacing / cutoff


class MemoryCheck:
    """Refuses structures that cannot be evaluated in the memory at hand.

    What the network needs per atom and per pair is measured, once, on up to 216 atoms.

    Args:
        potential: the model.
        skin_ang: skin of the neighbour list in Å.
    """

    def __init__(self, potential: Potential, skin_ang: float) -> None:
        self.potential = potential
        self.reach = potential.cutoff + skin_ang
        self._rates: tuple[float, float] | None = None

    def __call__(self, atoms: Atoms) -> None:
        """Compare the need with what is available.

        Args:
            atoms: the structure (Å).

        Raises:
            MDError: the structure needs more memory than there is.
        """
        cutoff, device = self.potential.cutoff, self.potential.device
        listed = estimated_pairs(atoms, self.reach)
        if listed < LARGE:
            return
        if self._rates is None:
            self._rates = self._measure(atoms.numbers)
        per_atom, per_pair = self._rates
        pairs = listed * (cutoff / self.reach) ** 3
        need = PAIR_BYTES * listed + per_atom * len(atoms) + per_pair * pairs
        available = available_bytes(device)
        if need > available:
            raise MDError(
                f"expected a structure that fits into {available / 1e9:.3g} GB, the memory "
                f"available on {device}, got {len(atoms):,} atoms with about {pairs:.2g} pairs "
                f"within {cutoff:g} Å, which need about {need / 1e9:.3g} GB; take fewer atoms, a "
                "network with fewer features or a smaller cutoff, or a machine with more memory"
            )

    def _measure(self, numbers: np.ndarray) -> tuple[float, float]:
        """Bytes per atom and per pair, from three clusters."""
        potential = self.potential
        find_pairs = VerletList(potential.cutoff, 0.0, potential.device)
        cell, pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)
        sizes, peaks = [], []
        for edge, spacing in PROBES:
            grid = np.argwhere(np.ones((edge,) * 3)) * (potential.cutoff * spacing)  # (n, 3)
            inputs = atom_inputs(np.resize(numbers, len(grid)), potential.device)
            inputs |= cell_inputs(cell, pbc, potential.device, potential.dtype)
            inputs |= find_pairs(grid, cell, pbc).as_inputs(potential.dtype)
            sizes.append((1, len(grid), len(inputs[keys.idx_i])))
            potential.model(dict(inputs))  # what is kept for later calls is made
            with PeakMemory() as memory:
                potential.model(inputs)
            peaks.append(memory.peak)
        _, per_atom, per_pair = np.linalg.solve(np.array(sizes, dtype=float), peaks)
        return max(per_atom, 0.0), max(per_pair, 0.0)


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that live at the same time inside a ``with`` block.

    Attributes:
        peak: largest number of bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._live = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known.add(storage)
            self._live += storage.nbytes()
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, n_bytes: int) -> None:
        self._live -= n_bytes


def estimated_pairs(atoms: Atoms, radius: float) -> float:
    """Number of pairs within a radius, each counted twice, from the density around the atoms.

    Args:
        atoms: the structure (Å).
        radius: Å.

    Returns:
        The estimate.
    """
    corner = atoms.positions.min(axis=0)
    boxes = np.floor((atoms.positions - corner) / radius).astype(np.int64)  # (N, 3)
    shape = boxes.max(axis=0) + 1
    counts = np.unique(boxes @ [shape[1] * shape[2], shape[2], 1], return_counts=True)[1]
    density = float(np.square(counts, dtype=float).sum()) / (len(atoms) * radius**3)
    if atoms.pbc.all():
        density = max(density, len(atoms) / atoms.cell.volume)
    return len(atoms) * density * 4 / 3 * np.pi * radius**3


def available_bytes(device: torch.device) -> int:
    """Memory that a new allocation can get, within a container's limit.

    Args:
        device: CPU or GPU.

    Returns:
        Bytes.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = 1024 * int(lines["MemAvailable"].split()[0])
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        available = min(available, int(text))
    return available
