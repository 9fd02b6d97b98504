"""The portable form of an ensemble: all of it comes back, nothing that does not belong together."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from schnetpack_tpainn.errors import CheckpointError, EnsembleError
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.ensemble import (
    ENSEMBLE_NAME,
    Calibration,
    find_ensemble,
    read_ensemble,
    save_ensemble,
)
from schnetpack_tpainn.transfer.formats import FORMAT, Pretrained
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from schnetpack_tpainn.transfer.units import UNITS
from tests.fits import build, save_pretrained

OFFSETS = torch.linspace(-2e4, 1e4, 100, dtype=torch.float64)
FACTORS = Calibration(2.0, 3.0, "crps", 50)


def member(seed: int, **card: Any) -> Pretrained:
    model = build("tpainn", seed)
    content = {"architecture": describe(model), "elements": [1, 6, 8], "units": UNITS, **card}
    return Pretrained(Path("m"), network_state(model), content, {"energy": OFFSETS + seed})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_ensemble(tmp_path / ENSEMBLE_NAME, [member(0), member(1), member(2)], FACTORS)
    return tmp_path / ENSEMBLE_NAME


def test_members_and_calibration_come_back(path: Path) -> None:
    ensemble = read_ensemble(path)
    assert ensemble.calibration == FACTORS
    assert len(ensemble.members) == 3
    for seed, found in enumerate(ensemble.members):
        expected = member(seed)
        assert found.card == {**expected.card, "format": FORMAT}
        assert found.state.keys() == expected.state.keys()
        assert all(torch.equal(found.state[n], t) for n, t in expected.state.items())
        assert torch.equal(found.offsets["energy"], OFFSETS + seed)
    assert [p.name for p in path.parent.iterdir()] == [ENSEMBLE_NAME]
    save_ensemble(path, [member(0), member(1)], None)
    assert read_ensemble(path).calibration is None


def test_it_is_found_in_its_directory_and_told_from_a_single_model(path: Path) -> None:
    assert find_ensemble(path) == find_ensemble(path.parent) == path
    assert find_ensemble(str(path)) == path
    single = save_pretrained(path.parent, "tpainn")
    assert find_ensemble(single) is None
    assert find_ensemble(path.parent / "absent.safetensors") is None
    with pytest.raises(CheckpointError, match="expected an ensemble that tpainn-ensemble wrote"):
        read_ensemble(single)
    with pytest.raises(CheckpointError, match="holds an ensemble, expected one model"):
        load_pretrained(path)


def test_a_damaged_member_is_named(path: Path) -> None:
    content = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")  # after the header
    header = json.loads(content[8:begin])
    name = next(n for n in header if n.startswith("members/1/") and n.endswith("weight"))
    place = begin + header[name]["data_offsets"][0]
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"member 1 of .* is damaged"):
        read_ensemble(path)
    path.write_bytes(content[: begin + 10])
    for broken in (find_ensemble, read_ensemble):
        with pytest.raises(CheckpointError, match=r"is damaged or no safetensors file"):
            broken(path)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"elements": [1, 8]}, r"one set of elements, got \[1, 6, 8\] in member 0 and \[1, 8\]"),
        ({"units": {**UNITS, "energy": "kcal/mol"}}, "one set of units.*kcal/mol.* in member 1"),
        ({"labels": ["energy"]}, r"one set of labels, got None in member 0 and \['energy'\]"),
    ],
)
def test_members_that_differ_are_refused(tmp_path: Path, card: Any, message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        save_ensemble(tmp_path / "e.safetensors", [member(0), member(1, **card)], FACTORS)
    assert not list(tmp_path.iterdir())


def test_another_cutoff_or_a_single_member_is_refused(tmp_path: Path) -> None:
    first, other = member(0), member(1)
    architecture = {**other.card["architecture"], "cutoff_ang": 5.0}
    other = replace(other, card={**other.card, "architecture": architecture})
    with pytest.raises(EnsembleError, match=r"one cutoff \(Å\), got 4\.0 .* and 5\.0 in member 1"):
        save_ensemble(tmp_path / "e.safetensors", [first, other], FACTORS)
    with pytest.raises(EnsembleError, match="two members or more, got 1"):
        save_ensemble(tmp_path / "e.safetensors", [first], FACTORS)
