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


def test_test_frames_of_their_own_seed() -> None:
    splits = {
        (seed, n): SeededSplit(seed, test_seed=7).split(DATASET, n, 20, 30)
        for seed in (0, 1)
        for n in (10, 50)
    }
    (train, val, test), larger, other = splits[0, 10], splits[0, 50], splits[1, 10]
    assert all(split[2] == test for split in splits.values())
    assert larger[0][:10] == train
    assert larger[1] == val
    assert set(other[0]) != set(train)
    assert set(other[1]) != set(val)
    assert sorted([*train, *larger[0][10:], *val, *test]) == list(range(100))
    assert SeededSplit(0, test_seed=8).split(DATASET, 10, 20, 30)[2] != test
    assert SeededSplit(0, test_seed=7).split(DATASET, 10, 20, 15)[2] == test[:15]
    assert SeededSplit(7, test_seed=7).split(DATASET, 50, 20, 30)[2] == test
    assert SeededSplit(0, test_seed=0).split(DATASET, 10, 20, 30) != splits[0, 10]


def test_test_frames_of_their_own_seed_need_a_number() -> None:
    for open_end in (None, -1):
        with pytest.raises(DataError, match="expected a number for num_test"):
            SeededSplit(0, test_seed=0).split(DATASET, 10, 20, open_end)
    with pytest.raises(DataError, match=r"10 \+ 61 of at most 70 frames beside num_test = 30"):
        SeededSplit(0, test_seed=0).split(DATASET, 10, 61, 30)
    with pytest.raises(DataError, match="at most 0 frames beside num_test = 101"):
        SeededSplit(0, test_seed=0).split(DATASET, 10, 20, 101)


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


def test_part_split_with_test_frames_of_their_own_seed(database) -> None:
    dataset = ASEAtomsData(str(database(parts=["test"] * 10 + ["pool"] * 10)))
    fixed = [PartSplit(seed, test_seed=3).split(dataset, 4, 3, 4) for seed in (0, 1)]
    following = [PartSplit(seed).split(dataset, 4, 3, 4) for seed in (0, 1)]
    assert fixed[0][2] == fixed[1][2] == PartSplit(3).split(dataset, 4, 3, 4)[2]
    assert set(following[0][2]) != set(following[1][2])
    assert set(fixed[0][2]) <= set(range(10))
    assert [split[:2] for split in fixed] == [split[:2] for split in following]
    assert fixed[0][0] != fixed[1][0]


def test_part_split_needs_a_test_part(database) -> None:
    dataset = ASEAtomsData(str(database()))
    with pytest.raises(DataError, match="SeededSplit"):
        PartSplit().split(dataset, 3, 4, None)
