"""What the figures of a run show: the data in their axes."""

import ast
from pathlib import Path

import numpy as np
import pytest

from schnetpack_tpainn import transfer
from schnetpack_tpainn.transfer.figures import COLOURS, changes, curves, draw_run, parity, save


@pytest.fixture
def predictions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    energy, forces = rng.normal(size=6), rng.normal(size=(18, 3))
    return {
        "energy": energy - 0.025,
        "energy_label": energy,
        "forces": forces + 0.08,
        "forces_label": forces,
    }


def history(*forces: float) -> dict[str, np.ndarray]:
    values = np.array(forces)
    return {"step": 10 * np.arange(1, 1 + len(values)), "energy": values / 4, "forces": values}


def test_parity_shows_every_label_beside_its_prediction(predictions: dict[str, np.ndarray]) -> None:
    figure = parity({"autotune": predictions, "scratch": predictions}, "DFT")
    energy, _, forces, _ = figure.axes
    centre = predictions["energy_label"].mean()
    shown = energy.collections[0].get_offsets()
    expected = np.stack([predictions["energy_label"], predictions["energy"]], axis=1) - centre
    np.testing.assert_allclose(shown, expected)
    shown = forces.collections[0].get_offsets()
    expected = np.stack([predictions[k].ravel() for k in ("forces_label", "forces")], axis=1)
    np.testing.assert_allclose(shown, expected)
    assert [a.get_title() for a in figure.axes] == [
        "autotuned: MAE 25.0 meV",
        "from scratch: MAE 25.0 meV",
        "autotuned: MAE 80.0 meV/Å",
        "from scratch: MAE 80.0 meV/Å",
    ]
    assert forces.get_xlabel() == "DFT force (eV/Å)"


def test_curves_show_validations_the_spread_of_seeds_and_the_start() -> None:
    seeds = [history(200, 100, 90), history(220, 120, 90)]
    start = {"energy": 70.0, "forces": 150.0}
    figure = curves({"autotune": seeds, "scratch": [history(500, 400)]}, start)
    forces, energy = figure.axes
    own, scratch, level = forces.lines
    assert own.get_xdata() == pytest.approx([10, 20, 30])
    assert own.get_ydata() == pytest.approx([210, 110, 90])
    assert scratch.get_ydata() == pytest.approx([500, 400])
    assert set(level.get_ydata()) == {150.0}
    assert level.get_color() == COLOURS["zero-shot"]
    assert energy.lines[0].get_ydata() == pytest.approx([52.5, 27.5, 22.5])
    assert set(energy.lines[2].get_ydata()) == {70.0}
    (band,) = forces.collections
    assert band.get_paths()[0].get_extents().get_points()[:, 1] == pytest.approx([90, 220])
    labels = [text.get_text() for text in forces.get_legend().get_texts()]
    assert labels == ["autotuned", "from scratch", "before any step"]


def test_without_a_start_there_is_no_line_for_it() -> None:
    figure = curves({"pretrain": [history(50)]})
    assert [line.get_label() for line in figure.axes[0].lines] == ["pretrained"]


def test_changes_are_bars_in_percent() -> None:
    (axes,) = changes({"embedding": 0.0, "head": 0.125}).axes
    assert [bar.get_width() for bar in axes.patches] == [0.0, 12.5]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["embedding", "head"]
    assert [t.get_text() for t in axes.texts] == ["0 %", "12 %"]


def test_a_run_without_validations_or_a_start_has_fewer_figures(
    predictions: dict[str, np.ndarray], tmp_path: Path
) -> None:
    report = {"stage": "pretrain", "zero_shot": {}, "transfer": {"changes": {}}}
    names = draw_run(tmp_path, report, {"pretrain": predictions}, {"pretrain": history()})
    assert names == ["parity.png"]
    assert [p.name for p in tmp_path.iterdir()] == names  # no temporary file is left


def test_a_figure_replaces_an_older_one_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("older")
    save(changes({"head": 0.1}), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_run_starts_without_the_figures() -> None:
    folder = Path(transfer.__file__).parent
    for file in folder.glob("*.py"):
        at_once = [n for n in ast.parse(file.read_text()).body if isinstance(n, ast.ImportFrom)]
        names = {n.module for n in at_once} | {a.name for n in at_once for a in n.names}
        assert not any("figures" in str(n) for n in names), file
