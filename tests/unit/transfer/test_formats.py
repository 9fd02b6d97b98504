"""Every version of the checkpoint format is read, and newer ones are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from safetensors.torch import save_file

from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.md import TPaiNNCalculator
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.formats import CARD_KEY, FORMAT
from schnetpack_tpainn.transfer.portable import save_portable
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from schnetpack_tpainn.transfer.task import TransferTask
from tests.fits import build, fit, make_labels

GOLDEN = Path(__file__).parents[2] / "checkpoints"
VERSIONS = [f"v{k}" for k in range(1, FORMAT + 1)]
V1 = GOLDEN / "v1" / "autotune.ckpt"


def v1() -> Any:
    return torch.load(V1, weights_only=True)


def test_there_are_golden_files_of_every_version() -> None:
    assert sorted(p.name for p in GOLDEN.glob("v*")) == VERSIONS
    assert v1()[CARD_KEY]["format"] == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("source", ["pretrain", "autotune.ckpt"])
def test_a_golden_file_gives_its_energy_and_forces(
    tmp_path: Path, version: str, source: str
) -> None:
    expected = json.loads((GOLDEN / version / "expected.json").read_text())[source]
    read = load_pretrained(GOLDEN / version / source)
    assert read.card["format"] == FORMAT
    assert read.card["elements"] == [1, 6, 8]
    save_portable(tmp_path / "m.safetensors", read.state, read.card, read.offsets)
    atoms = Atoms(expected["symbols"], expected["positions_ang"])
    atoms.calc = TPaiNNCalculator(tmp_path / "m.safetensors", dtype="float64", device="cpu")
    assert atoms.get_potential_energy() == pytest.approx(expected["energy_ev"], abs=1e-5)
    assert abs(expected["energy_ev"]) > 0.01
    forces = np.array(expected["forces_ev_per_ang"])
    assert atoms.get_forces() == pytest.approx(forces, abs=1e-5)
    assert abs(forces).max() > 0.001


@pytest.mark.parametrize("version", VERSIONS)
def test_the_card_of_a_run_says_where_it_comes_from(version: str) -> None:
    card = load_pretrained(GOLDEN / version / "pretrain").card
    assert card["stage"] == "pretrain"
    assert card["level_of_theory"]["force_field"] == "MMFF94"
    assert card["data"]["fingerprint"]
    assert card["units"] == {"energy": "eV", "forces": "eV/Ang", "distance": "Ang"}
    assert card["model_config"]["representation"]["n_atom_basis"] == 8
    assert card["architecture"]["cutoff_ang"] == 5.0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_golden_checkpoint_is_resumed(tmp_path: Path, version: str) -> None:
    path = GOLDEN / version / "autotune.ckpt"
    stored = torch.load(path, weights_only=True)
    settings = {**stored["hyper_parameters"], "scheduler_cls": None}
    resumed = fit(
        tmp_path,
        make_labels(tmp_path),
        TransferTask(**settings),
        steps=stored["global_step"] + 2,
        resume=path,
        callbacks=(),
    )
    first = resumed.watch.weights[0]
    assert all(torch.equal(w, stored["state_dict"][f"model.{n}"]) for n, w in first.items())
    assert len(resumed.watch.weights) == 3
    assert resumed.watch.moved(1)
    assert resumed.optimizer.param_groups[0]["factor"] == 1.0
    assert resumed.optimizer.param_groups[0]["momentum"] == 0.9
    record = resumed.task.record
    assert record is not None
    assert (record.strategy, record.total("copied")) == ("full", 2713)
    assert record.alignment["rank"] == 1
    assert record.zero_shot["aligned"]["n_frames"] == 5
    assert record.frames == record.pretrained["data"]["path"]
    kept = resumed.stored()[CARD_KEY]
    assert kept["format"] == kept["card"]["format"] == FORMAT
    assert {"architecture", "model_config", "elements", "units", "data", "versions"} < (
        kept["card"].keys()
    )


def test_a_record_of_format_1_keeps_its_numbers() -> None:
    old = v1()[CARD_KEY]["record"]
    record = TransferTask.load_from_checkpoint(V1).record
    assert record is not None
    assert record.blocks["model"]["copied"] == record.blocks["model"]["trained"] == old["n_copied"]
    assert record.alignment["scale"] == old["scale"]
    assert record.zero_shot == old["zero_shot"]


@pytest.mark.parametrize("lmax", [1, 2])
def test_format_1_did_not_say_lmax(tmp_path: Path, lmax: int) -> None:
    model = build("so3net", lmax=lmax)
    described = describe(model)
    old = {key: value for key, value in described.items() if key != "lmax"}
    card = {CARD_KEY: json.dumps({"format": 1, "architecture": old})}
    save_file(network_state(model), tmp_path / "m.safetensors", card)
    assert load_pretrained(tmp_path / "m.safetensors").card["architecture"] == described


@pytest.mark.parametrize("version", [FORMAT + 1, "two", 0])
def test_an_unknown_format_is_refused(tmp_path: Path, version: object) -> None:
    message = f"checkpoint format {version}, this version reads 1 to {FORMAT}"
    save_portable(tmp_path / "m.safetensors", {"x": torch.zeros(2)}, {"format": version})
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(tmp_path / "m.safetensors")
    checkpoint = v1()
    checkpoint[CARD_KEY]["format"] = version
    torch.save(checkpoint, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match=message):
        TransferTask.load_from_checkpoint(tmp_path / "m.ckpt")


def test_another_tasks_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    checkpoint = v1()
    del checkpoint[CARD_KEY]
    torch.save(checkpoint, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="not written by a T-PaiNN task"):
        TransferTask.load_from_checkpoint(tmp_path / "m.ckpt")
