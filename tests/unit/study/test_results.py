"""Results of a study from hand-made reports: `study.json`, table and figure."""

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from hydra_plugins.schnetpack_tpainn.searchpath import config_dir
from schnetpack_tpainn.study.curves import learning_curves
from schnetpack_tpainn.study.results import collect, markdown, write_results
from schnetpack_tpainn.study.settings import StudySettings

COUNTS, SEEDS = (10, 100), (0, 1)
# error of a strategy: constant / labels, times 1 or 4 by seed
CONSTANTS = {"scratch": 1000.0, "full": 100.0}


def run_directory(path: Path, start: float, end: float) -> Path:
    """A run whose validation error falls from `start` by halves to `end`."""
    folder = path / "csv" / "version_0"
    folder.mkdir(parents=True)
    errors = np.geomspace(start, end, 4) / 1e3
    rows = [f"{100 * k + 99},{e},{e}" for k, e in enumerate(errors)]
    (folder / "metrics.csv").write_text("\n".join(["step,val_energy_mae,val_forces_mae", *rows]))
    return path


def report(error: float) -> dict:
    return {
        "test": {"energy_mae_mev": error, "forces_mae_mev_per_ang": 2 * error},
        "wall_time_s": {"training": 1.0},
        "optimiser_steps": 400,
        "n_val": 5,
        "n_test": 50,
        "parameters": {"total": 7},
        "data": {},
    }


@pytest.fixture
def results(tmp_path):
    node = OmegaConf.to_container(OmegaConf.load(config_dir() / "study" / "default.yaml").study)
    node |= {"directory": str(tmp_path), "n_train": COUNTS, "seeds": SEEDS, "metric": "energy"}
    settings = StudySettings.read(node)
    cells = [(k, n) for k in CONSTANTS for n in COUNTS]
    reports = {(k, n): [report(CONSTANTS[k] / n * 4**s) for s in SEEDS] for k, n in cells}
    directories = {
        (k, n): [
            run_directory(tmp_path / f"{k}{n}{s}", 8 * CONSTANTS[k] / n, CONSTANTS[k] / n)
            for s in SEEDS
        ]
        for k, n in cells
    }
    rates = {cell: {1e-3: 2.0, 2e-3: 1.0} for cell in cells}
    baselines = {"composition": {n: {0: 30.0, 1: 30.0} for n in COUNTS}}
    return collect(settings, rates, reports, directories, baselines)


def test_means_ratios_and_labels_saved(results):
    scratch, full = (results["strategies"][k] for k in CONSTANTS)
    assert scratch["10"]["energy"]["mean"] == pytest.approx(200.0)  # of 100 and 400
    assert full["100"]["forces"]["by_seed"] == {"0": 2.0, "1": 8.0}
    against = results["against_reference"]["full"]
    for n in ("10", "100"):
        assert against["energy"][n]["ratio"] == pytest.approx(
            {"mean": 10.0, "low": 10.0, "high": 10.0}
        )
    # full with 10 labels is as good as scratch with 100; with 100 beyond scratch's last point
    assert against["energy"]["10"]["labels_saved"]["equivalent"] == pytest.approx(100.0)
    assert against["energy"]["100"]["labels_saved"]["bound"] == "at least"
    assert results["baselines"]["composition"]["10"]["mean"] == pytest.approx(30.0)
    assert scratch["10"]["rate"] == 2e-3


def test_convergence(results):
    # scratch ends at 100; full starts at 80 and is there at its first validation
    found = results["against_reference"]["full"]["convergence"]["10"]
    assert found["reference_error"] == pytest.approx(100.0)
    assert (found["reference_steps"], found["steps"]) == (400, 100)


def test_the_figure_shows_these_numbers(results):
    figure = learning_curves(results)
    energy, forces, ratio, saved, steps = figure.axes[:5]
    drawn = {c.get_label(): c.lines[0].get_xydata() for c in energy.containers}
    np.testing.assert_allclose(drawn["scratch"], [[10, 200], [100, 20]])
    np.testing.assert_allclose(drawn["full"], [[10, 20], [100, 2]])
    assert energy.get_xscale() == energy.get_yscale() == "log"
    (line,) = [a for a in energy.lines if a.get_label() == "linear: composition"]
    np.testing.assert_allclose(line.get_ydata(), [30, 30])
    np.testing.assert_allclose(forces.containers[0].lines[0].get_ydata(), [400, 40])
    np.testing.assert_allclose(ratio.containers[0].lines[0].get_ydata(), [10, 10])
    np.testing.assert_allclose(saved.lines[0].get_ydata(), [10, 1])
    np.testing.assert_allclose(steps.lines[0].get_ydata(), [800, 400, 200, 100])


def test_table_names_bounds(results):
    text = markdown(results)
    assert "| scratch / full | 10.00 (10.00 to 10.00)" in text
    assert "| full | 10 | 100 labels of scratch (10.0 times) | 100 of 400 |" in text
    assert "| full | 100 | at least 100 labels of scratch (1.0 times)" in text
    assert "| linear: composition | 30.0 (30.0 to 30.0)" in text


def test_files(results, tmp_path):
    write_results(tmp_path, results)
    assert json.loads((tmp_path / "study.json").read_text()) == json.loads(json.dumps(results))
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "study.pdf").read_bytes()[:4] == b"%PDF"
    assert "study.png" in (tmp_path / "study.md").read_text()
