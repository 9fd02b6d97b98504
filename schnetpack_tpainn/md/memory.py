"""How much memory an evaluation takes, said before it is allocated."""

from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from schnetpack.model import AtomisticModel

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md.converter import atom_inputs, cell_inputs
from schnetpack_tpainn.md.neighbors import VerletList
from schnetpack_tpainn.md.potential import Potential

__all__ = ["MemoryCheck"]

PAIR_BYTES = 150  # of the neighbour list, at its building
LARGE = 100_000  # pairs; what has fewer fits
PROBE = 4  # edge of the cube of atoms that the network's need is measured on


class MemoryCheck:
    """Refuses structures that cannot be evaluated in the memory at hand.

    What the network needs per atom and per pair is measured, once, on 64 atoms: the tensors that it
    keeps for the gradient, which are nearly all it has at its peak.

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
        """Bytes per atom and per pair."""
        potential = self.potential
        grid = np.argwhere(np.ones((PROBE,) * 3)) * (potential.cutoff / (PROBE - 1))  # (n, 3)
        kinds = np.resize(numbers, len(grid))
        cell, pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)
        some = VerletList(potential.cutoff, 0.0, potential.device)(grid, cell, pbc)
        none = some._replace(**{key: getattr(some, key)[:0] for key in some._fields[1:]})
        kept = []
        for pairs in (none, some):
            inputs = atom_inputs(kinds, potential.device)
            inputs |= cell_inputs(cell, pbc, potential.device, potential.dtype)
            inputs |= pairs.as_inputs(potential.dtype)
            kept.append(_kept_for_gradient(potential.model, inputs))
        return kept[0] / len(grid), (kept[1] - kept[0]) / len(some.idx_i)


def _kept_for_gradient(model: AtomisticModel, inputs: dict[str, torch.Tensor]) -> int:
    """Bytes of the tensors, other than the model's own, that one evaluation keeps."""
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(inputs)
    return sum(kept.values())


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
