"""What a trial makes of its runs; the runs themselves are finished ones."""

import json
from pathlib import Path

import pytest

from schnetpack_tpainn.errors import DataError, TPaiNNError
from schnetpack_tpainn.study.trial import HELPS, HURTS, SAME, describe, run_trial

KEYS = ("energy_mae_mev", "forces_mae_mev_per_ang")
OVERRIDES = ["experiment=tpainn_autotune"]


def finished(folder: Path, transfer: float, scratch: float) -> Path:
    """A trial whose runs had these errors."""
    settings = {
        "overrides": OVERRIDES,
        "transfer": [],
        "steps": 9,
        "labels": [4, 2, 8],
        "validation": [5],
    }
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(settings))
    for name, error in (("transfer", transfer), ("scratch", scratch)):
        (folder / name).mkdir()
        content = {"test": dict.fromkeys(KEYS, error)}
        (folder / name / "report.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("transfer", "scratch", "verdict"),
    [(50.0, 100.0, HELPS), (100.0, 102.0, SAME), (102.0, 100.0, SAME), (120.0, 100.0, HURTS)],
)
def test_the_verdict(tmp_path: Path, transfer: float, scratch: float, verdict: str) -> None:
    trial = run_trial(OVERRIDES, [], [4, 2, 8], [5], finished(tmp_path / "t", transfer, scratch), 9)
    assert trial["verdict"] == verdict
    assert trial["ratio"] == dict.fromkeys(KEYS, scratch / transfer)
    assert (trial["n_train"], trial["n_judged"]) == (2, 1)
    assert describe(trial).startswith(f"trial: {verdict}. After 9 steps on 2 labels")
    assert f"{transfer:.1f} meV/Å with the transfer and {scratch:.1f} from" in describe(trial)


def test_without_forces_energies_decide(tmp_path: Path) -> None:
    folder = finished(tmp_path / "t", 120.0, 100.0)
    for name, error in (("transfer", 120.0), ("scratch", 100.0)):
        content = {"test": {"energy_mae_mev": error}}
        (folder / name / "report.json").write_text(json.dumps(content))
    trial = run_trial(OVERRIDES, [], [4, 2, 8], [5], folder, 9)
    assert (trial["verdict"], trial["ratio"]) == (HURTS, {"energy_mae_mev": 100 / 120})
    assert "the energy MAE on 1 others is 120.0 meV with the transfer" in describe(trial)


def test_one_label_cannot_be_halved(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two training labels or more for a trial, got 1"):
        run_trial(OVERRIDES, [], [4], [5], tmp_path / "t", 9)
    assert not (tmp_path / "t").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    folder = finished(tmp_path / "t", 1.0, 1.0)
    with pytest.raises(TPaiNNError, match="trial with other settings"):
        run_trial(OVERRIDES, [], [4, 2, 7], [5], folder, 9)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(TPaiNNError, match="with other files; choose another --directory"):
        run_trial(OVERRIDES, [], [4, 2, 8], [5], tmp_path, 9)
