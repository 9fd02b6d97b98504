"""Reading what stock SchNetPack runs leave, and which pickles are opened."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from schnetpack.task import AtomisticTask
from schnetpack.train import ModelCheckpoint

from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.md import TPaiNNCalculator
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.portable import (
    build_model,
    save_portable,
)
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from schnetpack_tpainn.transfer.strategies import Autotune
from tests.conftest import potential_config
from tests.fits import OUTPUTS, build, data_module, make_labels, model_config

STOCK = ("schnet", "painn", "so3net")


def model(**changes: Any) -> Any:
    return instantiate(potential_config(**changes))


def stock_config(kind: str) -> dict[str, Any]:
    config = model_config(kind)
    config["postprocessors"] = [
        {"_target_": "schnetpack.transform.CastTo64"},
        {
            "_target_": "schnetpack.transform.AddOffsets",
            "property": "energy",
            "add_mean": True,
        },
    ]
    return config


@pytest.fixture(scope="module", params=STOCK)
def stock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory that SchNetPack's own task left, without our package's help."""
    folder = tmp_path_factory.mktemp(request.param)
    config = stock_config(request.param)
    outputs = [instantiate(output) for output in OUTPUTS]
    task = AtomisticTask(instantiate(config), outputs, torch.optim.Adam, {"lr": 1e-3})
    kept = ModelCheckpoint(
        model_path=str(folder / "best_model"),
        dirpath=folder / "checkpoints",
        save_last=True,
        monitor="val_loss",
    )
    trainer = Trainer(
        max_steps=2,
        callbacks=[kept],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        inference_mode=False,
    )
    trainer.fit(task, data_module(make_labels(folder)))
    run = {
        "model": config,
        "data": {"property_units": {"energy": "eV", "forces": "eV/Ang"}, "distance_unit": "Ang"},
    }
    OmegaConf.save(run, folder / "config.yaml")
    return folder


def best(folder: Path) -> Any:
    return torch.load(folder / "best_model", weights_only=False)


def sources(folder: Path) -> list[Path]:
    (checkpoint,) = (folder / "checkpoints").glob("epoch*.ckpt")
    return [folder, folder / "best_model", checkpoint]


def test_a_stock_run_is_read_whatever_one_names(stock: Path) -> None:
    expected = best(stock)
    for source in sources(stock):
        read = load_pretrained(source, own=stock.parent)
        assert read.state.keys() == network_state(expected).keys()
        assert all(torch.equal(t, read.state[n]) for n, t in network_state(expected).items())
        assert read.card["architecture"] == describe(expected)
        assert read.card["units"] == {"energy": "eV", "forces": "eV/Ang", "distance": "Ang"}
        assert read.offsets["energy"][6] == expected.postprocessors[1].mean != 0
    assert load_pretrained(stock, trust_pickle=True).source == stock / "best_model"


def test_a_stock_run_is_a_potential(stock: Path, tmp_path: Path) -> None:
    from ase.build import molecule

    read = load_pretrained(stock, trust_pickle=True)
    save_portable(tmp_path / "m.safetensors", read.state, read.card, read.offsets)
    energies = []
    for path in (stock / "best_model", tmp_path / "m.safetensors"):
        atoms = molecule("CH3OH", calculator=TPaiNNCalculator(path, dtype="float64", device="cpu"))
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], abs=1e-6)


def test_a_stock_run_may_have_lost_files(stock: Path, tmp_path: Path) -> None:
    expected = network_state(best(stock))
    for name in ("best_model", "checkpoints"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "checkpoints":
            shutil.copytree(stock / name, folder / name)
        else:
            shutil.copy(stock / name, folder)
        read = load_pretrained(folder, own=tmp_path)
        assert all(torch.equal(t, read.state[n]) for n, t in expected.items())
        with pytest.raises(CheckpointError, match="does not say how its model is built"):
            build_model(read)


def test_the_pickle_of_a_task(tmp_path: Path) -> None:
    pretrained = build("schnet")
    task = AtomisticTask(pretrained, [], torch.optim.Adam, {"lr": 1e-3})
    torch.save(task, tmp_path / "best_model.task")
    read = load_pretrained(tmp_path / "best_model.task", trust_pickle=True)
    assert all(torch.equal(t, read.state[n]) for n, t in network_state(pretrained).items())


def test_a_pickle_needs_trust(stock: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for source in sources(stock):
        with pytest.raises(CheckpointError, match="a pickle, which runs code") as error:
            load_pretrained(source)
        assert "transfer.trust_pickle=true" in str(error.value)
        assert "--trust-pickle" in str(error.value)
        with pytest.raises(CheckpointError, match=f"outside your folder of runs, {elsewhere}"):
            load_pretrained(source, own=elsewhere)
        assert load_pretrained(source, own=stock).state
        assert load_pretrained(source, trust_pickle=True).state


def test_no_pickle_is_opened_where_its_weights_lie_beside_it(portable: Path) -> None:
    (portable.parent / "best_model").write_text("never read")
    (portable.parent / "m.ckpt").write_text("damaged")
    assert load_pretrained(portable.parent / "best_model").source == portable
    assert load_pretrained(portable.parent).source == portable
    with pytest.raises(CheckpointError, match="damaged"):
        load_pretrained(portable.parent / "m.ckpt")


def test_a_link_out_of_ones_own_runs_is_not_trusted(stock: Path, tmp_path: Path) -> None:
    (tmp_path / "best_model").symlink_to(stock / "best_model")
    with pytest.raises(CheckpointError, match="outside your folder of runs"):
        load_pretrained(tmp_path, own=tmp_path)


def test_another_users_pickle_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(build("schnet"), tmp_path / "best_model")
    assert load_pretrained(tmp_path, own=tmp_path).state
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(CheckpointError, match="belongs to another user"):
        load_pretrained(tmp_path, own=tmp_path)
    assert load_pretrained(tmp_path, True, tmp_path).state


class Evil:
    """Pickled, it makes a folder when it is opened."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["best_model", "m.ckpt"])
def test_nothing_runs_before_trust_is_given(tmp_path: Path, name: str) -> None:
    torch.save({"hyper_parameters": Evil(str(tmp_path / "made"))}, tmp_path / name)
    with pytest.raises(CheckpointError, match="a pickle, which runs code"):
        load_pretrained(tmp_path / name)
    assert not (tmp_path / "made").exists()
    with pytest.raises(CheckpointError, match=r"cannot read the model|expected a SchNetPack model"):
        load_pretrained(tmp_path / name, trust_pickle=True)
    assert (tmp_path / "made").exists()


def test_autotune_trusts_the_pickles_below_search(stock: Path, tmp_path: Path) -> None:
    source = str(stock / "best_model")
    assert Autotune(checkpoint=source, search=str(stock.parent)).load().state
    assert Autotune(checkpoint=source, search=str(tmp_path), trust_pickle=True).load().state
    with pytest.raises(CheckpointError, match="trust_pickle=true"):
        Autotune(checkpoint=source, search=str(tmp_path)).load()


def test_our_pickle_brings_its_card(tmp_path: Path) -> None:
    pretrained = model()
    pretrained.metadata = {"elements": [1, 8], "architecture": {"from": "training"}}
    torch.save(pretrained, tmp_path / "best_model")
    read = load_pretrained(tmp_path / "best_model", trust_pickle=True)
    assert read.card["elements"] == [1, 8]
    assert read.card["architecture"]["from"] == "training"


def test_a_pickle_that_is_no_model(tmp_path: Path) -> None:
    torch.save({"x": 1}, tmp_path / "best_model")
    with pytest.raises(CheckpointError, match="expected a SchNetPack model"):
        load_pretrained(tmp_path / "best_model", trust_pickle=True)
    (tmp_path / "best_model").write_text("no pickle")
    with pytest.raises(CheckpointError, match="cannot read the model"):
        load_pretrained(tmp_path / "best_model", trust_pickle=True)
