"""Distorted molecules for the tests of this folder."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import molecule


def frames_of(n: int, names: Sequence[str] = ("CH3CH2OH",), seed: int = 0) -> list[Atoms]:
    """Distorted molecules, in turn."""
    rng = np.random.default_rng(seed)
    frames = [molecule(names[i % len(names)]) for i in range(n)]
    for atoms in frames:
        atoms.positions += rng.normal(scale=0.03, size=(len(atoms), 3))
    return frames
