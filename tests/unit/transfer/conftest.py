"""Fixtures that more than one file of this folder uses."""

from pathlib import Path

import pytest
from hydra.utils import instantiate

from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.portable import PORTABLE_NAME, save_portable
from tests.conftest import potential_config


@pytest.fixture
def portable(tmp_path: Path) -> Path:
    pretrained = instantiate(potential_config())
    path = tmp_path / PORTABLE_NAME
    save_portable(path, network_state(pretrained), {"architecture": describe(pretrained)})
    return path
