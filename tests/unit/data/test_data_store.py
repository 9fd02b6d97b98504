"""The writers: all or nothing, in order, resumable, one process at a time."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from ase.db import connect
from distorted import frames_of
from schnetpack.data import ASEAtomsData

from schnetpack_tpainn.data.store import (
    FrameStore,
    fingerprint,
    key_values,
    labelled,
    write_database,
)
from schnetpack_tpainn.errors import DataError


def labelled_frames(n: int, **info):
    return [labelled(a, -i / 7, a.positions / 3, **info) for i, a in enumerate(frames_of(n))]


def test_frames_come_out_in_the_order_of_the_items(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    store = FrameStore(path, {"a": 1})
    frames = labelled_frames(4, temperature_k=300.0)
    store.add("late", frames[2:])
    store.add("early", frames[:2])
    assert not path.exists()
    assert store.done() == {"early", "late"}
    assert store.finish(["early", "late"], {"who": "us"}, {"energy": [0.0, 1.5]}) == path
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.db"]
    dataset = ASEAtomsData(str(path))
    assert dataset.metadata["who"] == "us"
    assert dataset.metadata["fingerprint"] == fingerprint({"a": 1})
    assert dataset.atomrefs["energy"].tolist() == [0.0, 1.5]
    assert dataset.units == {"energy": "eV", "forces": "eV/Ang"}
    for i, frame in enumerate(frames):
        sample = dataset[i]
        assert sample["energy"].item() == frame.get_potential_energy()  # float64, bit by bit
        np.testing.assert_array_equal(sample["forces"].numpy(), frame.get_forces())
        np.testing.assert_array_equal(sample["_positions"].numpy(), frame.positions)
    with connect(path) as db:
        assert [row.key_value_pairs for row in db.select()] == [{"temperature_k": 300.0}] * 4


def energies_only(n: int):
    return [labelled(a, -i / 7, None) for i, a in enumerate(frames_of(n))]


def test_frames_without_forces_are_stored_without(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "x.db", {})
    store.add("a", energies_only(2))
    store.finish(["a"], {})
    write_database(tmp_path / "y.db", energies_only(2), {})
    for name in ("x.db", "y.db"):
        dataset = ASEAtomsData(str(tmp_path / name))
        assert dataset.units == {"energy": "eV"}
        assert [dataset[i]["energy"].item() for i in range(2)] == [0.0, -1 / 7]
        with connect(tmp_path / name) as db:
            assert [list(row.data) for row in db.select()] == [["energy"]] * 2


def test_some_frames_without_forces_are_refused(tmp_path: Path) -> None:
    frames = [*labelled_frames(2), *energies_only(1)]
    with pytest.raises(DataError, match=r"expected energy and forces .* got energy for frame 3"):
        write_database(tmp_path / "x.db", frames, {})
    with pytest.raises(
        DataError, match=r"expected energy for .* got energy and forces for frame 2"
    ):
        write_database(tmp_path / "x.db", frames[:1:-1] + frames[:2], {})
    assert not (tmp_path / "x.db").exists()


def test_an_item_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "x.db", {})
    with pytest.raises(AttributeError):
        store.add("a", [*labelled_frames(2), None])
    assert store.done() == set()
    store.add("a", labelled_frames(2))
    assert store.done() == {"a"}


def test_long_items_are_one_transaction(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "x.db", {})
    [frame] = labelled_frames(1)

    def broken():
        for _ in range(5001):  # ASE commits after 5000 writes of its own accord
            yield frame
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.add("a", broken())
    assert store.done() == set()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    FrameStore(tmp_path / "x.db", {"a": 1})
    with pytest.raises(DataError, match="begun with other settings"):
        FrameStore(tmp_path / "x.db", {"a": 2})


@pytest.mark.parametrize("name", ["x.db", "x.extxyz"])
def test_what_exists_is_never_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("thesis")
    with pytest.raises(DataError, match=r"never written over|ending in '\.db'"):
        FrameStore(tmp_path / name, {})
    assert (tmp_path / name).read_text() == "thesis"


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    code = f"""
from schnetpack_tpainn.data.store import FrameStore
FrameStore({str(path)!r}, {{}})
"""
    store = FrameStore(path, {})
    second = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "another process is making" in second.stderr
    store.add("a", labelled_frames(1))
    store.finish(["a"], {})


def test_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no frame was labelled"):
        FrameStore(tmp_path / "x.db", {}).finish(["a"], {})
    assert not (tmp_path / "x.db").exists()


def test_key_values_are_what_ase_can_keep() -> None:
    info = {
        "temperature_k": 300.0,
        "name": "run one",
        "number": "12",
        "flag": np.bool_(True),
        "energy": -1.0,  # reserved by ASE
        "frame": 3,  # ours
        "config type": "bulk",  # not a name
        "virial": np.eye(3),
        "note": None,
        7: "no name at all",
    }
    assert key_values(info) == {
        "temperature_k": 300.0,
        "name": "run one",
        "number": 12,
        "flag": True,
    }


@pytest.mark.parametrize(
    "made", ["", "CREATE TABLE systems (id)", "CREATE TABLE information (name)"]
)
def test_a_partial_file_cut_off_at_its_birth_is_made_anew(tmp_path: Path, made: str) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db.partial")) as db:
        db.execute(made or "PRAGMA user_version")
        db.commit()
    (tmp_path / "x.db.partial").touch()
    store = FrameStore(tmp_path / "x.db", {"a": 1})
    store.add("one", labelled_frames(2))
    assert store.finish(["one"], {}).exists()
