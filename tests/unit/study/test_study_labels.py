"""Splits of a study."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from omegaconf import OmegaConf

from hydra_plugins.schnetpack_tpainn.searchpath import config_dir
from schnetpack_tpainn.data.store import labelled, write_database
from schnetpack_tpainn.errors import DataError, StudyError
from schnetpack_tpainn.study.labels import write_splits
from schnetpack_tpainn.study.settings import StudySettings

SPLIT = {"_target_": "schnetpack_tpainn.data.split.SeededSplit"}
DATA = {"num_val": 3, "num_test": 4, "splitting": SPLIT}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    frames = [labelled(Atoms("H"), float(i), np.zeros((1, 3))) for i in range(20)]
    return write_database(tmp_path / "labels.db", frames, {})


def settings(place: Path, **changes: object) -> StudySettings:
    shipped = OmegaConf.load(config_dir() / "study" / "default.yaml").study
    node = OmegaConf.to_container(shipped, resolve=False)
    return StudySettings.read(node | {"directory": str(place), "n_train": [2, 5], **changes})


def test_one_test_set_and_training_sets_that_nest(tmp_path: Path, database: Path) -> None:
    paths = write_splits(settings(tmp_path / "a"), DATA, database)
    found = {key: {k: set(v.tolist()) for k, v in np.load(p).items()} for key, p in paths.items()}
    assert set(found) == {(n, seed) for n in (2, 5) for seed in (0, 1, 2)}
    for (n, seed), split in found.items():
        assert split["test_idx"] == found[2, 0]["test_idx"]
        assert split["val_idx"] == found[2, seed]["val_idx"]
        assert (len(split["train_idx"]), len(split["val_idx"]), len(split["test_idx"])) == (n, 3, 4)
        assert len(set.union(*split.values())) == n + 7
        assert found[2, seed]["train_idx"] <= split["train_idx"]
    other = write_splits(settings(tmp_path / "b", test_seed=1), DATA, database)
    assert set(np.load(other[2, 0])["test_idx"].tolist()) != found[2, 0]["test_idx"]


def test_the_same_again_is_found_and_another_split_refused(tmp_path: Path, database: Path) -> None:
    paths = write_splits(settings(tmp_path), DATA, database)
    before = paths[2, 0].stat().st_mtime_ns
    assert write_splits(settings(tmp_path), DATA, database) == paths
    assert paths[2, 0].stat().st_mtime_ns == before
    with pytest.raises(StudyError, match=r"n2_s0\.npz holds another split"):
        write_splits(settings(tmp_path, test_seed=1), DATA, database)


@pytest.mark.parametrize("change", [{"num_test": None}, {"num_val": None}, {"num_test": 0.5}])
def test_open_sizes_are_refused(tmp_path: Path, database: Path, change: dict) -> None:
    with pytest.raises(StudyError, match=r"expected numbers for data\.num_val and data\.num_test"):
        write_splits(settings(tmp_path), DATA | change, database)


def test_more_labels_than_frames_are_refused(tmp_path: Path, database: Path) -> None:
    with pytest.raises(DataError, match="num_train"):
        write_splits(settings(tmp_path, n_train=[14]), DATA, database)


def test_a_splitting_that_cannot_fix_the_test_frames_is_refused(
    tmp_path: Path, database: Path
) -> None:
    other = {"_target_": "schnetpack.data.RandomSplit"}
    with pytest.raises(StudyError, match="with a test_seed, got RandomSplit"):
        write_splits(settings(tmp_path), DATA | {"splitting": other}, database)
