"""Autotuning on a database without forces, from a model that was pretrained with them."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.db import connect

from schnetpack_tpainn.cli.diagnose import main
from schnetpack_tpainn.md import TPaiNNCalculator
from tests.conftest import Spktrain
from tests.fits import CUTOFF, N_TEST, N_TRAIN, N_VAL, make_labels, save_pretrained

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ENERGIES = (
    "experiment=tpainn_autotune",
    "globals.forces_key=null",
    "data/source=tpainn_database",
    "data.datapath=labels.db",
    "transfer.checkpoint=tpainn.safetensors",
    "transfer.frames=labels.db",
    f"globals.cutoff={CUTOFF}",
    "model.representation.n_atom_basis=8",
    "model.representation.n_interactions=2",
    "model.representation.radial_basis.n_rbf=6",
    f"data.num_train={N_TRAIN}",
    f"data.num_val={N_VAL}",
    f"data.num_test={N_TEST}",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("energies")
    make_labels(place, with_forces=False)
    save_pretrained(place, "tpainn")
    return place


def test_one_key_is_enough(place: Path, spktrain: Spktrain) -> None:
    steps = ("trainer.max_steps=20", "trainer.val_check_interval=10")
    spktrain(place, *ENERGIES, *steps, "transfer.final_bias_refit=true", "run.id=tuned")
    tuned = place / "runs" / "tuned"
    report = json.loads((tuned / "report.json").read_text())
    assert report["optimiser_steps"] == 20
    assert report["transfer"]["card"]["labels"] == ["energy"]
    assert "final_bias_refit" in report["transfer"]["alignment"]
    assert "forces_mae_mev_per_ang" not in report["test"]
    stored, split = np.load(tuned / "test_predictions.npz"), np.load(tuned / "split.npz")
    for form in ("model.safetensors", "best_model"):
        calculator = TPaiNNCalculator(tuned / form)
        with connect(place / "labels.db") as db:
            for k, i in enumerate(split["test_idx"]):
                atoms = db.get(int(i) + 1).toatoms()
                atoms.calc = calculator
                assert atoms.get_potential_energy() == pytest.approx(stored["energy"][k], abs=1e-5)
                assert np.abs(atoms.get_forces()).max() > 0


def test_the_diagnosis_rests_on_energies(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(place)
    main([*ENERGIES, "--output", "diagnosis.json"])
    said = capsys.readouterr().out
    assert "judged by energies alone" in said
    assert "Teacher's forces" not in said
    diagnosis = json.loads((place / "diagnosis.json").read_text())["diagnosis"]
    assert diagnosis["energy"]["freedom"] == N_TRAIN - 1
    assert diagnosis["coverage"]["outside"] is not None
    assert "forces" not in diagnosis
    assert main([*ENERGIES, "data.forces_key=forces"]) == 2
