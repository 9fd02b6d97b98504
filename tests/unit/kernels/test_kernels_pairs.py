"""Neighbour lists are looked at before a fused kernel trusts them."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

from schnetpack_tpainn.nn.kernels.numba_kernel import NumbaKernel


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    atoms = Atoms("H20", positions=rng.uniform(0, 6, (20, 3)), cell=[6, 6.5, 7], pbc=True)
    i, j, r = neighbor_list("ijD", atoms, 3.0)
    keep = np.linalg.norm(r, axis=1) > 0.3
    return torch.tensor(r[keep]).float(), torch.tensor(i[keep]), torch.tensor(j[keep])


def inspect(r, i, j):
    return NumbaKernel().pairs(r, i, j, 20)


def test_a_sorted_list_is_taken_as_it_is(pairs):
    r, i, j = pairs
    found = inspect(r, i, j)
    assert found.order is None
    assert found.idx_j is j
    assert torch.equal(found.starts.diff(), torch.bincount(i, minlength=20))


def test_any_order_is_sorted(pairs):
    r, i, j = pairs
    shuffle = torch.randperm(len(i), generator=torch.Generator().manual_seed(0))
    found = inspect(r[shuffle], i[shuffle], j[shuffle])
    assert torch.equal(i[shuffle][found.order], i)
    assert torch.equal(j[shuffle][found.order], found.idx_j)


def test_atoms_without_pairs():
    r = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])
    found = NumbaKernel().pairs(r, torch.tensor([1, 3]), torch.tensor([3, 1]), 5)
    assert found.starts.tolist() == [0, 0, 1, 1, 2, 2]


def half(r, i, j):
    keep = (i < j) | ((i == j) & (r[:, 0] > 0))
    return r[keep], i[keep], j[keep]


def one_missing(r, i, j):
    return r[1:], i[1:], j[1:]


def one_turned(r, i, j):
    r = r.clone()
    r[5] = -r[5]
    return r, i, j


def two_swapped(r, i, j):
    a, b = 0, int((j != j[0]).nonzero()[0])
    j = j.clone()
    j[[a, b]] = j[[b, a]]
    return r, i, j


def other(value):
    def change(r, i, j):
        r = r.clone()
        r[7] = value
        return r, i, j

    return change


def outside(r, i, j):
    return r, i, torch.where(j == 19, 20, j)


SPOILED = {
    "half list": half,
    "one pair missing": one_missing,
    "one pair turned": one_turned,
    "two senders swapped": two_swapped,
    "nan": other(float("nan")),
    "infinite": other(float("inf")),
    "coincident": other(0.0),
    "index out of range": outside,
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_unsuitable_lists_are_refused(pairs, spoil):
    assert inspect(*spoil(*pairs)) is None
