"""Frames to choose from."""

from ase import Atoms
from ase.build import molecule


def shaken(n: int, name: str = "CH3OH", first: int = 0) -> list[Atoms]:
    """Frames of a molecule, each shaken in its own way."""
    frames = [molecule(name) for _ in range(n)]
    for seed, frame in enumerate(frames, first):
        frame.rattle(0.08, seed=seed)
    return frames
