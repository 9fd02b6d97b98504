"""Comparison of runs: numbers, tables, figures, jobs."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from schnetpack_tpainn.data.store import FrameStore, labelled
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.errors import TPaiNNError
from schnetpack_tpainn.study import comparison, figures
from schnetpack_tpainn.study.jobs import Job, run_jobs

MMFF = {"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField", "smiles": "CCO"}


def reports(*pairs: tuple[float, float]) -> list[dict[str, Any]]:
    return [{"test": {"energy_mae_mev": e, "forces_mae_mev_per_ang": f}} for e, f in pairs]


@pytest.fixture
def classical() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    label = rng.normal(size=50)
    forces = rng.normal(size=(50, 9, 3))
    return {
        "energy": label + 0.1,
        "energy_label": label,
        "forces": forces - 0.2,
        "forces_label": forces,
    }


@pytest.fixture
def test(classical: dict[str, np.ndarray]) -> dict[str, Any]:
    runs = {"scratch": reports((40, 160), (60, 200)), "autotune": reports((20, 80), (20, 100))}
    return comparison.summary(classical, runs)


def test_summary(test: dict[str, Any]) -> None:
    assert test["force_field"]["energy_mae_mev"] == pytest.approx(100)
    assert test["force_field"]["forces_mae_mev_per_ang"] == pytest.approx(200)
    assert test["scratch"]["forces_mae_mev_per_ang"] == 180
    assert test["scratch"]["energy_mae_mev_std"] == pytest.approx(np.sqrt(200))
    ratio = test["ratio"]["autotune"]["forces_mae_mev_per_ang"]
    assert ratio == {"of_means": 2.0, "per_seed": [2.0, 2.0]}


def test_every_transfer_has_its_ratio(classical: dict[str, np.ndarray]) -> None:
    scratch = reports((40, 160), (60, 200))
    others = {"autotune": reports((20, 80), (20, 100)), "recipe": reports((10, 40), (10, 50))}
    test = comparison.summary(classical, {"scratch": scratch, **others})
    cells = [list(column.cells) for column in comparison.table("title", test).columns]
    assert cells[0][3:] == [
        "autotuned via xTB",
        "from scratch / autotuned",
        "from scratch / autotuned via xTB",
    ]
    assert cells[2][3:] == ["45.0 ± 7.1", "2.00", "4.00"]


def test_table_and_markdown_say_the_same(test: dict[str, Any]) -> None:
    table = comparison.table("title", test)
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["force field", "from scratch", "autotuned", "from scratch / autotuned"]
    assert cells[2] == ["200.0", "180.0 ± 28.3", "90.0 ± 14.1", "2.00"]
    text = comparison.markdown("title", test, ["a note"], ["parity.png"])
    assert "| from scratch | 50.0 ± 14.1 | 180.0 ± 28.3 |" in text
    assert "![parity](parity.png)" in text


def test_history_joins_the_parts_of_a_resumed_run(tmp_path: Path) -> None:
    head = "step,train_loss,val_energy_mae,val_forces_mae\n"
    for version, rows in enumerate(["9,,0.02,0.2\n15,1.0,,\n19,,0.01,0.1\n", "29,,0.005,0.05\n"]):
        folder = tmp_path / "csv" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(head + rows)
    history = comparison.history(tmp_path)
    assert history["step"].tolist() == [10, 20, 30]
    assert history["forces"] == pytest.approx([200, 100, 50])
    assert history["energy"] == pytest.approx([20, 10, 5])


def test_the_force_field_takes_its_zero_from_the_training_labels(tmp_path: Path) -> None:
    atoms = embed_smiles("CCO")
    store = FrameStore(tmp_path / "a.db", {})
    for i in range(6):
        moved = atoms.copy()
        moved.rattle(0.05, seed=i)
        from schnetpack_tpainn.data.label import compute_label, make_calculator

        frame = compute_label(moved, make_calculator(MMFF))
        shift = 7.0 if i < 4 else 7.5  # the test frames' zero is another on purpose
        energy = frame.get_potential_energy() + shift
        store.add(f"f{i}", [labelled(moved, energy, 1.1 * frame.get_forces())])
    path = store.finish([f"f{i}" for i in range(6)], {})
    np.savez(tmp_path / "split.npz", train_idx=[0, 1, 2, 3], val_idx=[], test_idx=[4, 5])
    (tmp_path / "report.json").write_text(json.dumps({"data": {"path": str(path)}}))
    p = comparison.force_field_predictions(tmp_path, MMFF)
    assert p["energy_label"] - p["energy"] == pytest.approx([0.5, 0.5], abs=1e-9)
    assert p["forces_label"] == pytest.approx(1.1 * p["forces"])


def drawn(path: Path) -> bool:
    """Whether a picture holds more than one colour over a fair part of it."""
    picture = matplotlib.image.imread(path)[..., :3]
    return picture.shape[0] > 300 and (picture.min(axis=2) < 0.9).mean() > 0.01


def test_figures(classical: dict[str, np.ndarray], tmp_path: Path) -> None:
    three = {"force field": classical, "scratch": classical, "autotune": classical}
    assert drawn(figures.save(figures.parity(three), tmp_path / "parity.png"))
    history = {
        "step": np.arange(10, 60, 10),
        "energy": np.linspace(50, 20, 5),
        "forces": np.linspace(400, 90, 5),
    }
    two = {"scratch": [history, history], "autotune": [history]}
    assert drawn(figures.save(figures.curves(two), tmp_path / "curves.png"))
    errors = {
        "force field": [{"energy_mae_mev": 90.0, "forces_mae_mev_per_ang": 300.0}],
        "scratch": [r["test"] for r in reports((40, 160), (60, 200))],
        "autotune": [r["test"] for r in reports((20, 80), (20, 100))],
    }
    assert drawn(figures.save(figures.bars(errors), tmp_path / "bars.png"))


class Script(Job):
    """A job that runs a line of Python in the place of `spktrain`."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", *self.overrides]


def script(directory: Path, code: str) -> Script:
    return Script(directory, (code,), 5)


def test_jobs_run_once_and_failures_show_the_end_of_their_log(tmp_path: Path) -> None:
    done = tmp_path / "done"
    code = (
        f"import pathlib; p = pathlib.Path({str(done)!r}); p.mkdir(); "
        "(p / 'report.json').write_text('{}'); print('threads')"
    )
    run_jobs([script(done, code)])
    assert script(done, "").progress() == 5
    run_jobs([script(done, code)])  # finished: a second mkdir would fail
    with pytest.raises(TPaiNNError, match=r"status 3; .*\nwhat went wrong"):
        run_jobs([script(tmp_path / "bad", "print('what went wrong'); raise SystemExit(3)")])


def test_a_job_that_leaves_no_report_has_failed(tmp_path: Path) -> None:
    with pytest.raises(TPaiNNError, match="ended with status 0"):
        run_jobs([script(tmp_path / "quiet", "pass")])


def test_progress_reads_the_csv_logger(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "csv" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,step\n0,1\n0,3\n")
    assert script(tmp_path / "run", "").progress() == 3
    assert script(tmp_path / "other", "").progress() == 0
