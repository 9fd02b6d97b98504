"""Train, validation and test partitions that depend on a seed alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from schnetpack.data import SplittingStrategy

from schnetpack_tpainn.errors import DataError

__all__ = ["PartSplit", "SeededSplit", "check_sizes"]


def _partitions(
    order: Sequence[int], n_train: int | None, n_val: int | None, n_rest: int | None, what: str
) -> tuple[list[int], list[int], list[int]]:
    """First ``n_train``, last ``n_val`` and the ``n_rest`` before those (None: all between)."""
    if n_train is None or n_val is None:
        raise DataError(
            f"expected numbers for num_train and num_val, got {n_train} and {n_val}; set both"
        )
    rest = 0 if n_rest is None else n_rest
    if min(n_train, n_val, rest) < 0 or n_train + n_val + rest > len(order):
        raise DataError(
            f"expected num_train + num_val{'' if n_rest is None else ' + num_test'} = "
            f"{n_train} + {n_val}{'' if n_rest is None else f' + {rest}'} of at most {len(order)} "
            f"{what}; ask for fewer or make more frames"
        )
    end = len(order) - n_val
    start = n_train if n_rest is None else end - rest
    return list(order[:n_train]), list(order[end:]), list(order[start:end])


def _shuffled(indices: Sequence[int], seed: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).permutation(np.asarray(indices, int))]


def _open_end(size: int | None) -> int | None:
    """SchNetPack writes "all that remain" as None or as a negative number."""
    return None if size is None or size < 0 else size


def check_sizes(n_frames: int, *sizes: float | None, key: str = "n_frames") -> None:
    """Refuse partitions that need more frames than will be made, before any is.

    Args:
        n_frames: frames that will be made.
        *sizes: number of training, validation and test frames; open ones (None, negative) and 0
            need one frame at least, relative ones (floats) are not judged.
        key: the source's setting that says so.

    Raises:
        DataError: there are too few frames.
    """
    if any(isinstance(size, float) for size in sizes):
        return
    needed = [max(1, int(size or 0)) for size in sizes]
    if sum(needed) > n_frames:
        raise DataError(
            f"expected num_train + num_val + num_test, each at least 1, of at most {key} = "
            f"{n_frames}, got {' + '.join(map(str, needed))} = {sum(needed)}; ask for fewer, or "
            f"raise data.source.{key}"
        )


class SeededSplit(SplittingStrategy):
    """Random split that nests: a smaller training set is part of a larger one.

    Training frames are the first of one permutation, validation frames its last, test frames the
    ones before those. Validation and, where ``num_test`` is given, test frames therefore do not
    depend on ``num_train``, and nothing depends on the state of the global generators. With a
    ``test_seed`` the test frames are the first of a permutation of their own, the same for every
    ``seed``, which then draws training and validation frames from all others.

    .. code-block:: yaml

        splitting:
          _target_: schnetpack_tpainn.data.split.SeededSplit
          seed: 0
          test_seed: null

    Args:
        seed: seed of the permutation.
        test_seed: seed of the test frames' own permutation, which needs ``num_test``; None: they
            follow ``seed``.
    """

    def __init__(self, seed: int = 0, test_seed: int | None = None) -> None:
        super().__init__()
        self.seed = seed
        self.test_seed = test_seed

    def split(self, dataset: Any, *split_sizes: int | None) -> tuple[list[int], ...]:
        """Partition a data set.

        Args:
            dataset: the data set; only its length is used.
            *split_sizes: number of training, validation and test frames; None or -1 as the last
                means all that remain.

        Returns:
            Training, validation and test indices.

        Raises:
            DataError: too few frames, or ``test_seed`` without a number of test frames.
        """
        n_train, n_val, n_test = split_sizes
        n_test = _open_end(n_test)
        if self.test_seed is None:
            order = _shuffled(range(len(dataset)), self.seed)
            return _partitions(order, n_train, n_val, n_test, "frames")
        if n_test is None:
            raise DataError(
                "expected a number for num_test, which test_seed draws before all others, got "
                "none; set data.num_test, or data.splitting.test_seed=null"
            )
        tests = _shuffled(range(len(dataset)), self.test_seed)
        pool = _shuffled(sorted(tests[n_test:]), self.seed)
        train, val, _ = _partitions(
            pool, n_train, n_val, None, f"frames beside num_test = {n_test}"
        )
        return train, val, tests[:n_test]


class PartSplit(SplittingStrategy):
    """Split that keeps a declared test set apart.

    Test frames come from the rows whose key-value pair ``part_key`` is ``test``, training and
    validation frames from all others; within those, training sets nest as in
    :class:`SeededSplit`.

    .. code-block:: yaml

        splitting:
          _target_: schnetpack_tpainn.data.split.PartSplit
          seed: 0
          test_seed: null

    Args:
        seed: seed of the permutations.
        part_key: name of the key-value pair.
        test_seed: seed that chooses ``num_test`` of the test rows; None: ``seed`` does.
    """

    def __init__(self, seed: int = 0, part_key: str = "part", test_seed: int | None = None) -> None:
        super().__init__()
        self.seed = seed
        self.part_key = part_key
        self.test_seed = test_seed

    def split(self, dataset: Any, *split_sizes: int | None) -> tuple[list[int], ...]:
        """Partition a data set.

        Args:
            dataset: SchNetPack's ``ASEAtomsData``.
            *split_sizes: number of training, validation and test frames; None or -1 as the last
                means every test row.

        Returns:
            Training, validation and test indices.

        Raises:
            DataError: no row is marked ``test``, or a part has fewer frames than asked for.
        """
        n_train, n_val, n_test = split_sizes
        rows = dataset.conn.select(columns=["id", "key_value_pairs"], include_data=False)
        parts = {row.id - 1: row.key_value_pairs.get(self.part_key) for row in rows}
        marked = [i for i, part in parts.items() if part == "test"]
        if not marked:
            raise DataError(
                f"expected rows with the key-value pair {self.part_key}='test', got none; mark "
                "them, give an import its test_files, or split with data.splitting._target_="
                "schnetpack_tpainn.data.split.SeededSplit"
            )
        pool = _shuffled([i for i, part in parts.items() if part != "test"], self.seed)
        train, val, _ = _partitions(pool, n_train, n_val, None, "frames outside the test part")
        tests = _shuffled(marked, self.seed if self.test_seed is None else self.test_seed)
        n_test = _open_end(n_test)
        if n_test is not None and n_test > len(tests):
            raise DataError(
                f"expected num_test of at most {len(tests)} frames marked 'test', got {n_test}"
            )
        return train, val, tests[:n_test]
