"""Labels with energies alone: the fit, the judgement and what a report is made of."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alignment import CHOICES, Setting, predictions
from ase.units import Hartree, kcal, mol

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.align import Align, fit_alignment
from schnetpack_tpainn.transfer.coverage import unknown
from schnetpack_tpainn.transfer.diagnose import Diagnosis, diagnose, lines, tables
from schnetpack_tpainn.transfer.evaluate import Predictions, errors
from schnetpack_tpainn.transfer.figures import curves, draw_run, parity
from schnetpack_tpainn.transfer.outcome import errors_by_element, find_warnings, history
from schnetpack_tpainn.transfer.summary import headline

MANY = [*CHOICES, [4, 2], [2, 1], [1, 3]] * 6
NO_FRAMES = unknown("nobody asked")


def energies(
    composition: list[list[int]] = MANY, scale: float = 1.3, noise: float = 0.0
) -> Predictions:
    """Predictions and labels of H and C without forces."""
    p = predictions(composition, scale, [-3.0, 12.5], noise)
    return replace(p, forces=None, forces_label=None)


@pytest.mark.parametrize("weight", [0.1, 1.0, 30.0])
def test_the_scale_is_fitted_to_what_offsets_leave_of_the_energies(weight: float) -> None:
    p = energies(noise=0.3)
    fit = fit_alignment(p, energy_weight=weight)
    per_atom = np.column_stack([p.energy, p.composition[:, [1, 6]]]) / p.n_atoms.numpy()[:, None]
    expected = np.linalg.lstsq(per_atom, (p.energy_label / p.n_atoms).numpy(), rcond=None)[0]
    assert [fit.scale, *fit.offsets[[1, 6]].tolist()] == pytest.approx(expected.tolist(), abs=1e-9)
    assert fit.fitted_scale == fit.scale != 1.0
    assert fit.after["energy_rmse_mev_per_atom"] < fit.before["energy_rmse_mev_per_atom"]
    assert not any("forces" in key for key in (fit.before | fit.after))
    assert fit_alignment(energies()).scale == pytest.approx(1.3)
    assert fit_alignment(p, fit_scale=False).scale == 1.0


@pytest.mark.parametrize("composition", [[[4, 1], [6, 2]], [[4, 1]]])
def test_without_a_remainder_there_is_no_scale(
    composition: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    fit = fit_alignment(energies(composition))
    assert (fit.scale, fit.fitted_scale) == (1.0, None)
    assert fit.after["energy_mae_mev"] == pytest.approx(0.0, abs=1e-6)
    assert "energies leave no remainder beside offsets (more labels help)" in caplog.text


def test_energies_that_run_against_the_labels_are_not_followed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fit = fit_alignment(energies(scale=-0.5))
    assert (fit.scale, fit.fitted_scale) == (1.0, pytest.approx(-0.5))
    assert "model's energies point against (factor -0.5)" in caplog.text
    fit_alignment(energies(scale=9.0))
    assert "model's energies need a factor of 9" in caplog.text


def test_a_scale_from_forces_alone_is_refused() -> None:
    setting: Any = Setting(energies())
    with pytest.raises(TransferError, match=r"energy_weight=0 .* got energies alone"):
        Align(energy_weight=0.0).apply(setting)
    assert Align("offset", energy_weight=0.0).apply(setting).scale == 1.0
    assert Align().apply(setting).scale == pytest.approx(1.3)


def test_errors_of_energies_are_what_they_are_beside_forces() -> None:
    both = predictions(MANY, 1.3, [-3.0, 12.5], noise=0.3)
    without = errors(replace(both, forces=None, forces_label=None))
    assert without == {k: v for k, v in errors(both).items() if not k.startswith("forces")}
    assert errors_by_element(energies()) == {}


def judged(p: Predictions) -> Diagnosis:
    return diagnose(p, replace(p, energy=p.energy_label), 1.0, NO_FRAMES)


def test_the_teacher_is_judged_by_energies_and_says_so() -> None:
    found = judged(energies(noise=0.2))
    assert found.verdict == "useful"
    assert found.reasons[:2] == [
        "its energies follow the DFT energies",
        "the labels have no forces: judged by energies alone, a weaker ground",
    ]
    plain = found.plain()
    assert not plain.keys() & {"forces", "by_element", "by_magnitude"}
    both = predictions(MANY, 1.3, [-3.0, 12.5], noise=0.2)
    assert found.energy == judged(replace(both, energy=both.energy)).energy
    assert tables(plain) == []
    shown = "\n".join(lines(plain))
    assert "  energies: correlation 0.9" in shown
    assert "forces:" not in shown.replace("no forces:", "")


@pytest.mark.parametrize(
    ("teacher", "verdict", "reason"),
    [
        (energies(scale=-1.0), "likely to hurt", "run against the DFT energies (correlation -1.00"),
        (energies(noise=2.0), "doubtful", "follow the DFT energies loosely (correlation 0.6"),
        (energies(scale=kcal / mol), "likely to hurt", "pretraining labels were in kcal/mol"),
        (energies(scale=1 / Hartree), "likely to hurt", "as if the DFT labels were in Hartree or"),
        (energies(scale=10.0), "doubtful", "the DFT energies are 10 times its energies, and no"),
        (energies([[4, 1], [6, 2], [8, 3]]), "not judged", "too few energies to judge by"),
        (energies([[4, 1]] * 9, scale=1e-5), "not judged", "explain all but 1 meV"),
    ],
)
def test_verdicts(teacher: Predictions, verdict: str, reason: str) -> None:
    found = judged(teacher)
    assert found.verdict == verdict
    assert reason in found.reasons[0]


def test_few_energies_do_not_make_a_teacher_useful() -> None:
    found = judged(energies([*CHOICES, [4, 2]]))
    assert (found.energy["freedom"], found.verdict) == (3, "doubtful")
    assert "(correlation 1.00 ± 1.15 after offsets): take more labels" in found.reasons[0]


def test_the_history_of_a_run_on_energies(tmp_path: Path) -> None:
    folder = tmp_path / "csv" / "version_0"
    folder.mkdir(parents=True)
    rows = "step,train_loss,val_energy_mae\n9,,0.02\n15,1.0,\n19,,0.01\n"
    (folder / "metrics.csv").write_text(rows)
    for keys in ((), ("energy", None)):
        found = history(tmp_path, *keys)
        assert found.keys() == {"step", "energy"}
        assert found["step"].tolist() == [10, 20]
        assert found["energy"] == pytest.approx([20, 10])
    assert history(tmp_path / "none", "energy", None).keys() == {"step", "energy"}
    assert history(tmp_path / "none").keys() == {"step", "energy", "forces"}


def outcome(energy: float) -> dict[str, float]:
    return {"n_frames": 4, "energy_mae_mev": energy}


def test_warnings_and_headline_speak_of_energies() -> None:
    validations = {"step": np.array([10]), "energy": np.array([60.0])}
    (warning,) = find_warnings(outcome(50), outcome(55), validations)
    assert warning.startswith("Tuning made the energy worse: validation MAE 55.0 meV")
    report = {"zero_shot": {"aligned": outcome(90)}, "test": outcome(30), "warnings": []}
    scratch = {"ratio": {"energy_mae_mev": 2.5}}
    assert headline({**report, "transfer": {"diagnosis": {}, "scratch": scratch}}) == (
        "The transfer paid off. Test MAE before any step → after: energy 90.0 → 30.0 meV. "
        "From scratch, the errors are 2.50 (energy) times these."
    )


def test_figures_show_energies(tmp_path: Path) -> None:
    test = {"energy": np.array([0.0, 1.0]), "energy_label": np.array([0.1, 1.1])}
    (axes,) = parity({"autotune": test}).axes
    assert axes.get_title() == "autotuned: MAE 100.0 meV"
    seed = {"step": np.array([10, 20]), "energy": np.array([50.0, 40.0])}
    (axes,) = curves({"autotune": [seed]}, {"energy": 70.0}).axes
    assert axes.get_ylabel() == "validation MAE, energy (meV)"
    assert [line.get_ydata()[0] for line in axes.lines] == [50.0, 70.0]
    report = {
        "stage": "autotune",
        "zero_shot": {"validation": outcome(70)},
        "transfer": {"changes": {}},
    }
    names = draw_run(tmp_path, report, {"autotune": test}, {"autotune": seed})
    assert names == ["learning.png", "parity.png"]
