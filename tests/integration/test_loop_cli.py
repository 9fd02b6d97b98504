"""`tpainn-loop` with `spktrain` and an engine: killed, resumed, refused."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from killing import run, start

from schnetpack_tpainn.data.additive import read_labelled
from schnetpack_tpainn.data.label import compute_label
from schnetpack_tpainn.data.store import write_database
from schnetpack_tpainn.selection.select import SelectionSettings, select
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.portable import save_portable
from schnetpack_tpainn.transfer.units import UNITS
from tests.fits import build, model_config

LOOP = [sys.executable, "-c", "import sys, schnetpack_tpainn.cli.loop as c; sys.exit(c.main())"]
OVERRIDES = [
    "globals.cutoff=4.0",
    "model.representation.n_atom_basis=8",
    "model.representation.n_interactions=2",
    "model.representation.radial_basis.n_rbf=6",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
]


def shaken(n: int, first: int) -> list[Atoms]:
    frames = [molecule("CH3OH") for _ in range(n)]
    for seed, frame in enumerate(frames, first):
        frame.rattle(0.06, seed=seed)
    return frames


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool, labels to begin with, and a pretrained network."""
    place = tmp_path_factory.mktemp("loop")
    ase.io.write(place / "pool.extxyz", shaken(8, 0))
    write_database(
        place / "labels.db", [compute_label(a, EMT()) for a in shaken(9, 50)], {"source": "EMT"}
    )
    model = build("tpainn")
    card = {"architecture": describe(model), "model_config": model_config("tpainn")}
    card |= {"elements": [1, 6, 8], "units": UNITS}
    offsets = {"energy": torch.zeros(100)}
    save_portable(place / "model.safetensors", network_state(model), card, offsets)
    return place


def command(place: Path, *words: str) -> list[str]:
    return [
        *(*LOOP, str(place / "pool.extxyz"), "-d", str(place / "loop"), "-n", "2", "-r", "2"),
        *("--checkpoint", str(place / "model.safetensors"), "-w", "1"),
        *("--labelled", str(place / "labels.db"), "--num-val", "3", "--num-test", "4"),
        *("-c", "ase.calculators.emt.EMT", *words),
        *("--overrides", *OVERRIDES),
    ]


@pytest.mark.slow
def test_a_killed_loop_goes_on(place: Path) -> None:
    folder = place / "loop"
    process = start(command(place))
    end = time.monotonic() + 300
    while not (folder / "round_02" / "selected.db.partial").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "too slow"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "round_02" / "selected.db").exists()
    first = {p: p.stat().st_mtime_ns for p in (folder / "round_01").rglob("*") if p.is_file()}
    assert folder / "round_01" / "run" / "report.json" in first
    status, out, err = run(command(place))
    assert status == 0, err
    assert "MAE on the test frames" in out
    assert {p: p.stat().st_mtime_ns for p in first} == first
    state = json.loads((folder / "loop.json").read_text())
    known = list(read_labelled(place / "labels.db"))
    with np.load(folder / "round_01" / "split.npz") as split:
        assert [len(split[k]) for k in ("train_idx", "val_idx", "test_idx")] == [4, 3, 4]
    labels = list(read_labelled(folder / "round_02" / "labels.db"))
    assert {a.positions.tobytes() for a in known} == {a.positions.tobytes() for a in labels[:9]}
    pool = ase.io.read(place / "pool.extxyz", ":")
    for number, row in enumerate(state["rounds"], 1):
        count = 2 * number
        before = [labels[i] for i in (0, 1, *range(9, 7 + count))]  # two of the nine train
        settings = SelectionSettings(2, seed=1000 * number)
        wanted = select(pool, settings, [place / "model.safetensors"], before)
        assert row["selected"] == wanted.index
        assert row["n_train"] == 2 + count
        report = json.loads((Path(row["run"]) / "report.json").read_text())
        assert report["checkpoint"] == str(place / "model.safetensors")
        assert report["n_train"] == row["n_train"]
        assert row["test"] == report["test"]
    for atoms in labels[9:]:
        energy = compute_label(atoms, EMT()).get_potential_energy()
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-n", "5"], "expected 10 frames for 2 rounds, got 8 of 8 frames"),
        (["-m", "best"], "expected a method of committee"),
        (["--members", "1"], "two members or more"),
        (["--num-val", "6"], "expected num_train + num_val"),
        (["--split", "no.npz"], "expected a split file or numbers"),
        (["--checkpoint", "no"], "no such file"),
        (["--labelled", "pool.extxyz"], "expected a SchNetPack database"),
        (["-c", "ase.calculators.emt.EMT", "asap=1", "no"], "expected KEY=VALUE"),
        (["-c", "no.such.Class"], "cannot build the ASE calculator"),
        (["--overrides", *OVERRIDES, "trainer.max_step=3"], "Could not override"),
        (["--overrides", *OVERRIDES, "trainer.max_steps=3"], "multiple of trainer.val_check"),
        (["--overrides", *OVERRIDES, "seed=3"], "that a loop sets itself, got seed=3"),
        (["--overrides"], "n_atom_basis"),
    ],
)
def test_errors_of_use(place: Path, monkeypatch, capsys, words: list[str], message: str) -> None:
    from schnetpack_tpainn.cli.loop import main

    monkeypatch.chdir(place)
    usual = command(place)[len(LOOP) :]
    assert main([*usual, *words, "-d", "new"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("new").exists()
