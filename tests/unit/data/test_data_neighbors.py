"""Neighbour lists of training frames are those of ASE."""

from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.neighborlist import neighbor_list
from schnetpack import properties
from schnetpack.interfaces import AtomsConverter

from schnetpack_tpainn.data.neighbors import VesinNeighbors

CUTOFF = 4.0


def pairs(i: np.ndarray, j: np.ndarray, offsets: np.ndarray) -> list[tuple[float, ...]]:
    rounded = np.round(np.column_stack([i, j, offsets]), 6) + 0.0
    return sorted(map(tuple, rounded.tolist()))


def check(atoms: Atoms) -> None:
    convert = AtomsConverter(VesinNeighbors(CUTOFF), dtype=torch.float64)
    batch = convert(atoms)
    i, j = batch[properties.idx_i], batch[properties.idx_j]
    first, second, shifts = neighbor_list("ijS", atoms, CUTOFF)
    found = pairs(i.numpy(), j.numpy(), batch[properties.offsets].numpy())
    assert found == pairs(first, second, shifts @ atoms.cell.array)
    assert (i.diff() >= 0).all()
    assert i.dtype == j.dtype == torch.int64


@pytest.mark.parametrize("pbc", list(product([False, True], repeat=3)))
def test_crystals_and_atoms_outside_the_cell(pbc: tuple[bool, ...]) -> None:
    rng = np.random.default_rng(0)
    cell = [[3.0, 0.0, 0.0], [1.0, 5.0, 0.0], [0.0, -1.0, 6.0]]  # smaller than the cutoff
    check(Atoms("CHON", rng.uniform(-8, 14, (4, 3)), cell=cell, pbc=pbc))


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, True)])
def test_slabs_and_wires_without_all_cell_vectors(pbc: tuple[bool, ...]) -> None:
    rng = np.random.default_rng(1)
    cell = np.diag(np.where(pbc, 5.0, 0.0))
    check(Atoms("CHONF", rng.uniform(-3, 9, (5, 3)), cell=cell, pbc=pbc))


def test_molecules() -> None:
    check(molecule("CH3CH2OH"))
    check(Atoms("He"))
    check(Atoms("He2", [[0, 0, 0], [0, 0, CUTOFF + 0.1]]))
