"""Tiny real models, shared by the tests of this folder."""

from pathlib import Path

import pytest
import torch

from tests.fits import build, save_pretrained


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
    """A pretrained network in the portable form."""
    return save_pretrained(tmp_path_factory.mktemp("pretrained"), "tpainn")
