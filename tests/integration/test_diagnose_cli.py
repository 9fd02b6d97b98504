"""`tpainn-diagnose` as a user runs it, on the shipped labels, with a good and a wrong teacher."""

import json
from pathlib import Path

import numpy as np
import pytest

from schnetpack_tpainn.cli.diagnose import main
from schnetpack_tpainn.transfer.align import scale_head
from tests import teachers

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

NETWORK = (
    "model.representation.n_atom_basis=16",
    "model.representation.n_interactions=2",
    "model.representation.radial_basis.n_rbf=12",
    "model.representation.backend=torch",
    f"globals.cutoff={teachers.CUTOFF}",
    "data.num_val=10",
    "data.num_test=20",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of two teachers, one of them with the wrong sign."""
    place = tmp_path_factory.mktemp("diagnose")
    model = teachers.teach(teachers.pretraining_frames(90), place / "mmff94.db", n_steps=100)
    for name, factor in (("right", 1.0), ("flipped", -1.0)):
        (place / name).mkdir()
        scale_head(model, "energy", factor)
        teachers.save(model, place / name, place / "mmff94.db")
    return place


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def test_a_good_teacher(place: Path, capsys: pytest.CaptureFixture) -> None:
    before = {p.name for p in place.iterdir()}
    code = main([*NETWORK, "transfer.checkpoint=right", "--output", "good.json"])
    said = capsys.readouterr().out
    assert code == 0
    assert "teacher: useful, by 10 training labels" in said
    assert "Teacher's forces by element" in said
    found = json.loads((place / "good.json").read_text())
    assert found["diagnosis"]["verdict"] == "useful"
    assert found["diagnosis"]["coverage"]["outside"] < 0.3
    assert found["checkpoint"] == str(place / "right" / "model.safetensors")
    assert found["trial"] is None
    # the labels are made where spktrain makes them; there is no run, and no split file
    assert {p.name for p in place.iterdir()} - before == {"data", "good.json"}


def test_a_wrong_teacher(capsys: pytest.CaptureFixture) -> None:
    assert main([*NETWORK, "transfer.checkpoint=flipped"]) == 1
    said = capsys.readouterr().out
    assert "teacher: likely to hurt" in said
    assert "wrong sign" in said


def test_a_trial_trains_on_half_of_the_training_labels(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [*NETWORK, "--trial", "--steps", "20", "--directory", "trial"]
    words += ["transfer.checkpoint=right", "transfer.layer_decay=0.9", "data.num_train=7"]
    assert main([*words, "--output", "trial.json"]) == 0
    assert "trial: transfer helps. After 20 steps on 4 labels" in capsys.readouterr().out
    trial = json.loads((place / "trial.json").read_text())["trial"]
    runs = {name: place / "trial" / name for name in ("scratch", "transfer")}
    reports = {name: json.loads((run / "report.json").read_text()) for name, run in runs.items()}
    for name, report in reports.items():
        assert trial[name] == report["test"]
        assert (report["n_train"], report["n_val"], report["n_test"]) == (4, 10, 3)
        assert report["optimiser_steps"] == 20
    assert reports["scratch"]["checkpoint"] is None
    assert reports["transfer"]["checkpoint"] == str(place / "right" / "model.safetensors")
    mae = {name: report["test"]["forces_mae_mev_per_ang"] for name, report in reports.items()}
    assert trial["ratio"]["forces_mae_mev_per_ang"] == mae["scratch"] / mae["transfer"] > 1.05
    rates = {n: (run / "config.yaml").read_text().count("lr: 0.001\n") for n, run in runs.items()}
    assert rates == {"scratch": 1, "transfer": 0}
    split = np.load(place / "trial" / "split.npz")
    data = teachers.ethanol(place, n_train=7)
    assert [*split["train_idx"], *split["test_idx"]] == data.train_idx
    assert [*split["val_idx"]] == data.val_idx
    # the same command again trains nothing; another one does not mix with it
    trained = (runs["transfer"] / "report.json").stat().st_mtime_ns
    assert main(words) == 0
    assert (runs["transfer"] / "report.json").stat().st_mtime_ns == trained
    assert main([*words, "seed=1"]) == 2
    assert "trial with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["transfer.checkpoint=nowhere"], "expected a pretrained model at"),
        (["transfer.checkpoint=right", "globals.cutoff=4.0"], "cutoff_ang: expected 4.0, got 5.0"),
        (["transfer.checkpoint=right", "transfer.head=drop"], "rescale, keep or reset, got 'drop'"),
        (["transfer=scratch"], "expected a task with a transfer to diagnose"),
        (["data.datapth=x.db"], "Could not override 'data.datapth'"),
        (["data=nonsense"], "Could not find 'data/nonsense'"),
        (["--steps", "0"], "expected --steps of 1 or more, got 0"),
        (["--output", "nowhere/x.json"], "nowhere does not exist"),
        (
            ["transfer.checkpoint=right", "data.num_train=1", "--trial"],
            "expected two training labels or more for a trial, got 1",
        ),
    ],
)
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main([*NETWORK, *words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("tpainn-diagnose: ")
    assert message in line
