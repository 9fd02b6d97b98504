"""A trajectory that crosses the faces of its cell."""

import numpy as np
import pytest

from schnetpack_tpainn.data.liquid import water_box


@pytest.fixture
def moving_water():
    """Whole molecules that walk at random through an oblique box: followed, and wrapped."""
    rng = np.random.default_rng(1)
    atoms = water_box(8, 0.9)
    cell = atoms.cell.array.copy()
    cell[1, 0], cell[2, 1] = 1.5, -1.0
    atoms.set_cell(cell)
    steps = rng.normal(scale=0.4, size=(300, 8, 3))
    steps -= steps.mean(axis=1, keepdims=True)  # of equal masses
    steps[0] = 0
    whole = atoms.positions + np.repeat(np.cumsum(steps, axis=0), 3, axis=1)
    scaled = whole @ np.linalg.inv(cell)
    return atoms, whole, (scaled % 1) @ cell
