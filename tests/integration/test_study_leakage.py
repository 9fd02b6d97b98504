"""No test molecule's energy reaches anything that a study trains, fits or chooses."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.db import connect

pytestmark = pytest.mark.slow

SMALL = [
    "experiment=tpainn_qm9_small",
    "study.n_train=[8]",
    "study.compare=[scratch_groups,full_groups]",
    "study.reference=scratch_groups",
    "study.teacher.steps=6",
    "study.teacher.groups_steps=6",
    "study.teacher.val_check_interval=3",
    "model.representation.n_atom_basis=8",
    "model.representation.n_interactions=1",
    "trainer.max_steps=6",
    "trainer.val_check_interval=3",
    "data.num_val=5",
    "data.num_test=10",
    "data.source.n_molecules=60",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=2",
]


def study(place: Path) -> Path:
    """Folder of the study, run in `place`."""
    done = subprocess.run(
        [Path(sys.executable).with_name("tpainn-study"), *SMALL],
        cwd=place,
        env={k: v for k, v in os.environ.items() if not k.startswith("COV")}
        | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "runs" / "study_tpainn_qm9_small"


def content(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "best_model", weights_only=False, map_location="cpu").state_dict()


def test_test_energies_change_nothing_but_the_test_errors(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first, second):
        (place / "data").mkdir(parents=True)
    original = study(first)
    tests = {tuple(np.load(s)["test_idx"]) for s in (original / "splits").iterdir()}
    (rows,) = tests  # the same for every run
    database = second / "data" / "tpainn_qm9_small.db"
    shutil.copy(first / "data" / "tpainn_qm9_small.db", database)
    with connect(str(database), use_lock_file=False) as db:
        for row in rows:
            db.update(int(row) + 1, data={"energy": np.array([1e4 + row])})
    poisoned = study(second)

    runs = sorted(p.parent.relative_to(original) for p in original.glob("*/*/report.json"))
    assert len(runs) == 1 + 2 + 2 * 2  # pretraining, increments of two seeds, their tuning runs
    for run in runs:
        a, b = weights(original / run), weights(poisoned / run)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a), run
        assert content(original / run)["validation"] == content(poisoned / run)["validation"]
    tuned = [run for run in runs if run.parts[0] == "runs"]
    assert len(tuned) == 4
    for run in tuned:
        assert content(original / run)["test"] != content(poisoned / run)["test"]
