"""Split files, and the labels that a teacher may know: their training rows and no others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.db import connect
from hydra.utils import to_absolute_path

from schnetpack_tpainn.errors import DataError

__all__ = ["PARTS", "existing_file", "read_split", "training_rows", "write_split"]

PARTS = ("train_idx", "val_idx", "test_idx")


def existing_file(name: str) -> Path:
    """Path of a file that must be there.

    Args:
        name: a path; if relative, from where a Hydra run was started.

    Returns:
        The path.

    Raises:
        DataError: there is no such file.
    """
    path = Path(to_absolute_path(name))
    if not path.is_file():
        raise DataError(f"expected a file, {path} does not exist; correct its path")
    return path


def read_split(path: Path) -> dict[str, list[int]]:
    """Read a split file.

    Args:
        path: npz file with ``train_idx``, ``val_idx`` and ``test_idx``.

    Returns:
        Rows of each part, from 0.

    Raises:
        DataError: the file is none.
    """
    try:
        with np.load(path) as split:
            return {name: split[name].astype(int).tolist() for name in PARTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"expected an npz file with {', '.join(PARTS)}, cannot read {path}: {error}; give the "
            "split.npz of a run"
        ) from error


def write_split(path: Path, parts: Mapping[str, Sequence[int]]) -> None:
    """Write a split file at once.

    Args:
        path: npz file.
        parts: rows of ``train_idx``, ``val_idx`` and ``test_idx``, from 0.
    """
    temporary = path.with_name(f".{path.name}.tmp.npz")
    arrays: dict[str, Any] = {name: np.array(part, dtype=int) for name, part in parts.items()}
    np.savez(temporary, **arrays)
    temporary.replace(path)


def training_rows(path: Path, n_train: int | None, labels: Path) -> list[int]:
    """Rows of a database whose labels may be used.

    Args:
        path: npz file with ``train_idx``, such as a data module's ``split_file``.
        n_train: the first so many of them; all when None.
        labels: the database.

    Returns:
        Rows, from 0.

    Raises:
        DataError: the file is none, or names too few rows or rows that do not exist.
    """
    try:
        with np.load(path) as split:
            rows: list[int] = split["train_idx"].astype(int).tolist()
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"expected an npz file with train_idx, cannot read {path}: {error}; give a data "
            "module's split_file"
        ) from error
    n = len(rows) if n_train is None else n_train
    if not 1 <= n <= len(rows):
        raise DataError(f"expected n_train from 1 to the {len(rows)} rows of {path}, got {n}")
    with connect(str(labels), use_lock_file=False) as db:
        n_labels = db.count()
    if not 0 <= min(rows[:n]) <= max(rows[:n]) < n_labels:
        raise DataError(
            f"split file {path} names row {max(rows[:n], key=abs)}, {labels} has {n_labels}: give "
            "the split of these labels"
        )
    return rows[:n]
