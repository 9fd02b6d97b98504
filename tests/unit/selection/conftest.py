"""Tiny real models and first labels, shared by the tests of this folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pools import label, shaken

from schnetpack_tpainn.data.store import write_database
from schnetpack_tpainn.selection.labels import Labels, read_labels
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.portable import save_portable
from schnetpack_tpainn.transfer.units import UNITS
from tests.fits import build, model_config


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three networks of different kind, as SchNetPack's training leaves them."""
    place = tmp_path_factory.mktemp("models")
    for kind in ("tpainn", "painn", "schnet"):
        torch.save(build(kind), place / kind)
    return [place / kind for kind in ("tpainn", "painn", "schnet")]


@pytest.fixture(scope="session")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says which elements it knows: H, C and O."""
    model = build("tpainn")
    model.metadata = {"elements": [1, 6, 8]}
    path = tmp_path_factory.mktemp("knowing") / "best_model"
    torch.save(model, path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained network in the portable form, which says how it is built."""
    path = tmp_path_factory.mktemp("pretrained") / "model.safetensors"
    model = build("tpainn")
    card = {"architecture": describe(model), "model_config": model_config("tpainn")}
    card |= {"elements": [1, 6, 8, 14], "units": UNITS}
    save_portable(path, network_state(model), card, {"energy": torch.zeros(100)})
    return path


@pytest.fixture
def start(tmp_path: Path) -> Labels:
    """Labels to begin with: 4 to train on, 2 to validate, 3 to test; one row is of no part."""
    write_database(tmp_path / "start.db", label(shaken(10, first=100)), {})
    parts = {"train_idx": [3, 1, 2, 0], "val_idx": [5, 8], "test_idx": [4, 7, 6]}
    np.savez(tmp_path / "split.npz", **parts)
    return read_labels(tmp_path / "start.db", tmp_path / "split.npz", None, None)
