"""Rounds of select, label and tune, with small fits in this process in the place of `spktrain`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from pools import label, shaken

from schnetpack_tpainn.data.additive import read_labelled
from schnetpack_tpainn.data.store import write_database
from schnetpack_tpainn.errors import DataError, LabelError, SelectionError
from schnetpack_tpainn.selection.labels import Engine, Labels, Oracle
from schnetpack_tpainn.selection.loop import Loop, LoopSettings
from schnetpack_tpainn.selection.select import SelectionSettings
from schnetpack_tpainn.study.jobs import Job
from schnetpack_tpainn.testing import batch
from tests.fits import build

EMT_NODE = {"_target_": "ase.calculators.emt.EMT"}


def tune(jobs: Sequence[Job]) -> None:
    """What a loop needs of a run: a model fitted to the job's training labels, and its test."""
    for job in jobs:
        words = dict(w.split("=", 1) for w in job.overrides)
        with np.load(words["data.split_file"]) as split:
            parts = {k: split[k].tolist() for k in split.files}
        train = parts["train_idx"]
        if "data/resampling" in words:
            seed = int(words["seed"])
            train = np.random.default_rng(seed).choice(train, len(train)).tolist()
        path = Path(words["data.datapath"])
        model = build("tpainn", seed=int(words["seed"])).double()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(3):
            error = _errors(model, list(read_labelled(path, train)))
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        job.directory.mkdir(parents=True)
        torch.save(model, job.directory / "best_model")
        test = float(_errors(model, list(read_labelled(path, parts["test_idx"]))).detach())
        report = {"test": {"forces_mae_mev_per_ang": test}}
        (job.directory / "report.json").write_text(json.dumps(report))


def _errors(model: Any, frames: list[Atoms]) -> torch.Tensor:
    wanted = torch.from_numpy(np.concatenate([a.get_forces() for a in frames]))
    return (model.train()(batch(frames, 4.0))["forces"] - wanted).abs().mean()


def settings(place: Path, checkpoint: Path, method: str = "farthest", **more: Any) -> LoopSettings:
    chosen = SelectionSettings(more.pop("n", 3), method)
    common = {"rounds": 2, "overrides": ("experiment=tpainn_autotune",), "steps": 5, "members": 2}
    return LoopSettings(place, selection=chosen, checkpoint=checkpoint, **{**common, **more})


def loop(place: Path, checkpoint: Path, start: Labels, pool: list[Atoms], **more: Any) -> Loop:
    labeller = more.pop("labeller", None)
    if labeller is None:
        database = place.with_name(f"{place.name}_pool.db")
        database.unlink(missing_ok=True)
        labeller = Oracle(write_database(database, label(pool), {}), len(pool))
    execute = more.pop("execute", tune)
    return Loop(settings(place, checkpoint, **more), pool, start, labeller, {}, execute)


def contents(place: Path) -> dict[str, Any]:
    """All that a loop has decided and computed, without names of folders."""
    state = json.loads((place / "loop.json").read_text())
    for row in state["rounds"]:
        del row["run"]
    frames = {
        str(db.relative_to(place)): [
            (a.positions.tolist(), a.get_potential_energy(), a.get_forces().tolist())
            for a in read_labelled(db)
        ]
        for db in sorted(place.rglob("*.db"))
    }
    return {"state": state, "frames": frames}


def test_rounds_add_labels_and_leave_validation_and_test_alone(
    tmp_path: Path, checkpoint: Path, start: Labels
) -> None:
    pool = [*shaken(10), *start.part(1), *start.part(2), start.frames[0]]
    jobs: list[Job] = []

    def execute(todo: Sequence[Job]) -> None:
        jobs.extend(todo)
        tune(todo)

    state = loop(tmp_path / "loop", checkpoint, start, pool, execute=execute).run()
    assert state == json.loads((tmp_path / "loop" / "loop.json").read_text())
    chosen = [i for row in state["rounds"] for i in row["selected"]]
    assert len(set(chosen)) == 6
    assert set(chosen) <= set(range(10))
    assert [row["n_train"] for row in state["rounds"]] == [7, 10]
    with np.load(tmp_path / "loop" / "round_02" / "split.npz") as split:
        assert split["val_idx"].tolist() == [4, 5]
        assert split["test_idx"].tolist() == [6, 7, 8]
        assert split["train_idx"].tolist() == [0, 1, 2, 3, *range(9, 15)]
    rows = list(read_labelled(tmp_path / "loop" / "round_02" / "labels.db"))
    expected = [*start.frames, *label([pool[i] for i in chosen])]
    for row, atoms in zip(rows, expected, strict=True):
        assert row.positions == pytest.approx(atoms.positions, abs=1e-7)
        assert row.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    assert [job.directory.name for job in jobs] == ["run", "run"]
    assert "data.num_train=10" in jobs[1].overrides
    assert f"transfer.checkpoint={checkpoint}" in jobs[1].overrides


class KilledError(Exception):
    """Stands for a kill: nothing of the loop handles it."""


@pytest.mark.parametrize("method", ["farthest", "committee"])
def test_a_killed_loop_goes_on_to_the_same_result(
    tmp_path: Path, checkpoint: Path, start: Labels, method: str
) -> None:
    pool = shaken(10)
    common = {"method": method, "n": 2}
    loop(tmp_path / "whole", checkpoint, start, pool, **common).run()
    done: list[str] = []

    def dying(at: int) -> Any:
        def execute(jobs: Sequence[Job]) -> None:
            for job in jobs:
                if job.finished:
                    continue
                if len(done) == at:
                    raise KilledError
                tune([job])
                done.append(str(job.directory))

        return execute

    n_runs = 2 + 2 * 2 * (method == "committee")  # members before each round
    for at in range(n_runs):  # before each of the runs
        with pytest.raises(KilledError):
            loop(tmp_path / "k", checkpoint, start, pool, execute=dying(at), **common).run()
    loop(tmp_path / "k", checkpoint, start, pool, execute=dying(-1), **common).run()
    assert len(set(done)) == len(done) == n_runs  # nothing was trained twice
    assert contents(tmp_path / "k") == contents(tmp_path / "whole")
    state = json.loads((tmp_path / "k" / "loop.json").read_text())
    assert [row["method"] for row in state["rounds"]] == [method] * 2


def test_more_rounds_go_further_and_other_settings_are_refused(
    tmp_path: Path, checkpoint: Path, start: Labels
) -> None:
    pool, place = shaken(10), tmp_path / "loop"
    first = loop(place, checkpoint, start, pool, rounds=1, n=2).run()
    second = loop(place, checkpoint, start, pool, rounds=2, n=2, execute=_skipping).run()
    assert second["rounds"][0] == first["rounds"][0]
    assert len(second["rounds"]) == 2
    with pytest.raises(SelectionError, match=r"holds a loop with other settings .*selection: exp"):
        loop(place, checkpoint, start, pool, rounds=2, n=3).run()


def _skipping(jobs: Sequence[Job]) -> None:
    tune([job for job in jobs if not job.finished])


def test_a_cold_committee_begins_with_the_farthest(
    tmp_path: Path, checkpoint: Path, start: Labels
) -> None:
    cold = Labels(start.frames[4:], ([], [0, 1], [2, 3, 4]))
    state = loop(tmp_path / "x", checkpoint, cold, shaken(8), method="committee", n=2).run()
    assert [row["method"] for row in state["rounds"]] == ["farthest", "committee"]
    assert len(list((tmp_path / "x" / "round_01" / "members").iterdir())) == 2


def test_labels_of_tests_change_no_choice(tmp_path: Path, checkpoint: Path, start: Labels) -> None:
    pool = shaken(8)
    plain = loop(tmp_path / "a", checkpoint, start, pool, method="committee", n=2).run()
    for atoms in start.part(2):
        atoms.calc.results["energy"] += 1e4
        atoms.calc.results["forces"] *= -100
    other = loop(tmp_path / "b", checkpoint, start, pool, method="committee", n=2).run()
    for a, b in zip(plain["rounds"], other["rounds"], strict=True):
        assert (a["selected"], a["scores"]) == (b["selected"], b["scores"])
        assert a["test"] != b["test"]


def test_an_oracle_gives_the_labels_of_the_pool(
    tmp_path: Path, checkpoint: Path, start: Labels
) -> None:
    pool = label(shaken(8))
    database = write_database(tmp_path / "pool.db", pool, {})
    oracle = Oracle(database, len(pool))
    common = {"labeller": oracle, "method": "random", "rounds": 1}
    state = loop(tmp_path / "loop", checkpoint, start, pool, **common).run()
    new = list(read_labelled(tmp_path / "loop" / "round_01" / "selected.db"))
    for atoms, i in zip(new, state["rounds"][0]["selected"], strict=True):
        assert atoms.get_potential_energy() == pool[i].get_potential_energy()
        assert np.array_equal(atoms.get_forces(), pool[i].get_forces())
    with pytest.raises(DataError, match=r"a row of .* for each of the 9 frames .* got 8"):
        Oracle(database, 9)
    with pytest.raises(DataError, match=r"expected frame .* as row .* got another"):
        loop(tmp_path / "other", checkpoint, start, pool[::-1], **common).run()
    assert not (tmp_path / "other" / "round_01" / "selected.db").exists()


def test_frames_that_fail_are_told_and_not_chosen_again(
    tmp_path: Path, checkpoint: Path, start: Labels
) -> None:
    pool = [*shaken(4), *shaken(2, "SiH4")]  # EMT has no silicon
    engine = Engine(EMT_NODE, n_workers=1)
    state = loop(tmp_path / "loop", checkpoint, start, pool, labeller=engine).run()
    rows = state["rounds"]
    failed = [i for row in rows for i in row["failed"]]
    assert sorted(failed) == [4, 5]
    assert sorted(i for row in rows for i in row["selected"]) == list(range(6))
    assert rows[1]["n_train"] == 4 + 4


def test_a_selection_that_fails_as_a_whole_is_replaced(
    tmp_path: Path, checkpoint: Path, start: Labels
) -> None:
    engine = Engine(EMT_NODE, n_workers=1)
    silane, common = shaken(4, "SiH4"), {"n": 1, "rounds": 1, "labeller": engine}
    mixed = [*shaken(1), *silane[:2]]  # farthest from the labels is what EMT cannot compute
    state = loop(tmp_path / "mixed", checkpoint, start, mixed, **common).run()
    (row,) = state["rounds"]
    assert sorted(row["failed"]) == [1, 2]
    assert row["selected"] == [*row["failed"], 0]
    assert row["n_train"] == 4 + 1
    again = loop(tmp_path / "mixed", checkpoint, start, mixed, **common, execute=_skipping).run()
    assert again == state

    bad = loop(tmp_path / "bad", checkpoint, start, silane, **common)
    with pytest.raises(LabelError, match=r"3 selections in a row .*selected_3\.failed\.extxyz"):
        bad.run()
    with pytest.raises(SelectionError, match=r"expected 1 frames, got 0 of 4 .*4 excluded"):
        bad.run()


def test_a_pool_that_does_not_last_is_refused_before_anything_is_labelled(
    tmp_path: Path, checkpoint: Path, start: Labels
) -> None:
    pool = [*shaken(5), *start.part(1)]
    with pytest.raises(SelectionError, match="expected 6 frames for 2 rounds, got 5 of 7 frames"):
        loop(tmp_path / "loop", checkpoint, start, pool).run()
    assert not (tmp_path / "loop").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "expected one round or more"),
        ({"members": 1}, "two members or more, got 2 and 1"),
        ({"overrides": ("seed=3",)}, "that a loop sets itself, got seed=3"),
        ({"overrides": ("+data.num_train=3", "globals.lr=1")}, r"got \+data.num_train=3; leave"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        settings(tmp_path, tmp_path, **change)


def test_labels_of_another_level_are_refused(
    tmp_path: Path, checkpoint: Path, start: Labels
) -> None:
    start.metadata["level_of_theory"] = {"xc": "pbe"}
    oracle = Oracle(write_database(tmp_path / "p.db", label(shaken(8)), {}), 8)
    oracle.level = {"xc": "pbe0"}
    with pytest.raises(DataError, match=r"the level of theory of those so far, {'xc': 'pbe'}, got"):
        loop(tmp_path / "loop", checkpoint, start, shaken(8), labeller=oracle).run()
