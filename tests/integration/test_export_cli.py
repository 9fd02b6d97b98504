"""`tpainn-export` writes a file that transfer, MD and other people can use."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import molecule

from schnetpack_tpainn.cli.export import main
from schnetpack_tpainn.cli.md import main as tpainn_md
from schnetpack_tpainn.md import TPaiNNCalculator
from schnetpack_tpainn.transfer.lora import merged
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from schnetpack_tpainn.transfer.strategies import Autotune
from tests.fits import (
    build,
    fit,
    make_labels,
    make_task,
    model_config,
    save_pretrained,
    strategy,
)

GOLDEN = Path(__file__).parents[1] / "checkpoints"


def results(path: Path) -> tuple[float, Any]:
    atoms = molecule("CH3OH", calculator=TPaiNNCalculator(path, dtype="float64", device="cpu"))
    return atoms.get_potential_energy(), atoms.get_forces()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_run_directory(tmp_path: Path, version: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "model.safetensors"
    assert main([str(GOLDEN / version / "pretrain"), "-o", str(out)]) == 0
    shown = capsys.readouterr().out
    for text in (
        "TPaiNN",
        "8x0e+8x1o",
        "H, C, O",
        "pretrain",
        "MMFF94",
        "eV/Ang",
        "energy",
    ):
        assert text in shown
    expected = json.loads((GOLDEN / version / "expected.json").read_text())["pretrain"]
    atoms = Atoms(expected["symbols"], expected["positions_ang"])
    atoms.calc = TPaiNNCalculator(out, dtype="float64", device="cpu")
    assert atoms.get_potential_energy() == pytest.approx(expected["energy_ev"], abs=1e-5)
    assert json.loads(out.with_suffix(".json").read_text()) == load_pretrained(out).card


def test_adapters_are_merged_and_the_file_serves_transfer(tmp_path: Path) -> None:
    transfer = strategy("lora", save_pretrained(tmp_path, "tpainn"))
    done = fit(
        tmp_path, make_labels(tmp_path), make_task("tpainn", transfer), steps=4, callbacks=()
    )
    torch.save(merged(done.task.model), tmp_path / "best_model")
    out = tmp_path / "out.safetensors"
    assert main([str(done.checkpoint), "-o", str(out)]) == 0
    assert not any("parametrizations" in name for name in load_pretrained(out).state)
    expected = results(tmp_path / "best_model")
    assert results(out)[0] == pytest.approx(expected[0], abs=1e-6)
    assert results(out)[1] == pytest.approx(expected[1], abs=1e-6)
    assert results(out)[1] != pytest.approx(results_of_start(tmp_path, done), abs=1e-3)
    Autotune(checkpoint=str(out)).check(lambda: build("tpainn"))


def results_of_start(folder: Path, done: Any) -> Any:
    """Forces before any step: adapters that did nothing would give these."""
    model = merged(done.task.model)
    weights = {n: w for n, w in done.watch.weights[0].items() if "parametrizations" not in n}
    model.load_state_dict(
        weights
        | {
            n.replace(".parametrizations.weight.original", ".weight"): w
            for n, w in done.watch.weights[0].items()
            if n.endswith("original")
        },
        strict=False,
    )
    torch.save(model, folder / "start")
    return results(folder / "start")[1]


def test_a_pickle_from_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(build("so3net"), tmp_path / "best_model")
    words = [str(tmp_path / "best_model"), "-o", str(tmp_path / "out.safetensors")]
    assert main(words) == 2
    assert "--trust-pickle" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
    assert main([*words, "--trust-pickle"]) == 0
    shown = capsys.readouterr().out
    assert "does not say how its model is built" in shown
    assert "not known" in shown
    Autotune(checkpoint=words[2]).check(lambda: build("so3net"))


def test_ones_own_runs_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    torch.save(build("schnet"), tmp_path / "runs" / "a" / "best_model")
    monkeypatch.chdir(tmp_path)
    assert main(["runs/a", "-o", "out.safetensors"]) == 0


def test_nothing_is_written_over_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("out.safetensors", "out.json"):
        (tmp_path / name).write_text("mine")
        words = [str(GOLDEN / "v2" / "pretrain"), "-o", str(tmp_path / "out.safetensors")]
        assert main(words) == 2
        assert f"{name} exists and is not written over" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "mine"
        assert main([*words, "--force"]) == 0
        assert load_pretrained(tmp_path / "out.safetensors").card["stage"] == "pretrain"
        (tmp_path / "out.safetensors").unlink()


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("nothing", "out.safetensors", "no such file"),
        ("pretrain", "out.pt", r"expected an output that ends in .safetensors"),
    ],
)
def test_wrong_use(
    tmp_path: Path,
    source: str,
    output: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([str(GOLDEN / "v2" / source), "-o", str(tmp_path / output)]) == 2
    assert f"tpainn-export: {message}" in capsys.readouterr().err.replace(
        "expected a pretrained model at " + str(GOLDEN / "v2" / source) + ", got ", ""
    )
    assert not list(tmp_path.iterdir())


def test_what_does_not_build_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build("tpainn")
    model.metadata = {"model_config": model_config("schnet")}
    torch.save(model, tmp_path / "best_model")
    out = tmp_path / "out.safetensors"
    assert main([str(tmp_path / "best_model"), "-o", str(out), "--trust-pickle"]) == 2
    assert "does not fill the model that it describes" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["best_model"]


def test_md_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.safetensors"
    assert main([str(GOLDEN / "v2" / "pretrain"), "-o", str(out)]) == 0
    words = [f"model={out}", "structure=CCO", "duration_ps=0.005", f"output={tmp_path / 'md'}"]
    monkeypatch.setattr("sys.argv", ["tpainn-md", *words])
    tpainn_md()
    assert "energy drift" in capsys.readouterr().out
