"""Pretrain and autotune through `spktrain`, as a user does: MMFF94 to UFF, a small network."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.db import connect
from hydra import compose, initialize_config_module
from schnetpack.interfaces import SpkCalculator
from schnetpack.transform import MatScipyNeighborList

from schnetpack_tpainn.data.label import label_frames
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from schnetpack_tpainn.transfer.runs import Preflight
from schnetpack_tpainn.transfer.task import TransferTask
from tests.conftest import Spktrain

pytestmark = pytest.mark.slow

UFF = {"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField", "force_field": "UFF"}
SMALL = ("model.representation.n_atom_basis=16", "model.representation.radial_basis.n_rbf=12")
PRETRAIN = (
    "experiment=tpainn_pretrain",
    "data.source.n_frames=72",
    "data.source.equilibration_fs=50",
    "data.num_train=48",
    "data.num_val=12",
    "data.num_test=12",
    "trainer.max_steps=40",
    "trainer.val_check_interval=20",
    "globals.lr=5e-3",
    *SMALL,
)
AUTOTUNE = (
    "experiment=tpainn_autotune",
    "data/source=tpainn_database",
    "data.num_train=10",
    "data.num_val=8",
    "data.num_test=18",
    "trainer.max_steps=30",
    "trainer.val_check_interval=10",
    *SMALL,
)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, spktrain: Spktrain) -> Path:
    """Working directory with a finished pretraining run and a database of `expensive` labels."""
    place = tmp_path_factory.mktemp("pipeline")
    spktrain(place, *PRETRAIN, "run.id=pre")
    with connect(place / "data" / "tpainn_rdkit.db") as db:
        frames = [row.toatoms() for row in db.select(limit=72)][::2]
    for frame in frames:
        frame.info["smiles"] = "CCO"
    label_frames(frames, UFF, place / "labels.db", n_workers=1)
    return place


@pytest.fixture(scope="session")
def tuned(place: Path, spktrain: Spktrain) -> Path:
    """A finished autotuning run that found the pretraining run by itself."""
    spktrain(place, *AUTOTUNE, "data.datapath=labels.db", "run.id=tuned")
    return place / "runs" / "tuned"


def test_the_report_says_what_happened(place: Path, tuned: Path) -> None:
    report = json.loads((tuned / "report.json").read_text())
    assert report["stage"] == "autotune"
    assert report["checkpoint"] == str(place / "runs" / "pre" / "model.safetensors")
    assert (report["n_train"], report["n_val"], report["n_test"]) == (10, 8, 18)
    assert report["parameters"]["copied"] == report["parameters"]["total"] > 0
    assert report["parameters"]["reinitialised"] == report["parameters"]["frozen"] == 0
    assert report["backend"] == "numba"
    assert report["optimiser_steps"] == 30
    assert report["offsets"]["rank"] == 1
    assert set(report["offsets"]["ev"]) == {"H", "C", "O"}
    assert report["seeds"] == [0]
    assert report["data"]["calculator"] == UFF
    assert report["versions"]["schnetpack"]
    assert report["wall_time_s"]["training"] > 0
    copied, aligned = report["zero_shot"]["copied"], report["zero_shot"]["aligned"]
    assert aligned["forces_mae_mev_per_ang"] != copied["forces_mae_mev_per_ang"]
    assert report["scale"] != 1.0
    for errors in (report["test"], copied, aligned):
        assert errors["n_frames"] == 18
        assert 0 < errors["energy_mae_mev_per_atom"] < errors["energy_mae_mev"]
        assert 0 < errors["forces_mae_mev_per_ang"] < errors["forces_rmse_mev_per_ang"]
    assert report["test"]["forces_mae_mev_per_ang"] < aligned["forces_mae_mev_per_ang"]
    assert report["transfer"]["zero_shot"] == report["zero_shot"]
    assert [report[part]["n_frames"] for part in ("train", "validation")] == [10, 8]
    text = (tuned / "report.md").read_text()
    assert text.startswith("# Transfer `full`: tuned\n\n")
    assert "| labels from | RDKitForceField, MMFF94 | RDKitForceField, UFF |  |" in text
    assert all((tuned / name).is_file() for name in report["figures"])


def test_the_predictions_are_the_models(tuned: Path, place: Path) -> None:
    """The report's numbers, from `best_model` through SchNetPack's ASE calculator."""
    calculator = SpkCalculator(
        str(tuned / "best_model"), MatScipyNeighborList(cutoff=5.0), energy_unit="eV"
    )
    split, stored = np.load(tuned / "split.npz"), np.load(tuned / "test_predictions.npz")
    force_errors = []
    with connect(place / "labels.db") as db:
        for k, i in enumerate(split["test_idx"]):
            row = db.get(int(i) + 1)
            atoms = row.toatoms()
            atoms.calc = calculator
            assert atoms.get_potential_energy() == pytest.approx(stored["energy"][k], abs=1e-5)
            assert row.data["energy"].item() == pytest.approx(stored["energy_label"][k], abs=1e-6)
            force_errors.append(np.abs(atoms.get_forces() - row.data["forces"]))
    report = json.loads((tuned / "report.json").read_text())
    assert np.mean(force_errors) * 1e3 == pytest.approx(
        report["test"]["forces_mae_mev_per_ang"], rel=1e-4
    )


def test_spkdeploy_keeps_energies_and_forces(tuned: Path, place: Path, tmp_path: Path) -> None:
    deploy = Path(sys.executable).with_name("spkdeploy")
    subprocess.run([deploy, tuned / "best_model", tmp_path / "deployed"], check=True)
    calculator = SpkCalculator(
        str(tuned / "best_model"), MatScipyNeighborList(cutoff=5.0), energy_unit="eV"
    )
    with connect(place / "labels.db") as db:
        atoms = db.get(1).toatoms()
    atoms.calc = calculator
    results = torch.jit.load(tmp_path / "deployed")(calculator.converter(atoms))
    assert results["energy"].dtype == torch.float64
    fused = atoms.get_potential_energy()
    assert calculator.model.representation.backend_used == "numba"
    assert results["energy"].item() == pytest.approx(fused, abs=1e-5)
    calculator.model.representation.backend = "torch"  # what TorchScript runs
    calculator.reset()
    assert results["energy"].item() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    assert results["forces"].detach().numpy() == pytest.approx(atoms.get_forces(), abs=1e-5)


def test_checkpoints_load_without_running_code(tuned: Path) -> None:
    checkpoint = next((tuned / "checkpoints").glob("epoch*.ckpt"))
    content = torch.load(checkpoint, weights_only=True)
    assert content["hyper_parameters"]["model_config"]["_target_"]
    task = TransferTask.load_from_checkpoint(checkpoint)
    best = torch.load(tuned / "best_model", weights_only=False)
    assert task.model.state_dict().keys() == best.state_dict().keys()
    for name, tensor in best.state_dict().items():
        assert torch.equal(tensor, task.model.state_dict()[name]), name
    assert best.metadata["elements"] == [1, 6, 8]


@pytest.mark.parametrize("form", ["", "best_model", "model.safetensors", "checkpoints/last.ckpt"])
def test_every_form_of_a_pretrained_model_is_read(tuned: Path, form: str) -> None:
    read = load_pretrained(tuned / form)
    best = torch.load(tuned / "best_model", weights_only=False).state_dict()
    assert read.card["architecture"]["cutoff_ang"] == 5.0
    assert read.card["units"] == {"energy": "eV", "forces": "eV/Ang", "distance": "Ang"}
    if form != "checkpoints/last.ckpt":
        assert all(torch.equal(t, best[k]) for k, t in read.state.items())


@pytest.fixture(scope="session")
def scratch(place: Path, spktrain: Spktrain) -> Path:
    """A finished run without the transfer."""
    data = f"data.datapath={place}/labels.db"
    spktrain(place, *AUTOTUNE, data, "transfer=scratch", "trainer.max_steps=10", "run.id=scratch")
    return place / "runs" / "scratch"


def test_scratch_takes_the_same_labels_and_nothing_else(tuned: Path, scratch: Path) -> None:
    report = json.loads((scratch / "report.json").read_text())
    assert (report["strategy"], report["checkpoint"]) == ("scratch", None)
    assert report["parameters"]["copied"] == 0
    assert report["parameters"]["reinitialised"] == report["parameters"]["total"]
    a, b = np.load(tuned / "split.npz"), np.load(scratch / "split.npz")
    assert all(np.array_equal(a[k], b[k]) for k in ("train_idx", "val_idx", "test_idx"))


def test_a_killed_run_goes_on_and_is_not_transferred_twice(place: Path, scratch: Path) -> None:
    directory = place / "runs" / "killed"
    command = [
        *(sys.executable, "-c", "from schnetpack.cli import train; train()"),
        *(*AUTOTUNE, f"data.datapath={place}/labels.db", "run.id=killed", "print_config=false"),
        *("trainer.max_steps=400", "trainer.val_check_interval=20"),
        "transfer.final_bias_refit=false",  # which would change the offsets
        # relative paths, which are meant from here, not from the run directory
        *("transfer.checkpoint=runs/pre", "callbacks.report.scratch=runs/scratch"),
    ]
    env = {**os.environ, "PWD": str(place)}
    process = subprocess.Popen(
        command, cwd=place, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    last = directory / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = torch.load(last, weights_only=True)
    assert 0 < before["global_step"] < 400
    assert not (directory / "report.json").exists()
    tables = (directory / "transfer.json").read_bytes()
    assert "Training has not finished" in (directory / "report.md").read_text()
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Resuming from checkpoint" in done.stdout
    assert "parameters copied from" not in done.stdout
    report = json.loads((directory / "report.json").read_text())
    assert report["optimiser_steps"] == 400
    assert report["wall_time_s"]["training"] > before["callbacks"]["RunReport"]["train_seconds"]
    assert report["parameters"]["copied"] == report["parameters"]["total"]
    assert report["scale"] == before["tpainn"]["record"]["alignment"]["scale"]
    assert (directory / "transfer.json").read_bytes() == tables
    compared = report["transfer"]["scratch"]
    assert compared["test"] == json.loads((scratch / "report.json").read_text())["test"]
    assert "Training has not finished" not in (directory / "report.md").read_text()
    best = torch.load(directory / "best_model", weights_only=False)
    offsets = before["state_dict"]["model.postprocessors.0.split"]
    assert torch.equal(best.postprocessors[0].split, offsets)


def bad(
    spktrain: Spktrain, place: Path, message: str, *overrides: str, experiment: tuple = AUTOTUNE
) -> None:
    """The run must fail with the message."""
    done = spktrain(place, *experiment, *overrides, check=False)
    assert done.returncode != 0
    assert message in " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("cutoff_ang: expected 4.0, got 5.0", ["globals.cutoff=4.0"]),
        ("irreps: expected 8x0e", ["model.representation.n_atom_basis=8"]),
        ("n_rbf", ["model.representation.radial_basis.n_rbf=13"]),
        ("finished run", ["run.id=tuned"]),
        ("rescale, keep or reset, got 'drop'", ["transfer.head=drop"]),
        ("multiple of", ["trainer.max_steps=31"]),
        ("of a finished run", ["callbacks.report.scratch=runs/nowhere"]),
    ],
)
def test_bad_input_is_refused_before_a_run_begins(
    place: Path, tuned: Path, message: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    data = [f"data.datapath={place}/labels.db", f"hydra.runtime.cwd={place}"]
    with initialize_config_module("schnetpack.configs", version_base="1.2"):
        config = compose("train", [*AUTOTUNE, *data, *words], return_hydra_config=True)
        with pytest.raises(SystemExit) as refused:
            Preflight().on_run_start(config)
    assert message in " ".join(str(refused.value).split())


def test_what_is_refused_makes_no_run_directory(
    place: Path, tuned: Path, spktrain: Spktrain
) -> None:
    before = sorted((place / "runs").iterdir())
    mtime = (tuned / "report.json").stat().st_mtime_ns
    data = f"data.datapath={place}/labels.db"
    bad(spktrain, place, "no such file", data, "transfer.checkpoint=nowhere")
    assert sorted((place / "runs").iterdir()) == before
    assert (tuned / "report.json").stat().st_mtime_ns == mtime


def test_elements_that_pretraining_never_saw(
    place: Path, tmp_path: Path, spktrain: Spktrain
) -> None:
    frame = ase.io.read(_methylamine(tmp_path))
    frames = []
    for seed in range(36):
        moved = frame.copy()
        moved.rattle(0.03, seed=seed)
        moved.info["smiles"] = "CN"
        frames.append(moved)
    label_frames(frames, UFF, tmp_path / "amine.db", n_workers=1)
    data = f"data.datapath={tmp_path}/amine.db"
    bad(spktrain, place, "hold N, which the pretraining never saw (it saw H, C, O)", data)


def _methylamine(folder: Path) -> Path:
    from schnetpack_tpainn.data.structures import embed_smiles

    path = folder / "amine.xyz"
    ase.io.write(path, embed_smiles("CN"))
    return path


def test_labels_in_other_units_are_refused(place: Path, spktrain: Spktrain) -> None:
    units = ("data.property_units.energy=kcal/mol", "data.property_units.forces=kcal/mol/Ang")
    data = f"data.datapath={place}/labels.db"
    bad(spktrain, place, "expected data in eV, eV/Ang, Ang, got kcal/mol", data, *units)
