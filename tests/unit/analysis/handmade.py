"""Trajectories made by hand."""

import numpy as np

from schnetpack_tpainn.analysis import Trajectory


def made(atoms, positions=None, cells=None, interval_fs=10.0, **more):
    """A trajectory of an ASE structure, at rest unless positions are given."""
    if positions is None:
        positions = np.repeat(atoms.positions[None], 10, axis=0)
    if cells is None:
        cells = np.repeat(atoms.cell.array[None], len(positions), axis=0)
    return Trajectory(
        label="made",
        source="made",
        numbers=atoms.numbers,
        masses=atoms.get_masses(),
        positions=positions,
        cells=cells,
        pbc=atoms.pbc,
        interval_fs=interval_fs,
        **more,
    )
