"""`tpainn-select` writes what `tpainn-label` takes, or nothing."""

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.db import connect
from pools import shaken

from schnetpack_tpainn.cli.label import main as tpainn_label
from schnetpack_tpainn.cli.select import main
from schnetpack_tpainn.data.label import compute_label, label_frames, make_calculator
from schnetpack_tpainn.data.store import write_database

UFF = {"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField", "force_field": "UFF"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pool of twelve frames, three of which are labelled."""
    monkeypatch.chdir(tmp_path)
    pool = shaken(12)
    for i, atoms in enumerate(pool):
        atoms.info["temperature_k"] = 100 + i
    ase.io.write("pool.extxyz", pool)
    engine = make_calculator(UFF)
    write_database("labels.db", [compute_label(a, engine) for a in pool[:3]], {})
    Path("broken.xyz").write_text("what?")
    Path("old.xyz").write_text("mine")
    Path("beside.json").write_text("mine")
    return tmp_path


def test_the_output_goes_into_tpainn_label(here: Path, models: list[Path], capsys) -> None:
    words = ["pool.extxyz", "-n", "4", "-o", "next.xyz", "--model", str(models[0])]
    words += ["--labelled", "labels.db", "--exclude", "pool.extxyz@10:", "--plot", "map.png"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "7 of 12 frames to choose from (3 are labelled, 2 excluded, 0 repeat" in shown
    told = json.loads(Path("next.json").read_text())
    assert len(told["index"]) == 4
    assert set(told["index"]) <= set(range(3, 10))
    assert told["scores"] == sorted(told["scores"], reverse=True)
    assert list(told["pool"]) == ["pool.extxyz"]
    assert len(told["models"][str(models[0])]) == 64
    assert Path("map.png").read_bytes().startswith(b"\x89PNG")
    assert tpainn_label(["next.xyz", "-o", "next.db", "-w", "1", "-c", "rdkit"]) == 0
    pool = ase.io.read("pool.extxyz", ":")
    with connect("next.db") as db:
        rows = list(db.select())
    assert [row.pool_index for row in rows] == told["index"]
    for row in rows:
        assert row.positions == pytest.approx(pool[row.pool_index].positions, abs=1e-7)
        assert row.temperature_k == 100 + row.pool_index
        assert row.selection_method == "kmeans"
        assert np.isfinite(row.data["energy"]).all()


def test_a_database_in_another_unit_of_length_is_a_pool(here: Path, models: list[Path]) -> None:
    common = ["-n", "5", "-m", "kmeans", "--model", str(models[0])]
    assert main(["pool.extxyz", *common, "-o", "a.xyz"]) == 0
    frames = ase.io.read("pool.extxyz", ":")
    with connect("bohr.db") as db:
        for atoms in frames:
            atoms.positions /= 0.52917721067
            db.write(atoms)
        db.metadata = {"_distance_unit": "Bohr"}
    assert main(["bohr.db", *common, "-o", "b.xyz"]) == 0
    a, b = (json.loads(Path(f"{name}.json").read_text()) for name in "ab")
    assert a["index"] == b["index"]


def test_a_committee_with_a_map(here: Path, models: list[Path]) -> None:
    words = ["pool.extxyz", "-n", "3", "-o", "next.extxyz", "-m", "committee", "--plot", "map.pdf"]
    assert main([*words, "--reduce", "mean", "--model", *map(str, models)]) == 0
    frames = ase.io.read("next.extxyz", ":")
    scores = [atoms.info["selection_score"] for atoms in frames]
    assert scores == sorted(scores, reverse=True)
    assert Path("map.pdf").read_bytes().startswith(b"%PDF")


def test_the_control_needs_no_model(here: Path) -> None:
    assert main(["pool.extxyz", "-n", "12", "-o", "all.xyz", "-m", "random"]) == 0
    index = [atoms.info["pool_index"] for atoms in ase.io.read("all.xyz", ":")]
    assert sorted(index) == list(range(12))
    assert index != list(range(12))
    result = label_frames(ase.io.read("all.xyz", ":"), UFF, "all.db", n_workers=1)
    assert result.n_labelled == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pool.extxyz", "-m", "random", "-n", "13"], "expected 13 frames, got 12 of 12 frames"),
        (["pool.extxyz", "-m", "best"], "expected a method of committee, farthest, kmeans, random"),
        (["pool.extxyz", "-m", "committee", "--model", "MODEL"], "expected two models or more"),
        (["pool.extxyz"], "expected 1 model for method kmeans"),
        (["pool.extxyz", "--model", "no"], "got no: no such file"),
        (["broken.xyz", "-m", "random"], "ASE cannot read structures from broken.xyz"),
        (["absent.xyz", "-m", "random"], "file absent.xyz does not exist"),
        (["pool.extxyz", "-m", "random", "-o", "old.xyz"], "old.xyz exists and is never written"),
        (["pool.extxyz", "-m", "random", "-o", "beside.xyz"], "beside.json exists and is never"),
        (["pool.extxyz", "-m", "random", "-o", "new.db"], "ends in .xyz or .extxyz, got new.db"),
        (["pool.extxyz", "-m", "random", "-o", "no/new.xyz"], "no does not exist: make the folder"),
        (["pool.extxyz", "-m", "random", "--plot", "x.png"], "--plot draws the features of a mo"),
        (["pool.extxyz", "-m", "random", "--labelled", "broken.xyz"], "read structures from brok"),
    ],
)
def test_bad_input_writes_nothing(
    here: Path, models: list[Path], capsys, words: list[str], message: str
) -> None:
    before = {p: p.read_bytes() for p in here.iterdir()}
    words = [str(models[0]) if w == "MODEL" else w for w in words]
    assert main(["-n", "2", "-o", "new.xyz", *words]) == 2
    error = capsys.readouterr().err
    assert "tpainn-select: " in error
    assert message in error
    assert {p: p.read_bytes() for p in here.iterdir()} == before
