"""Reading pretrained weights from whatever a run leaves, and refusing what cannot be trusted."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import save_file

from schnetpack_tpainn.errors import CheckpointError, TransferError
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.formats import CARD_KEY, Pretrained
from schnetpack_tpainn.transfer.portable import (
    PORTABLE_NAME,
    offsets_of,
    save_portable,
)
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from schnetpack_tpainn.transfer.strategies import Autotune
from schnetpack_tpainn.transfer.units import UNITS, check_units
from tests.conftest import potential_config


def model(**changes: Any) -> Any:
    return instantiate(potential_config(**changes))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"cutoff": 5.0}, "cutoff_ang: expected 5.0, got 4.0"),
        ({"n_rbf": 7}, "n_rbf: expected 7, got 6"),
        ({"n_atom_basis": 16}, "irreps: expected 16x0e"),
    ],
)
def test_another_architecture_is_refused(
    portable: Path, changes: dict[str, Any], names: str
) -> None:
    target = model(**changes)
    before = [p.clone() for p in target.parameters()]
    with pytest.raises(CheckpointError, match=names):
        Autotune(checkpoint=str(portable)).check(lambda: target)
    assert all(torch.equal(p, q) for p, q in zip(before, target.parameters(), strict=True))


def test_another_cutoff_is_accepted_by_its_key(portable: Path) -> None:
    Autotune(checkpoint=str(portable), accept=["cutoff_ang"]).check(lambda: model(cutoff=5.0))
    with pytest.raises(TransferError, match="accept: expected some of"):
        Autotune(checkpoint=str(portable), accept=["cutoff"]).check(model)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_pretrained(tmp_path / "nothing.ckpt")
    with pytest.raises(CheckpointError, match="without any of them"):
        load_pretrained(tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_unreadable_file(portable: Path) -> None:
    portable.chmod(0)
    with pytest.raises(CheckpointError, match="permission denied"):
        load_pretrained(portable)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
@pytest.mark.parametrize("kept", [0, 200, -200])
def test_damaged_file(tmp_path: Path, portable: Path, name: str, kept: int) -> None:
    whole = portable
    if name == "a.ckpt":
        whole = tmp_path / "whole"
        torch.save({"state_dict": {}, CARD_KEY: {"card": {}}}, whole)
    (tmp_path / name).write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        load_pretrained(tmp_path / name)


def test_damaged_run_files(portable: Path) -> None:
    (portable.parent / "config.yaml").write_text("model: {")
    with pytest.raises(CheckpointError, match="damaged"):
        load_pretrained(portable)


def test_weights_that_are_not_finite(portable: Path) -> None:
    state = dict(load_pretrained(portable).state)
    state["representation.filter_net.bias"][3] = torch.nan
    save_portable(portable, state, load_pretrained(portable).card)
    with pytest.raises(CheckpointError, match=r"holds NaN .* in representation.filter_net.bias"):
        load_pretrained(portable)


def test_weights_without_a_card(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="no T-PaiNN card"):
        load_pretrained(tmp_path / "m.safetensors")


def test_a_checkpoint_of_another_task(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="not written by a T-PaiNN task"):
        load_pretrained(tmp_path / "other.ckpt")


def test_an_unfinished_run_gives_its_best_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    best, last = model(), model()
    best.postprocessors[0].set_offsets(torch.arange(100.0))
    for time, (name, m) in enumerate([("epoch=03", best), ("last", last)]):
        state = {f"model.{k}": v for k, v in m.state_dict().items()}
        card = {"architecture": describe(m), "model_config": potential_config()}
        content = {"state_dict": state, CARD_KEY: {"format": 2, "card": card}}
        torch.save(content, folder / f"{name}.ckpt")
        os.utime(folder / f"{name}.ckpt", (time, time))
    torch.save(last, tmp_path / "best_model")  # needs trust, so it is not what is taken
    read = load_pretrained(tmp_path)
    assert torch.equal(
        read.state["representation.embedding.weight"], best.representation.embedding.weight
    )
    assert not any(name.startswith("postprocessors") for name in read.state)
    assert torch.equal(read.offsets["energy"], offsets_of(best)["energy"])
    assert f"has no {PORTABLE_NAME}; its weights are read from {folder / 'epoch=03.ckpt'}" in (
        caplog.text
    )


def test_units_of_the_pretraining_must_be_those_of_the_data() -> None:
    units = {"energy": "eV", "forces": "kcal/mol/Ang"}
    dataset = SimpleNamespace(units=units, distance_unit="Ang", load_properties=["energy"])
    data = SimpleNamespace(train_dataset=dataset)
    card = {"units": {"energy": "kcal/mol", "distance": "Ang"}}
    with pytest.raises(CheckpointError, match=r"energy: expected kcal/mol, got eV\)"):
        check_units(Pretrained(Path("x"), {}, card), data)
    # forces that the data hold, but a run on energies alone does not load
    check_units(Pretrained(Path("x"), {}, {"units": UNITS}), data)
    dataset.load_properties.append("forces")
    with pytest.raises(CheckpointError, match="forces: expected eV/Ang, got kcal/mol/Ang"):
        check_units(Pretrained(Path("x"), {}, {"units": UNITS}), data)


def test_head_mode_is_checked() -> None:
    with pytest.raises(TransferError, match="rescale, keep or reset"):
        Autotune(head="drop")


def test_the_mode_for_new_elements_is_checked() -> None:
    with pytest.raises(TransferError, match="refuse, init or nearest"):
        Autotune(new_elements="guess")
