"""Partitions depend on the seed alone, nest, and keep a test part apart."""

import numpy as np
import pytest
import torch
from schnetpack.data import ASEAtomsData

from schnetpack_tpainn.data.split import PartSplit, SeededSplit
from schnetpack_tpainn.errors import DataError

DATASET = range(100)


def test_training_sets_nest_and_the_rest_stays() -> None:
    small = SeededSplit(3).split(DATASET, 10, 20, 30)
    large = SeededSplit(3).split(DATASET, 25, 20, 30)
    assert small[0] == large[0][:10]
    assert small[1:] == large[1:]


def test_partitions_are_disjoint_and_complete() -> None:
    train, val, test = SeededSplit(0).split(DATASET, 60, 15, None)
    assert sorted(train + val + test) == list(range(100))
    assert SeededSplit(0).split(DATASET, 60, 15, -1)[2] == test


def test_global_generators_have_no_say() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    first = SeededSplit(5).split(DATASET, 10, 10, 10)
    torch.manual_seed(1)
    np.random.seed(1)
    assert SeededSplit(5).split(DATASET, 10, 10, 10) == first
    assert SeededSplit(6).split(DATASET, 10, 10, 10) != first


@pytest.mark.parametrize("sizes", [(90, 11, None), (50, 25, 26), (None, 10, 10), (-1, 10, 10)])
def test_impossible_sizes_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="expected num"):
        SeededSplit().split(DATASET, *sizes)


def test_part_split(database) -> None:
    parts = ["test" if i % 4 == 0 else "pool" for i in range(20)]
    dataset = ASEAtomsData(str(database(parts=parts)))
    train, val, test = PartSplit(1).split(dataset, 8, 4, None)
    assert sorted(test) == [0, 4, 8, 12, 16]
    assert not set(train) & set(val)
    assert all(i % 4 for i in train + val)
    assert PartSplit(1).split(dataset, 3, 4, 2) == (train[:3], val, test[:2])
    with pytest.raises(DataError, match="at most 15 frames outside the test part"):
        PartSplit(1).split(dataset, 12, 4, None)
    with pytest.raises(DataError, match="at most 5"):
        PartSplit(1).split(dataset, 3, 4, 6)


def test_part_split_needs_a_test_part(database) -> None:
    dataset = ASEAtomsData(str(database()))
    with pytest.raises(DataError, match="SeededSplit"):
        PartSplit().split(dataset, 3, 4, None)
