"""`tpainn-ensemble` on the shipped ethanol labels, small: members, calibration, export, MD."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.db import connect
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.stats import norm

from schnetpack_tpainn.cli.ensemble import main
from schnetpack_tpainn.cli.export import main as export
from schnetpack_tpainn.data.structures import read_frames
from schnetpack_tpainn.md import EnsembleCalculator
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.portable import save_portable
from schnetpack_tpainn.transfer.units import UNITS
from tests.configs.test_configs import composed

pytestmark = pytest.mark.slow

MODEL = ["model.representation.n_atom_basis=8", "model.representation.n_interactions=1"]
SMALL = [
    "experiment=tpainn_autotune",
    *MODEL,
    "transfer.checkpoint=pretrained.safetensors",
    "trainer.max_steps=20",
    "trainer.val_check_interval=20",
    "data.num_val=12",
    "data.num_test=10",
    "ensemble.members=2",
    "hydra/launcher=joblib",  # one after the other in one process, which saves their start
    "hydra.launcher.n_jobs=1",
]


def call(place: Path, command: str, *words: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    return subprocess.run(
        [Path(sys.executable).with_name(command), *words],
        cwd=place,
        env=env | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that stands for a pretrained one."""
    folder = tmp_path_factory.mktemp("ensemble")
    torch.manual_seed(0)
    model = instantiate(composed("experiment=tpainn_autotune", *MODEL).model)
    card = {"architecture": describe(model), "elements": [1, 6, 8], "units": UNITS}
    save_portable(folder / "pretrained.safetensors", network_state(model), card)
    return folder


@pytest.fixture(scope="module")
def ensemble(place: Path) -> Path:
    done = call(place, "tpainn-ensemble", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ensemble of 2, calibrated on 12 validation frames, on 10 test frames" in done.stdout
    return place / "runs" / "ensemble_tpainn_autotune"


@pytest.fixture(scope="module")
def results(ensemble: Path) -> dict:
    return json.loads((ensemble / "ensemble.json").read_text())


def predictions(ensemble: Path, part: str) -> list[dict[str, np.ndarray]]:
    return [dict(np.load(ensemble / f"members/m{k}/{part}_predictions.npz")) for k in (0, 1)]


def test_members_differ_and_their_bootstrap_has_training_labels_alone(ensemble: Path) -> None:
    split = np.load(ensemble / "split.npz")
    drawn = []
    for k in (0, 1):
        folder = ensemble / f"members/m{k}"
        assert json.loads((folder / "report.json").read_text())["seeds"] == [k]
        config = OmegaConf.load(folder / "config.yaml")
        drawn.append(instantiate(config.data.resampling)(split["train_idx"].tolist()))
        assert set(drawn[-1]) <= set(split["train_idx"])
    assert sorted(drawn[0]) != sorted(drawn[1])
    for part in ("validation", "test"):
        first, second = predictions(ensemble, part)
        np.testing.assert_allclose(first["energy_label"], second["energy_label"], atol=1e-6)
        assert np.abs(first["forces"] - second["forces"]).max() > 1e-4


def test_factors_are_fitted_to_validation_labels_alone(ensemble: Path, results: dict) -> None:
    files = predictions(ensemble, "validation")
    energies = np.array([f["energy"] for f in files])
    error = energies.mean(axis=0) - files[0]["energy_label"]
    spread = np.abs(energies[0] - energies[1]) / np.sqrt(2)  # of two
    factors = results["calibration"]["energy"] * np.geomspace(0.5, 2, 2001)
    std = factors[:, None] * spread  # (2001, 12)
    z = error / std
    crps = std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - np.pi**-0.5)
    assert factors[crps.mean(axis=1).argmin()] == pytest.approx(
        results["calibration"]["energy"], rel=2e-3
    )
    assert results["validation"]["energy"]["miscalibration_area"]["after"] < 0.25


def test_the_calculator_says_what_the_members_predicted(ensemble: Path, results: dict) -> None:
    files, split = predictions(ensemble, "test"), np.load(ensemble / "split.npz")
    with connect(results["data"]["path"], use_lock_file=False) as database:
        atoms = database.get(int(split["test_idx"][0]) + 1).toatoms()
    calculator = EnsembleCalculator(ensemble, device="cpu")
    energies = [f["energy"][0] for f in files]
    assert calculator.get_potential_energy(atoms) == pytest.approx(np.mean(energies), abs=2e-4)
    n = len(atoms)
    forces = np.array([f["forces"][:n] for f in files])
    np.testing.assert_allclose(calculator.get_forces(atoms), forces.mean(axis=0), atol=2e-4)
    factor = results["calibration"]["forces"]
    expected = factor * np.sqrt(forces.var(axis=0, ddof=1).mean(axis=1))
    np.testing.assert_allclose(calculator.results["forces_std"], expected, rtol=0.02)


def test_the_record_names_its_files_by_digest(ensemble: Path, results: dict) -> None:
    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    assert results["sha256"] == digest(ensemble / "ensemble.safetensors")
    for member in results["members"]:
        folder = ensemble / member["directory"]
        assert {"model.safetensors", "validation_predictions.npz"} < member["sha256"].keys()
        assert all(digest(folder / name) == d for name, d in member["sha256"].items())
    assert (ensemble / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert "miscalibration area" in (ensemble / "ensemble.md").read_text()


def test_it_is_exported_and_moves_a_molecule(ensemble: Path, place: Path) -> None:
    file = place / "small.safetensors"
    assert export([str(ensemble), "-o", str(file)]) == 0
    card = json.loads(file.with_suffix(".json").read_text())
    assert len(card["members"]) == 2
    words = [f"model={file}", "structure=CCO", "duration_ps=0.003", "output=md"]
    watch = ["uncertainty.max_force_std_ev_per_ang=1e-9", "uncertainty.action=flag"]
    done = call(place, "tpainn-md", *words, *watch, "uncertainty.spacing=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "uncertain frames" in done.stdout
    frames = read_frames(place / "md" / "uncertain.extxyz")
    assert [frame.info["step"] for frame in frames] == [0, 3, 6]


def test_a_second_call_repeats_no_training_and_calibrates_anew(ensemble: Path, place: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in ensemble.glob("members/*/*.safetensors")}
    done = call(place, "tpainn-ensemble", *SMALL, "ensemble.calibration=nll")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p: p.stat().st_mtime_ns for p in ensemble.glob("members/*/*.safetensors")} == before
    calibration = EnsembleCalculator(ensemble, device="cpu").calibration
    assert calibration is not None
    energies = np.array([f["energy"] for f in predictions(ensemble, "validation")])
    error = energies.mean(axis=0) - predictions(ensemble, "validation")[0]["energy_label"]
    expected = np.sqrt(np.mean(error**2 / energies.var(axis=0, ddof=1)))
    assert (calibration.method, calibration.energy) == ("nll", pytest.approx(expected, rel=1e-6))


def test_no_experiment_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"EnsembleError: expected experiment=.*tpainn-ensemble"):
        main(["ensemble.members=4"])
