"""The parts of a data module: sizes, split files, overlaps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distorted import frames_of
from modules import module, ready
from schnetpack.data import SplittingStrategy

from schnetpack_tpainn.errors import DataError


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ({"num_test": 0}, "10 to train, 4 to validate and 0 to test"),
        ({"num_train": 16}, "16 to train, 4 to validate and 0 to test"),
        ({"num_val": 0}, "10 to train, 0 to validate and 10 to test"),
        ({"num_train": 0.01, "num_val": 0.5}, "0 to train, 10 to validate"),
    ],
)
def test_empty_parts_are_refused(database, tmp_path: Path, sizes, found: str) -> None:
    with pytest.raises(DataError, match=f"expected frames in every part, got {found}") as error:
        module(database(), **sizes).setup()
    assert "delete" not in str(error.value)
    split = str(tmp_path / "split.npz")
    with pytest.raises(DataError, match=r"and delete .*split\.npz"):
        module(database(), split_file=split, **sizes).setup()


def test_elements_of_the_frames_in_use(database, tmp_path: Path) -> None:
    frames = frames_of(20)
    frames[0].symbols[2], frames[11].symbols[2], frames[19].symbols[2] = "N", "F", "S"
    frames[14].symbols[2] = "Cl"  # in no part
    split = tmp_path / "split.npz"
    np.savez(split, train_idx=range(10), val_idx=range(10, 14), test_idx=range(15, 20))
    datamodule = module(database(frames), split_file=str(split))
    with pytest.raises(DataError, match=r"need setup\(\) first"):
        datamodule.elements()
    datamodule.setup()
    assert datamodule.elements() == [1, 6, 7, 8, 9, 16]
    assert len(datamodule.cache) == 0  # no transforms


def test_a_split_file_of_another_data_set(database, tmp_path: Path) -> None:
    split = tmp_path / "split.npz"
    np.savez(split, train_idx=np.arange(10), val_idx=np.arange(10, 14), test_idx=[99])
    with pytest.raises(DataError, match="names frame 99"):
        module(database(), split_file=str(split)).setup()


def test_a_split_file_that_names_no_frame(database, tmp_path: Path) -> None:
    split = tmp_path / "split.npz"
    np.savez(split, train_idx=np.arange(10), val_idx=np.arange(10, 14), test_idx=[-1])
    with pytest.raises(DataError, match="names frame -1"):
        module(database(), split_file=str(split)).setup()


def test_parts_that_share_frames(database, tmp_path: Path) -> None:
    split = tmp_path / "split.npz"
    np.savez(split, train_idx=[*range(9), 4], val_idx=range(8, 12), test_idx=[11, 12, 3, 4])
    with pytest.raises(DataError, match=r"twice in .*split\.npz, got 4 .* such as 3 ") as error:
        module(database(), split_file=str(split)).setup()
    assert "3 (train and test), 4 (train and test), 8 (train and val), 11 (val and" in str(
        error.value
    )
    np.savez(split, train_idx=[*range(9), 4], val_idx=range(10, 14), test_idx=[15])
    with pytest.raises(DataError, match=r"got 1 that are, such as 4 \(train\)"):
        module(database(), split_file=str(split)).setup()

    class Overlapping(SplittingStrategy):
        def split(self, dataset: Any, *sizes: int | None) -> tuple[list[int], ...]:
            return list(range(10)), [9, 10, 11, 12], [13]

    with pytest.raises(DataError, match=r"parts of data\.splitting.* 9 \(train and val\)"):
        module(database(), splitting=Overlapping()).setup()


def test_a_split_file_of_other_sizes(database, tmp_path: Path) -> None:
    path, split = database(), str(tmp_path / "split.npz")
    first = ready(path, split_file=split)
    again = ready(path, split_file=split)
    assert again.train_idx == first.train_idx
    with pytest.raises(DataError, match=r"num_train \(9\).*Delete .*split.npz"):
        module(path, split_file=split, num_train=9).setup()


def test_relative_sizes(database) -> None:
    datamodule = ready(database(), num_train=0.5, num_val=0.25, num_test=0.25)
    parts = (datamodule.train_dataset, datamodule.val_dataset, datamodule.test_dataset)
    assert [len(p) for p in parts] == [10, 5, 5]
