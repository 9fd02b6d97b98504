"""A ladder of two teachers, MMFF94 and UFF, through `spktrain`, killed and gone on with."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from schnetpack_tpainn.data.additive import read_labelled
from schnetpack_tpainn.data.rdkit import RDKitForceField

pytestmark = pytest.mark.slow

UFF = "{calculator:{_target_:schnetpack_tpainn.data.rdkit.RDKitForceField,force_field:UFF},"
SMALL = [
    "experiment=tpainn_pretrain",
    "transfer/ladder=xtb",
    "ladder.directory=ladder",
    "ladder.rungs.xtb=null",
    "data.source.structures=[CO]",
    "data.source.n_frames=40",
    "data.source.interval_fs=5",
    "data.source.equilibration_fs=20",
    "data.num_train=30",
    "data.num_val=5",
    "data.num_test=5",
    "model.representation.n_atom_basis=8",
    "model.representation.n_interactions=1",
    "ladder.rungs.force_field.steps=12",
]
PLAIN = ["+ladder.rungs.uff=" + UFF + "n_frames:20,steps:6,lr:1e-3}"]


def call(place: Path, *words: str, wait: bool = True) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    process = subprocess.Popen(
        [Path(sys.executable).with_name("spktrain"), *SMALL, *words],
        cwd=place,
        env=env | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if wait:
        process.output, process.errors = process.communicate()  # type: ignore[attr-defined]
    return process


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "best_model", weights_only=False, map_location="cpu").state_dict()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ladder")


@pytest.fixture(scope="module")
def ladder(place: Path) -> Path:
    done = call(place, *PLAIN)
    assert done.returncode == 0, done.output + done.errors
    assert "Test MAE, forces" in done.output
    return place / "ladder"


def test_every_rung_learns_its_own_labels_from_the_network_before(ladder: Path) -> None:
    results = json.loads((ladder / "ladder.json").read_text())
    first, second = results["rungs"]
    assert [first["n_frames"], second["n_frames"]] == [40, 20]
    assert [first["optimiser_steps"], second["optimiser_steps"]] == [12, 6]
    assert first["before"] is None
    assert second["before"]["forces_mae_mev_per_ang"] > 0
    assert 0 < first["label_s"] < 1
    assert 0 < second["label_s"] < 1
    report = json.loads((ladder / "2_uff" / "report.json").read_text())
    assert report["strategy"] == "full"
    assert "1_force_field" in report["checkpoint"]
    frames = list(read_labelled(ladder / "frames" / "2_uff.db"))
    assert len(frames) == 20
    for frame in frames[:3]:
        bare = Atoms(frame.numbers, frame.positions, calculator=RDKitForceField("UFF"))
        assert frame.get_potential_energy() == pytest.approx(bare.get_potential_energy(), abs=1e-8)
    pool = [p.positions.tolist() for p in read_labelled(ladder.parent / "data" / "tpainn_rdkit.db")]
    assert all(frame.positions.tolist() in pool for frame in frames)
    assert (ladder / "ladder.md").read_text().count("| uff |") == 3
    assert (ladder / "ladder.png").stat().st_size > 10_000


def test_a_killed_ladder_goes_on_to_the_same_weights(ladder: Path, place: Path) -> None:
    words = [*PLAIN, "ladder.directory=killed"]
    process = call(place, *words, wait=False)
    second = place / "killed" / "2_uff"
    end = time.monotonic() + 240
    while not (second / "config.yaml").is_file():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(3)  # its run ends with it
    assert not (place / "killed" / "ladder.json").exists()
    before = (place / "killed" / "1_force_field" / "report.json").stat().st_mtime_ns
    done = call(place, *words)
    assert done.returncode == 0, done.output + done.errors
    assert (place / "killed" / "1_force_field" / "report.json").stat().st_mtime_ns == before
    for rung in ("1_force_field", "2_uff"):
        a, b = weights(ladder / rung), weights(place / "killed" / rung)
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_frames_may_be_walked_to_and_selected_and_rungs_compared_by_tuning(
    ladder: Path, place: Path
) -> None:
    """More on the finished first rung; a cheaper teacher on top is allowed, and warned of."""
    walked = "walk:{temperatures_k:[300],n_trajectories:1,duration_ps:0.05,interval_fs:2.5},"
    words = [
        *("+ladder.rungs.emt={calculator:{_target_:ase.calculators.emt.EMT},", walked),
        "n_frames:8,select:farthest,steps:6}",
    ]
    tune = [
        "experiment=tpainn_autotune",
        "data/source=tpainn_database",
        f"data.datapath={ladder}/frames/2_uff.db",
        *("data.num_train=5", "data.num_val=5", "data.num_test=5"),
        *("trainer.max_steps=6", "trainer.val_check_interval=3"),
    ]
    text = ",".join(f'"{t}"' for t in tune)
    done = call(place, *PLAIN, "".join(words), f"ladder.tune=[{text}]")
    assert done.returncode == 0, done.output + done.errors
    rungs = json.loads((ladder / "ladder.json").read_text())["rungs"]
    assert [r["name"] for r in rungs] == ["force_field", "uff", "emt"]
    assert rungs[2]["n_frames"] == 8
    assert all(r["tuned"]["forces_mae_mev_per_ang"] > 0 for r in rungs)
    selected = list(read_labelled(ladder / "frames" / "3_emt.db"))
    pool = [p.positions for p in read_labelled(ladder / "frames" / "2_uff.db")]
    assert min(np.abs(f.positions - p).max() for f in selected for p in pool) > 1e-3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+ladder.rungs.uff={n_frames:5}"], "LadderError: expected ladder.rungs.uff.calculator"),
        ([PLAIN[0].replace("n_frames:20", "n_frames:900")], "n_frames of at most the 40"),
        ([PLAIN[0].replace("lr:1e-3", "lr:2e-3")], "LadderError: .*was run with other overrides"),
        ([PLAIN[0].replace("steps:6", "stepps:6")], "got stepps; did you mean steps"),
    ],
)
def test_what_cannot_be_climbed_is_refused(ladder: Path, place: Path, words, message) -> None:

    done = call(place, *words)
    assert done.returncode == 1
    assert re.search(message, done.errors), done.errors


def test_a_rung_from_another_model_is_refused_not_mixed(ladder: Path, place: Path) -> None:
    copy = place / "retrained"
    shutil.copytree(ladder, copy)
    text = (copy / "jobs.json").read_text().replace(str(ladder), str(copy))
    (copy / "jobs.json").write_text(text)
    weights_file = copy / "1_force_field" / "model.safetensors"
    shutil.copy(copy / "2_uff" / "model.safetensors", weights_file)  # stands for a new training
    done = call(place, *PLAIN, "ladder.directory=retrained")
    assert done.returncode == 1
    assert "run.begins_from" in done.errors
