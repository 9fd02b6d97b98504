"""Reading pretrained weights, and refusing what does not fit."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import save_file
from schnetpack.representation import PaiNN
from torch import nn

from schnetpack_tpainn.errors import CheckpointError, TransferError
from schnetpack_tpainn.transfer.architecture import compare_architecture, describe
from schnetpack_tpainn.transfer.copying import copy_parameters, network_state, plan_copy
from schnetpack_tpainn.transfer.pretrained import (
    PORTABLE_NAME,
    Pretrained,
    load_pretrained,
    save_portable,
)
from schnetpack_tpainn.transfer.strategies import Autotune
from schnetpack_tpainn.transfer.units import check_units
from tests.conftest import potential_config


def model(**changes: Any) -> nn.Module:
    return instantiate(potential_config(**changes))


@pytest.fixture
def portable(tmp_path: Path) -> Path:
    pretrained = model()
    path = tmp_path / PORTABLE_NAME
    save_portable(path, network_state(pretrained), {"architecture": describe(pretrained)})
    return path


def fill(target: nn.Module, state: Mapping[str, torch.Tensor]) -> int:
    """Copy everything; the number of scalars."""
    plan = plan_copy(state, target)
    copy_parameters(plan, state, target)
    return sum(target.get_parameter(name).numel() for name in plan.copied)


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def test_every_parameter_arrives_and_no_offset(portable: Path) -> None:
    source = load_pretrained(portable)
    target = model()
    target.postprocessors[0].split.fill_(3.0)
    n = fill(target, source.state)
    assert n == sum(p.numel() for p in target.parameters())
    assert all(torch.equal(source.state[k], p) for k, p in target.named_parameters())
    assert (target.postprocessors[0].split == 3.0).all()


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


def test_another_basis_of_the_same_size_is_refused(portable: Path) -> None:
    target = model()
    target.representation.radial_basis.widths *= 1.5
    with pytest.raises(CheckpointError, match=r"radial_basis.widths +its own values +others"):
        fill(target, load_pretrained(portable).state)


def test_missing_left_over_and_misshapen_parameters_are_listed(portable: Path) -> None:
    state = dict(load_pretrained(portable).state)
    state["extra"] = state.pop("representation.embedding.weight")
    state["output_modules.0.outnet.0.weight"] = torch.zeros(1, 1)
    target = model()
    before = model()
    before.load_state_dict(target.state_dict())
    with pytest.raises(CheckpointError) as error:
        fill(target, state)
    table = " ".join(str(error.value).split())
    assert "representation.embedding.weight (100, 8) missing" in table
    assert "extra not part of this model (100, 8)" in table
    assert "output_modules.0.outnet.0.weight (4, 8) (1, 1)" in table
    assert same(before, target)


def test_stock_painn_exchanges_weights() -> None:
    ours = model()
    r = ours.representation
    stock = PaiNN(8, 2, r.radial_basis, r.cutoff_fn)
    other = nn.Module()
    other.representation = stock
    compare_architecture(describe(other), describe(ours))
    stock_state = {f"representation.{k}": v for k, v in stock.state_dict().items()}
    heads = {k: v for k, v in network_state(ours).items() if k.startswith("output_modules")}
    fill(ours, {**stock_state, **heads})
    assert torch.equal(ours.representation.embedding.weight, stock.embedding.weight)


def test_shared_interactions_survive_the_portable_format(tmp_path: Path) -> None:
    config = potential_config()
    config["representation"]["shared_interactions"] = True
    first, second = instantiate(config), instantiate(config)
    save_portable(tmp_path / "m.safetensors", network_state(first), {"architecture": {}})
    fill(second, load_pretrained(tmp_path / "m.safetensors").state)
    assert same(first, second)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_pretrained(tmp_path / "nothing.ckpt")
    with pytest.raises(CheckpointError, match="without any of them"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_damaged_file(tmp_path: Path, portable: Path, name: str) -> None:
    (tmp_path / name).write_bytes(portable.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"damaged|pickled objects"):
        load_pretrained(tmp_path / name)


def test_weights_without_a_card(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="no T-PaiNN card"):
        load_pretrained(tmp_path / "m.safetensors")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    save_portable(tmp_path / "m.safetensors", {"x": torch.zeros(2)}, {"format": 99})
    with pytest.raises(CheckpointError, match="checkpoint format 99"):
        load_pretrained(tmp_path / "m.safetensors")


def test_a_pickle_needs_trust(tmp_path: Path) -> None:
    pretrained = model()
    torch.save(pretrained, tmp_path / "best_model")
    with pytest.raises(CheckpointError, match="trust_pickle=true"):
        load_pretrained(tmp_path / "best_model")
    read = load_pretrained(tmp_path / "best_model", trust_pickle=True)
    target = model()
    fill(target, read.state)
    assert same(pretrained, target)
    assert read.card["architecture"] == describe(pretrained)


def test_a_pickle_that_is_no_model(tmp_path: Path) -> None:
    torch.save({"x": 1}, tmp_path / "best_model")
    with pytest.raises(CheckpointError, match="expected a SchNetPack model"):
        load_pretrained(tmp_path / "best_model", trust_pickle=True)
    (tmp_path / "best_model").write_text("no pickle")
    with pytest.raises(CheckpointError, match="cannot read the model"):
        load_pretrained(tmp_path / "best_model", trust_pickle=True)


def test_a_checkpoint_of_schnetpacks_own_task_is_explained(tmp_path: Path) -> None:
    torch.save({"hyper_parameters": {"model": model()}}, tmp_path / "old.ckpt")
    with pytest.raises(CheckpointError, match="pickled objects"):
        load_pretrained(tmp_path / "old.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="not written by a T-PaiNN task"):
        load_pretrained(tmp_path / "other.ckpt")


def test_an_unfinished_run_gives_its_best_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    best, last = model(), model()
    for time, (name, m) in enumerate([("epoch=03", best), ("last", last)]):
        state = {f"model.{k}": v for k, v in m.state_dict().items()}
        card = {"architecture": describe(m)}
        torch.save({"state_dict": state, "tpainn": {"card": card}}, folder / f"{name}.ckpt")
        os.utime(folder / f"{name}.ckpt", (time, time))
    read = load_pretrained(tmp_path)
    assert torch.equal(
        read.state["representation.embedding.weight"], best.representation.embedding.weight
    )
    assert not any(name.startswith("postprocessors") for name in read.state)
    assert "is not finished" in caplog.text


def test_units_of_the_pretraining_must_be_those_of_the_data() -> None:
    dataset = SimpleNamespace(units={"energy": "eV", "forces": "eV/Ang"}, distance_unit="Ang")
    data = SimpleNamespace(train_dataset=dataset)
    card = {"units": {"energy": "kcal/mol", "distance": "Ang"}}
    with pytest.raises(CheckpointError, match=r"energy: expected kcal/mol, got eV\)"):
        check_units(Pretrained(Path("x"), {}, card), data)


def test_head_mode_is_checked() -> None:
    with pytest.raises(TransferError, match="rescale, keep or reset"):
        Autotune(head="drop")
