"""Labels that a loop begins with: splits that are bad, drawn, or none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.db import connect

from schnetpack_tpainn.errors import DataError
from schnetpack_tpainn.selection.labels import Labels, read_labels


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (([0], [1], [99]), "names row 99"),
        (([0], [1], [0]), "expected no frame twice"),
        (([0], [], [1]), "expected validation and test frames, got 0 and 1"),
    ],
)
def test_bad_splits(tmp_path: Path, start: Labels, parts: Any, message: str) -> None:
    names = ("train_idx", "val_idx", "test_idx")
    np.savez(tmp_path / "bad.npz", **dict(zip(names, parts, strict=True)))
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / "start.db", tmp_path / "bad.npz", None, None)


def test_splits_that_are_none_or_drawn(tmp_path: Path, start: Labels) -> None:
    (tmp_path / "torn.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"cannot read .*torn.npz"):
        read_labels(tmp_path / "start.db", tmp_path / "torn.npz", None, None)
    with pytest.raises(DataError, match="got neither; give --split, or --num-val"):
        read_labels(tmp_path / "start.db", None, 3, None)
    with pytest.raises(DataError, match="got both"):
        read_labels(tmp_path / "start.db", tmp_path / "split.npz", 1, 1)
    drawn = read_labels(tmp_path / "start.db", None, 2, 3)
    assert [len(part) for part in drawn.parts] == [5, 2, 3]
    with pytest.raises(DataError, match="at most 10"):
        read_labels(tmp_path / "start.db", None, 8, 3)
    with connect(tmp_path / "start.db") as db:
        assert len(db) == len(drawn.frames)
