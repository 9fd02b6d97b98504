"""Runs on energies alone, tiny and real: report, resume, transfer from and to forces, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from reports import read, run

from schnetpack_tpainn.errors import DataError, TransferError
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.keys import check_config
from schnetpack_tpainn.transfer.portable import build_model
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from schnetpack_tpainn.transfer.task import TransferTask
from tests.fits import (
    OUTPUTS,
    _group,
    data_module,
    fit,
    make_labels,
    make_task,
    model_config,
    save_pretrained,
    strategy,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("energies")


@pytest.fixture(scope="module")
def energies(place: Path) -> Path:
    (place / "energies").mkdir()
    return make_labels(place / "energies", with_forces=False)


@pytest.fixture(scope="module")
def forces(place: Path) -> Path:
    return make_labels(place)


@pytest.fixture(scope="module")
def pretrained(place: Path) -> Path:
    return save_pretrained(place, "tpainn")


@pytest.fixture(scope="module")
def scratch(place: Path, energies: Path) -> Path:
    return run(place / "scratch", energies, strategy("scratch"), forces_key=None)


@pytest.fixture(scope="module")
def tuned(place: Path, energies: Path, pretrained: Path, forces: Path, scratch: Path) -> Path:
    """A run from a model pretrained with forces, killed and resumed, held by an anchor."""
    ewc = ("transfer/anchor=ewc", f"transfer.frames={energies}")
    transfer, report = strategy("full", pretrained, *ewc), {"scratch": str(scratch)}
    folder = place / "tuned"
    with pytest.raises(InterruptedError):
        run(folder, energies, transfer, report, forces_key=None, kill=25)
    return run(folder, energies, transfer, report, forces_key=None)


def test_a_report_has_no_forces(tuned: Path) -> None:
    report = read(tuned)
    assert report["schema"] == 2
    assert report["optimiser_steps"] == 40
    assert "by_element" not in report
    for part in ("train", "validation", "test"):
        assert report[part].keys() == report["zero_shot"]["aligned"].keys()
        assert not [key for key in report[part] if "forces" in key]
    assert report["test"]["energy_mae_mev"] < report["zero_shot"]["copied"]["energy_mae_mev"]
    assert "forces" not in report["transfer"]["diagnosis"]
    assert report["transfer"]["diagnosis"]["coverage"]["outside"] is not None  # needs no forces
    assert report["transfer"]["scratch"]["ratio"].keys() == {"energy_mae_mev"}
    assert report["transfer"]["parts"]["anchor"]["kind"] == "EWC"
    assert abs(report["train"]["energy_bias_mev_per_atom"]) < 1e-3  # the bias was fitted again
    assert report["figures"] == ["learning.png", "parity.png", "changes.png"]
    stored = np.load(tuned / "test_predictions.npz")
    assert set(stored) == {"energy", "energy_label", "n_atoms"}
    text = (tuned / "report.md").read_text()
    assert "meV/Å" not in text
    assert "judged by energies alone" in text
    assert "| trained on | – | energy |  |" in text


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    place: Path, tuned: Path, energies: Path, pretrained: Path, scratch: Path
) -> None:
    ewc = ("transfer/anchor=ewc", f"transfer.frames={energies}")
    transfer = strategy("full", pretrained, *ewc)
    whole = run(place / "whole", energies, transfer, {"scratch": str(scratch)}, forces_key=None)
    expected, found = (load_pretrained(f / "model.safetensors").state for f in (whole, tuned))
    for name, tensor in expected.items():
        assert torch.allclose(tensor, found[name], atol=1e-5), name


def test_training_knows_nothing_of_forces(energies: Path, tmp_path: Path) -> None:
    made = fit(tmp_path, energies, make_task("tpainn", None, None), 2, 2, forces_key=None)
    model: Any = made.task.model
    assert [type(m).__name__ for m in model.output_modules] == ["Atomwise"]
    assert (model.model_outputs, model.required_derivatives) == (["energy"], [])
    assert [output.name for output in made.task.outputs] == ["energy"]
    again = TransferTask.load_from_checkpoint(made.checkpoint)
    assert again.forces_key is None
    assert again.model.model_outputs == ["energy"]


@pytest.mark.parametrize("form", ["model.safetensors", "best_model", "checkpoints/last.ckpt"])
def test_what_a_run_leaves_predicts_forces_as_the_gradient(
    tuned: Path, energies: Path, form: str
) -> None:
    pretrained = load_pretrained(tuned / form)
    assert pretrained.card["labels"] == ["energy"]
    model: Any = build_model(pretrained)
    if form == "best_model":
        model = torch.load(tuned / form, weights_only=False)
    module = data_module(energies, forces_key=None)
    module.setup()
    (batch,) = module.test_dataloader()
    results = model.double()({k: _double(v) for k, v in batch.items()})
    assert set(results) == {"energy", "forces"}
    shift = 1e-4 * torch.randn(batch["_positions"].shape, dtype=torch.float64)
    moved = [
        model({**{k: _double(v) for k, v in batch.items()}, "_positions": batch["_positions"] + s})
        for s in (shift, -shift)
    ]
    work = -(results["forces"] * 2 * shift).sum()
    rise = (moved[0]["energy"] - moved[1]["energy"]).sum()
    assert rise.item() == pytest.approx(work.item(), rel=1e-5)


def _double(value: torch.Tensor) -> torch.Tensor:
    return value.double() if value.is_floating_point() else value.clone()


def test_a_model_of_energies_begins_a_run_with_forces(
    tuned: Path, forces: Path, tmp_path: Path
) -> None:
    transfer = strategy("full", tuned / "model.safetensors")
    task = fit(tmp_path, forces, make_task("tpainn", transfer), 2, 2).task
    record: Any = task.record
    assert record.total("copied") == sum(p.numel() for p in task.model.parameters())
    assert record.pretrained["labels"] == ["energy"]
    assert task.card["labels"] == ["energy", "forces"]
    assert record.diagnosis["forces"]["cosine"] != 0
    assert record.zero_shot["aligned"]["forces_mae_mev_per_ang"] > 0
    # the pretraining frames have no forces, which coverage does not need
    assert record.diagnosis["coverage"]["why"] is None


def test_the_other_runs_labels_must_be_of_the_same_kind(
    place: Path, forces: Path, scratch: Path, pretrained: Path
) -> None:
    report, match = {"scratch": str(scratch)}, "energies and forces, as this one, got .* alone"
    with pytest.raises(TransferError, match=match):
        run(place / "mixed", forces, strategy("full", pretrained), report)


def test_without_forces_there_is_no_replay(pretrained: Path) -> None:
    transfer = strategy("full", pretrained, "transfer/replay=frames")
    config = model_config("tpainn", compiles=False)
    assert instantiate(transfer).check(lambda: instantiate(config)) is None
    config["output_modules"][1]["force_key"] = None
    with pytest.raises(
        TransferError, match=r"transfer\.replay: expected a model that predicts for"
    ):
        instantiate(transfer).check(lambda: instantiate(config))


def test_models_and_outputs_that_do_not_fit_are_refused() -> None:
    config = model_config("tpainn")
    with pytest.raises(TransferError, match="forces_key=null: expected a model for energies alone"):
        TransferTask(config, OUTPUTS[:1], forces_key=None)
    silent = {**config, "output_modules": config["output_modules"][:1]}
    with pytest.raises(TransferError, match=r"\(energy\), got task.outputs\[1\].name=forces"):
        TransferTask(silent, OUTPUTS, forces_key=None)
    with pytest.raises(TransferError, match=r"\(energy\), got task.forces_key=forces"):
        TransferTask(silent, OUTPUTS[:1])
    with pytest.raises(TransferError, match="got none"):
        TransferTask(silent, [{**OUTPUTS[0], "name": None}], forces_key=None)


def test_task_and_data_must_agree(forces: Path, energies: Path, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="one, got null and forces; set globals"):
        fit(tmp_path, forces, make_task("tpainn", None, None), 2, 2)
    with pytest.raises(TransferError, match="one, got forces and null"):
        fit(tmp_path, energies, make_task("tpainn", None), 2, 2, forces_key=None)
    with pytest.raises(DataError, match=r"globals.forces_key=null: energies alone"):
        fit(tmp_path, energies, make_task("tpainn", None), 2, 2)


def test_one_key_changes_data_model_and_task() -> None:
    config = _group(("globals.forces_key=null",))
    check_config(config)
    assert config.data.forces_key is None
    assert instantiate(config.model).model_outputs == ["energy"]
    for override in ("data.forces_key=null", "task.forces_key=null"):
        with pytest.raises(TransferError, match="both follow"):
            check_config(_group((override,)))
    check_config(_group(("globals.forces_key=F",)))
    with pytest.raises(TransferError, match=r"got task.outputs\[1\].name=force"):
        check_config(_group(("task.outputs.1.name=force",)))


def test_the_weights_are_the_same_with_and_without_forces() -> None:
    config = model_config("tpainn", compiles=False)
    both: Any = instantiate(config)
    config["output_modules"][1]["force_key"] = None
    assert network_state(instantiate(config)).keys() == network_state(both).keys()
