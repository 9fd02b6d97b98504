"""Frames to choose from, and their labels."""

from collections.abc import Sequence

from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT

from schnetpack_tpainn.data.label import compute_label


def shaken(n: int, name: str = "CH3OH", first: int = 0) -> list[Atoms]:
    """Frames of a molecule, each shaken in its own way."""
    frames = [molecule(name) for _ in range(n)]
    for seed, frame in enumerate(frames, first):
        frame.rattle(0.08, seed=seed)
    return frames


def label(frames: Sequence[Atoms]) -> list[Atoms]:
    """The frames with labels of a classical potential."""
    return [compute_label(atoms, EMT()) for atoms in frames]
