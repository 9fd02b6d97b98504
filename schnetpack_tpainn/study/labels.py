"""Which frames of a study are labels to train on, which validate, which test."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate, to_absolute_path
from schnetpack.data import ASEAtomsData

from schnetpack_tpainn.data.training import write_split
from schnetpack_tpainn.errors import StudyError
from schnetpack_tpainn.study.settings import StudySettings

__all__ = ["prepare_labels", "write_splits"]


def prepare_labels(data: Mapping[str, Any]) -> Path:
    """Make the data set of a study if it is absent.

    Args:
        data: the ``data`` section of the configuration.

    Returns:
        Path of the database. Refuses as ``TPaiNNDataModule.prepare_data`` does.
    """
    datamodule = instantiate(data, train_sampler_cls=None)
    datamodule.prepare_data()
    return Path(to_absolute_path(str(datamodule.datapath)))


def write_splits(
    settings: StudySettings, data: Mapping[str, Any], database: Path
) -> dict[tuple[int, int], Path]:
    """Draw the labels of every number and seed, with one test set for all.

    The training sets of one seed nest, validation frames are the same for all of them, test frames
    for all seeds.

    Args:
        settings: numbers of labels, seeds and place.
        data: the ``data`` section; its sizes and splitting.
        database: the SchNetPack database.

    Returns:
        Number of labels and seed -> ``.npz`` with ``train_idx``, ``val_idx`` and ``test_idx``.

    Raises:
        StudyError: sizes are open, the splitting cannot fix the test frames, or files from an
            earlier call differ.
        DataError: there are too few frames.
    """
    n_val, n_test = data.get("num_val"), data.get("num_test")
    if not (isinstance(n_val, int) and isinstance(n_test, int) and n_val > 0 and n_test > 0):
        raise StudyError(
            f"expected numbers for data.num_val and data.num_test, got {n_val} and {n_test}: every "
            "run is tested on the same frames"
        )
    splitting = instantiate(data["splitting"])
    if not hasattr(splitting, "test_seed"):
        raise StudyError(
            f"expected data.splitting with a test_seed, got {type(splitting).__name__}; use "
            "schnetpack_tpainn.data.split.SeededSplit or PartSplit"
        )
    splitting.test_seed = settings.test_seed
    dataset = ASEAtomsData(str(database))
    folder = settings.directory / "splits"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for n, seeds in settings.seeds.items():
        for splitting.seed in seeds:
            parts = splitting.split(dataset, n, n_val, n_test)
            path = folder / f"n{n}_s{splitting.seed}.npz"
            _write(path, dict(zip(("train_idx", "val_idx", "test_idx"), parts, strict=True)))
            paths[n, splitting.seed] = path
    return paths


def _write(path: Path, parts: Mapping[str, Any]) -> None:
    """Write a split in one piece, or find the same one."""
    if path.exists():
        with np.load(path) as found:
            if any(not np.array_equal(found[name], part) for name, part in parts.items()):
                raise StudyError(
                    f"{path} holds another split: the study was begun with other data, sizes or "
                    "study.test_seed; restore them, or choose another study.directory"
                )
        return
    write_split(path, parts)
