"""The benchmarks' own check: what it accepts, what it finds wrong, and what they report."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import checks, dynamics, energy, models, startup, training
from benchmarks.__main__ import MALLOC, measure, names, parse, selected
from benchmarks.memory import peak
from benchmarks.report import failed, markdown
from benchmarks.rows import PROFILED, ROWS
from benchmarks.structures import WATER_BOX, repeats, structure
from benchmarks.timing import Settings, summarise, take_turns
from schnetpack_tpainn.representation import TPaiNN
from schnetpack_tpainn.testing import batch

VARIANTS = sorted(set(models.VARIANTS) - {models.STOCK, "TPaiNN graphs"})  # graphs need a GPU


def spoiled(representation: torch.nn.Module) -> torch.nn.Module:
    """Change one weight matrix a little."""
    with torch.no_grad():
        representation.filter_net.weight.mul_(1.001)
    return representation


def wrong_potential(name: str) -> torch.nn.Module:
    model = models.potential(name)
    spoiled(model.representation)
    return model


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("atoms", [21, 192])
def test_energies_and_forces_are_those_of_stock(name: str, atoms: int) -> None:
    found = energy.check(models.potential(name), atoms, "cpu")
    assert found["correct"], found


@pytest.mark.parametrize("name", VARIANTS)
def test_training_gradients_are_those_of_stock(name: str) -> None:
    found = training.check(models.potential(name), 10, "cpu")
    assert found["correct"], found
    assert {"energy", "forces", "gradients"} == set(found["errors"]) == set(found["errors_float64"])


@pytest.mark.parametrize("name", VARIANTS)
def test_trajectories_are_those_of_stock(name: str) -> None:
    expected = dynamics.trajectory(dynamics.dynamics(models.STOCK, 192, "cpu"))
    assert len(expected["md_energy"]) == dynamics.CHECKED_STEPS + 1
    found = dynamics.check(name, expected, 192, "cpu")
    assert found["correct"], found
    shifted = {key: value * (1 + 2e-4) for key, value in expected.items()}
    assert not checks.within(checks.errors(shifted, expected), torch.float32)


@pytest.mark.parametrize("name", [models.STOCK, "TPaiNN"])
def test_the_checks_find_a_wrong_model(name: str) -> None:
    assert not energy.check(wrong_potential(name), 21, "cpu")["correct"]
    assert not training.check(wrong_potential(name), 10, "cpu")["correct"]


def test_the_checks_find_a_wrong_gradient_alone() -> None:
    model = models.potential("TPaiNN torch")
    weight = model.representation.filter_net.weight
    weight.register_hook(lambda gradient: gradient * 1.001)
    found = training.check(model, 10, "cpu")
    assert not found["correct"]
    assert checks.within(
        {k: v for k, v in found["errors"].items() if k != "gradients"}, torch.float32
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_is_never_close(value: float) -> None:
    found = checks.deviation(torch.tensor([1.0, value]), torch.tensor([1.0, 2.0]))
    assert not checks.within({"energy": found}, torch.float32)


def test_a_wrong_row_is_reported_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = models.Variant(lambda painn: spoiled(TPaiNN.from_painn(painn)))
    monkeypatch.setitem(models.VARIANTS, "wrong", wrong)
    row = training.run(1, Settings(seconds=0.0, variants=("wrong",), least=2))
    assert row["models"]["stock"]["correct"]
    assert "seconds" in row["models"]["stock"]
    assert "seconds" not in row["models"]["wrong"]
    result = {"row": "train-1", "device": "cpu", "threads": 1, "malloc": "default", **row}
    assert failed(result)
    assert "WRONG" in markdown({"command": "", "machine": {}, "results": [result]})


def test_a_repeated_box_has_the_outputs_of_the_box() -> None:
    stock = models.potential(models.STOCK, models.stock_painn(features=16))
    box = structure(WATER_BOX)
    whole, unit = (batch([atoms], 5.0, torch.float32) for atoms in (box.repeat(2), box))
    expected = checks.outputs(stock, unit, repeats=8)
    found = checks.errors(checks.outputs(stock, whole), expected)
    assert checks.within(found, torch.float32)
    assert max(found.values()) < 2e-6


@pytest.mark.parametrize(("atoms", "boxes"), [(21, 1), (192, 1), (1536, 8), (12288, 64)])
def test_structures_have_their_size_and_water_its_density(atoms: int, boxes: int) -> None:
    system = structure(atoms)
    assert len(system) == atoms
    assert repeats(atoms) == boxes
    scaled = system.positions * 2**14
    assert np.array_equal(scaled, np.round(scaled))
    if atoms > 21:
        density = system.get_masses().sum() / system.get_volume() / 0.602214  # g/cm³
        assert density == pytest.approx(0.997, abs=1e-3)


def test_no_structure_of_another_size() -> None:
    with pytest.raises(ValueError, match="21, 192, 1536 or 12288 atoms, got 100"):
        structure(100)


def test_models_take_turns_and_the_first_does_not_count() -> None:
    order: list[str] = []

    def work(name: str, times: list[float]):
        def once() -> float:
            order.append(name)
            return times.pop(0)

        return once

    works = {"stock": work("stock", [99.0, 4.0, 2.0, 6.0]), "ours": work("ours", [9.0, 1, 1, 2])}
    times = take_turns(works, seconds=0.0, least=3)
    assert order == ["stock", "ours"] * 4
    found = summarise(times, "stock")
    assert found["ours"]["seconds"] == 1.0
    assert found["ours"]["ratio"] == 4.0
    assert found["ours"]["ratio_quartiles"] == [2.5, 3.5]  # of 4, 2, 3
    assert "ratio" not in summarise({"ours": times["ours"]}, "stock")["ours"]


def test_memory_of_an_evaluation_in_a_fresh_process() -> None:
    stock = peak(models.STOCK, 192, "cpu")
    pairs = len(batch([structure(192)], 5.0)["_idx_i"])
    filters = 3 * 3 * 128 * pairs * 4 / 2**20  # of three interactions, float32, MiB
    assert filters < stock < 20 * filters


def test_the_help_row_hides_the_plugin_and_shows_it() -> None:
    assert startup.check(startup.WITHOUT)["correct"]


def test_rows_are_chosen_by_kind_and_by_name() -> None:
    assert selected(["md", "energy-192"], list(ROWS)) == ["energy-192", "md-192", "md-1536"]
    assert set(PROFILED) <= set(ROWS)
    with pytest.raises(SystemExit, match=r"expected some of energy-21, .* got 'energie'"):
        selected(["energie"], list(ROWS))


def test_the_documented_commands_are_accepted() -> None:
    page = Path(__file__).parents[2] / "docs/benchmarks/speed.md"
    lines = re.findall(r"^python -m benchmarks(.*)$", page.read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        given = parse(shlex.split(line, comments=True))
        if given.command == "run":
            assert selected(names(given.rows), list(ROWS))
            assert set(names(given.variants)) < set(models.VARIANTS)
            assert set(names(given.malloc)) <= set(MALLOC)
        else:
            assert given.row in PROFILED
            assert given.model in models.VARIANTS


def test_a_row_that_crashes_is_reported() -> None:
    given = parse(["--variants", "no such model"])
    result = measure("train-10", 1, "tuned", given)
    assert "no such model" in result["error"]
    assert failed(result)
    assert "no such model" in markdown({"command": "", "machine": {}, "results": [result]})
    assert set(MALLOC) == {"default", "tuned"}


def test_the_command_measures_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    command = [sys.executable, "-m", "benchmarks", "--rows", "train-10", "--seconds", "0"]
    command += ["--threads", "1", "--malloc", "tuned", "--out", out, "--markdown"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    report = json.loads(out.read_text())
    (result,) = report["results"]
    assert (result["row"], result["threads"], result["malloc"]) == ("train-10", 1, "tuned")
    for entry in result["models"].values():
        assert entry["correct"]
        assert entry["turns"] >= 5
        low, high = entry["ratio_quartiles"]
        assert 0 < low <= high
    assert markdown(report) in done.stdout
