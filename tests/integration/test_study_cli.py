"""`tpainn-study` on the shipped ethanol labels, small, through a Hydra launcher and without."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from schnetpack_tpainn.cli.study import arguments
from schnetpack_tpainn.errors import StudyError

pytestmark = pytest.mark.slow

SMALL = [
    "experiment=tpainn_autotune",
    "study.n_train=[5,8]",
    "study.seeds=[0,1]",
    "study.rates=[1e-3,2e-3]",
    "study.further_rates=0",
    "model.representation.n_atom_basis=8",
    "model.representation.n_interactions=1",
    "trainer.max_steps=6",
    "trainer.val_check_interval=2",
    "data.num_val=5",
    "data.num_test=10",
    'study.stages.pretrain.overrides=["experiment=tpainn_pretrain","data.num_train=12",'
    '"data.num_val=4","data.num_test=4","data.source.n_frames=20","trainer.max_steps=6",'
    '"trainer.val_check_interval=3"]',
]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def call(place: Path, *words: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    return subprocess.run(
        [Path(sys.executable).with_name("tpainn-study"), *words],
        cwd=place,
        env=env | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(place: Path) -> Path:
    done = call(place, *SMALL, *JOBLIB)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scratch / full" in done.stdout
    return place / "runs" / "study_tpainn_autotune"


@pytest.fixture(scope="module")
def results(study: Path) -> dict:
    return json.loads((study / "study.json").read_text())


def test_every_strategy_has_the_same_budget_and_test_frames(study: Path, results: dict) -> None:
    splits = {p.stem: dict(np.load(p)) for p in (study / "splits").iterdir()}
    assert set(splits) == {"n5_s0", "n5_s1", "n8_s0", "n8_s1"}
    tests = [set(s["test_idx"]) for s in splits.values()]
    assert all(t == tests[0] for t in tests)
    assert set(splits["n5_s0"]["train_idx"]) < set(splits["n8_s0"]["train_idx"])
    assert set(splits["n5_s0"]["train_idx"]) != set(splits["n5_s1"]["train_idx"])
    for split in splits.values():
        parts = [set(part) for part in split.values()]
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    reports = [json.loads(p.read_text()) for p in (study / "runs").glob("*/report.json")]
    # two strategies, two sizes, two rates of the first seed, the best of them of the second
    assert len(reports) == 2 * 2 * (2 + 1)
    assert {r["optimiser_steps"] for r in reports} == {6}
    assert {r["n_train"] for r in reports} == {5, 8}
    assert results["optimiser_steps"] == 6


def test_rates_are_chosen_by_validation_and_errors_are_those_of_the_runs(
    study: Path, results: dict
) -> None:
    for strategy, by_n in results["strategies"].items():
        for n, cell in by_n.items():
            tried = {
                rate: json.loads(
                    (study / f"runs/{strategy}_n{n}_lr{rate}_s0/report.json").read_text()
                )
                for rate in ("0.001", "0.002")
            }
            key = "forces_mae_mev_per_ang"
            best = min(tried, key=lambda r: tried[r]["validation"][key])
            assert cell["rate"] == float(best)
            assert cell["forces"]["by_seed"]["0"] == tried[best]["test"][key]
    transferred = json.loads((study / f"runs/full_n5_lr{best}_s0/report.json").read_text())
    assert "stages/pretrain" in transferred["checkpoint"]


def test_a_second_call_repeats_nothing_and_more_seeds_are_added(study: Path, place: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in study.glob("*/*/report.json")}
    done = call(place, *SMALL, *JOBLIB, "study.n_train=[5]", "study.seeds=[0,1,2]")
    assert done.returncode == 0, done.stdout + done.stderr
    after = {p: p.stat().st_mtime_ns for p in study.glob("*/*/report.json")}
    assert {p: after[p] for p in before} == before
    new = {p.parent.name.rpartition("_")[2] for p in after.keys() - before.keys()}
    assert new == {"s2"}


def test_other_settings_in_the_same_folder_are_refused(study: Path, place: Path) -> None:
    done = call(place, *SMALL, "trainer.max_steps=8")
    assert done.returncode == 1
    assert "StudyError" in done.stderr
    assert "trainer.max_steps=6, trainer.max_steps=8" in done.stderr
    assert "study.directory" in done.stderr


def test_the_runs_of_a_killed_study_end_with_it(study: Path, place: Path) -> None:
    words = [
        *SMALL,
        "study.directory=killed",
        "study.n_train=[5]",
        "study.rates=[1e-3]",
        "trainer.max_steps=1000000",
        "trainer.val_check_interval=500000",
        f"study.strategies.full.checkpoint={study}/stages/pretrain",
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [Path(sys.executable).with_name("tpainn-study"), *words]
    with subprocess.Popen(command, cwd=place, env=env, stderr=subprocess.DEVNULL) as process:
        run = place / "killed" / "runs" / "scratch_n5_lr0.001_s0"
        wait_for((run / "config.yaml").is_file)
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not running(f"run.path={run.parent}"))
    assert not (run / "report.json").exists()


def running(words: str) -> bool:
    found = subprocess.run(["pgrep", "-f", words], capture_output=True, check=False)
    return found.returncode == 0


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study.n_train=[5,900]"], "DataError: expected num_train"),
        (["seed=1,2"], "study.seeds"),
        (
            ['study.strategies.full.overrides=["model.representation.n_atom_basis=16"]'],
            "expected study.strategies.full to have the network of stage pretrain",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(place: Path, words, message) -> None:
    done = call(place, *SMALL, *words, "study.directory=refused")
    assert done.returncode == 1
    assert message in done.stderr
    assert not list(place.glob("refused/runs/*"))


def test_the_study_of_the_experiment_is_taken_where_there_is_one() -> None:
    assert arguments(["experiment=tpainn_autotune"])[:2] == ["--multirun", "+study=default"]
    chosen = arguments(["experiment=tpainn_autotune", "study=default", "study.seeds=[0,1]"])
    assert chosen == [
        "--multirun",
        "+study=default",
        "experiment=tpainn_autotune",
        "study.seeds=[0,1]",
    ]
    with pytest.raises(StudyError, match="expected experiment="):
        arguments(["study.seeds=[0,1]"])
