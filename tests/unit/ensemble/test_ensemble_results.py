"""What is made of the members' predictions, and which settings are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schnetpack_tpainn.ensemble.figures import reliability
from schnetpack_tpainn.ensemble.results import calibrate, judge, read_spreads
from schnetpack_tpainn.ensemble.settings import EnsembleSettings
from schnetpack_tpainn.errors import EnsembleError
from schnetpack_tpainn.transfer.ensemble import Calibration

SETTINGS = {
    "directory": "runs/e",
    "members": 3,
    "checkpoints": None,
    "resampling": None,
    "calibration": "crps",
    "parallel": None,
}
SPREAD, ERROR = 0.01, 0.05  # eV, eV/Å


def members(folder: Path, n: int = 3, frames: int = 40, forces: bool = True) -> list[Path]:
    """Runs whose predictions scatter less around their mean than that errs."""
    rng = np.random.default_rng(0)
    label = {"energy": rng.normal(size=frames), "forces": rng.normal(size=(4 * frames, 3))}
    centre = {k: v + ERROR * rng.normal(size=v.shape) for k, v in label.items()}
    found = []
    for k in range(n):
        directory = folder / f"m{k}"
        directory.mkdir()
        content: dict[str, Any] = {"n_atoms": np.full(frames, 4)}
        for key in label if forces else ["energy"]:
            content[key] = centre[key] + SPREAD * rng.normal(size=label[key].shape)
            content[f"{key}_label"] = label[key]
        for part in ("validation", "test"):
            np.savez(directory / f"{part}_predictions.npz", **content)
        found.append(directory)
    return found


def test_spreads_are_those_by_hand(tmp_path: Path) -> None:
    directories = members(tmp_path)
    spreads = read_spreads(directories, "test")
    files = [np.load(d / "test_predictions.npz") for d in directories]
    energies = np.array([f["energy"] for f in files])
    np.testing.assert_allclose(spreads["energy"].std, np.std(energies, axis=0, ddof=1))
    np.testing.assert_allclose(
        spreads["energy"].error, energies.mean(axis=0) - files[0]["energy_label"]
    )
    forces = np.array([f["forces"] for f in files])
    atom = forces[:, 5]  # (3, 3)
    by_hand = np.sqrt(np.sum((atom - atom.mean(axis=0)) ** 2) / 2 / 3)
    np.testing.assert_allclose(spreads["forces"].std[15:18], by_hand)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned = (atom @ turn).var(axis=0, ddof=1).mean() ** 0.5
    assert turned == pytest.approx(by_hand)  # however the molecule lies


def test_calibration_mends_what_it_is_fitted_to(tmp_path: Path) -> None:
    directories = members(tmp_path, n=8, frames=400)
    spreads = read_spreads(directories, "validation")
    calibration = calibrate(spreads, "crps")
    expected = np.sqrt(ERROR**2 + SPREAD**2 / 8) / SPREAD
    assert calibration.energy == pytest.approx(expected, rel=0.1)
    assert calibration.forces == pytest.approx(expected, rel=0.1)
    assert calibration.n_frames == 400
    for judged in judge(read_spreads(directories, "test"), calibration).values():
        area, share = judged["miscalibration_area"], judged["within_1_std"]
        assert area["before"] > 0.3
        assert area["after"] < 0.05
        assert share["before"] < 0.2
        assert share["after"] == pytest.approx(0.68, abs=0.06)
        assert judged["std"] == pytest.approx(judged["rmse"], rel=0.15)


def test_energies_alone(tmp_path: Path) -> None:
    spreads = read_spreads(members(tmp_path, forces=False), "validation")
    assert set(spreads) == {"energy"}
    calibration = calibrate(spreads, "nll")
    assert calibration.forces is None
    assert calibration.of_forces == calibration.energy
    assert len(reliability(spreads, calibration).axes) == 2


def test_the_figure_shows_both_before_and_after(tmp_path: Path) -> None:
    spreads = read_spreads(members(tmp_path), "test")
    figure = reliability(spreads, Calibration(5.0, 5.0, "crps", 40))
    assert len(figure.axes) == 4
    figure.savefig(tmp_path / "a.png")
    for axes in figure.axes[::2]:
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert [t.split(",")[0] for t in texts] == ["before", "calibrated"]
        areas = [float(t.rpartition(" ")[2]) for t in texts]
        assert areas[0] > areas[1]


def test_members_with_other_frames_are_refused(tmp_path: Path) -> None:
    directories = members(tmp_path)
    path = directories[1] / "test_predictions.npz"
    content = dict(np.load(path))
    np.savez(path, **{**content, "energy_label": content["energy_label"] + 0.1})
    with pytest.raises(EnsembleError, match=r"same test frames, got others in .*m1 than in .*m0"):
        read_spreads(directories, "test")
    path.unlink()
    with pytest.raises(EnsembleError, match=r"expected .*m1/test_predictions\.npz, got no such"):
        read_spreads(directories, "test")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("members", 1, r"ensemble\.members of 2 or more, got 1"),
        ("members", None, r"ensemble\.members of 2 or more, got None"),
        ("parallel", 0, r"ensemble\.parallel of 1 or more, or null, got 0"),
        ("checkpoints", [], r"different pretrained models, or null, .*checkpoints, got \[\]"),
        ("checkpoints", "a", r"list of different pretrained models.*, got a"),
        ("checkpoints", ["a", "a"], r"list of different pretrained models"),
        ("calibration", "mse", r"ensemble\.calibration crps or nll, got 'mse'"),
        ("member", 4, r"got member; did you mean members\?"),
    ],
)
def test_bad_settings_are_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        EnsembleSettings.read({**SETTINGS, key: value})


def test_settings_are_read() -> None:
    settings = EnsembleSettings.read(SETTINGS)
    assert settings.directory == Path.cwd() / "runs/e"
    assert settings.members == 3
