"""MD that stops, or keeps frames, where an ensemble is not sure of its forces."""

import json
from dataclasses import replace

import numpy as np
import pytest
from ase.io import read

from schnetpack_tpainn.data.label import label_frames
from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.structures import read_frames
from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md import (
    EnsembleCalculator,
    MDSettings,
    TPaiNNCalculator,
    Uncertainty,
    UncertaintyError,
    run_md,
)
from schnetpack_tpainn.md.uncertainty import Watch
from tests.unit.md.test_md_calculator import resaved

SHORT = MDSettings(duration_ps=0.02, trajectory_interval=4, log_interval=2, restart_interval=10)
N_STEPS = 40


@pytest.fixture(scope="module")
def models(water_model, tmp_path_factory):
    """The model that holds water together, and the same a little stiffer: known deviations."""

    def stiffen(model):
        for module in model.output_modules:
            if hasattr(module, "outnet"):
                module.outnet[-1].weight.data *= 1.02

    return [water_model, resaved(water_model, tmp_path_factory.mktemp("other"), stiffen)]


@pytest.fixture
def calculator(models):
    return EnsembleCalculator(models, device="cpu", dtype="float64")


def largest(calculator, water, tmp_path):
    """Largest deviation at every step of the dynamics."""
    found = []

    class Noting(EnsembleCalculator):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            found.append(self.results["forces_std"].max())

    calculator.__class__ = Noting
    run_md(SHORT, water, calculator, tmp_path / "watched")
    assert len(found) == N_STEPS + 1
    return np.array(found)


def limited(limit, **settings):
    watched = Uncertainty(max_force_std_ev_per_ang=limit, **settings)
    return replace(SHORT, uncertainty=watched)


def test_it_stops_at_the_first_uncertain_frame_and_keeps_the_last_good_one(
    calculator, water, tmp_path
):
    std = largest(calculator, water, tmp_path)
    step = next(s for s in range(4, N_STEPS) if std[s] > 1.01 * std[:s].max())
    limit = (std[:step].max() + std[step]) / 2
    for _ in range(2):  # the second time it goes on from its restart file to the same end
        with pytest.raises(UncertaintyError, match=f"at step {step} of the production") as caught:
            run_md(limited(limit), water, calculator, tmp_path / "md")
        assert caught.value.step == step
        frames = read_frames(tmp_path / "md" / "uncertain.extxyz")
        assert len(frames) == 1
    assert f"{std[step]:.3g} eV/Å (limit {limit:g})" in str(caught.value)
    good = read(tmp_path / "md" / "last_good.extxyz")
    last = good.get_momenta()
    assert np.abs(last).max() > 0
    calculator.calculate(good)
    assert calculator.results["forces_std"].max() == pytest.approx(std[step - 1], rel=1e-3)
    calculator.calculate(frames[0])
    assert calculator.results["forces_std"].max() == pytest.approx(std[step], rel=1e-3)
    report = json.loads((tmp_path / "md" / "report.json").read_text())
    assert (report["status"], report["n_uncertain"]) == ("stopped", 1)
    assert report["reason"] == str(caught.value)


def test_it_flags_frames_that_are_ready_to_label_and_goes_on(calculator, water, tmp_path):
    std = largest(calculator, water, tmp_path)
    limit, spacing = float(np.median(std)), 3
    result = run_md(
        limited(limit, action="flag", spacing=spacing), water, calculator, tmp_path / "md"
    )
    expected, last = [], -spacing
    for step in np.flatnonzero(std > limit):
        if step - last >= spacing:
            expected.append(step)
            last = step
    frames = read_frames(tmp_path / "md" / "uncertain.extxyz")
    assert [frame.info["step"] for frame in frames] == expected
    noted = [frame.info["force_std_ev_per_ang"] for frame in frames]
    np.testing.assert_allclose(noted, std[expected], rtol=1e-6)
    assert all(frame.calc is None for frame in frames)  # a model's forces are no labels
    assert result.n_uncertain == len(expected) > 2
    assert result.survival_ps == pytest.approx(0.02)
    assert not (tmp_path / "md" / "last_good.extxyz").exists()
    node = {"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField"}
    assert label_frames(frames, node, tmp_path / "labels.db", n_workers=1).n_labelled == len(frames)


def test_a_start_that_is_uncertain_has_no_good_frame(calculator, water, tmp_path):
    with pytest.raises(UncertaintyError, match="step 0 of the production") as caught:
        run_md(limited(1e-9), water, calculator, tmp_path / "md")
    assert "last good frame" not in str(caught.value)
    assert not (tmp_path / "md" / "last_good.extxyz").exists()


def test_resuming_cuts_off_frames_after_the_restart_file(water, tmp_path, calculator):
    watch = Watch(Uncertainty(1e-9, "flag", 1), tmp_path)
    water.calc = calculator
    for step in range(5):
        watch.check(water, step, "production")
    assert len(read_frames(watch.frames)) == 5
    again = Watch(watch.settings, tmp_path)
    again.go_on(3, 2, water)
    assert [f.info["step"] for f in read_frames(watch.frames)] == [0, 1, 2]
    again.check(water, 3, "production")
    assert [f.info["step"] for f in read_frames(watch.frames)] == [0, 1, 2, 3]
    again.go_on(0, None, water)
    assert not watch.frames.exists()
    assert not [p.name for p in tmp_path.iterdir() if "tmp" in p.name]


def test_a_limit_without_an_ensemble_is_refused(water_model, water, tmp_path):
    for single in (TPaiNNCalculator(water_model, device="cpu"), RDKitForceField()):
        with pytest.raises(MDError, match=r"expected an ensemble for uncertainty\.max_force_std"):
            run_md(limited(0.1), water, single, tmp_path / "md")
        assert not (tmp_path / "md").exists()
    assert run_md(SHORT, water, RDKitForceField(), tmp_path / "md").n_uncertain is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_force_std_ev_per_ang": 0.0}, "max_force_std_ev_per_ang > 0 or null, got 0"),
        ({"max_force_std_ev_per_ang": float("nan")}, "max_force_std_ev_per_ang > 0 or null"),
        ({"action": "warn"}, "action stop or flag, got 'warn'"),
        ({"spacing": 0}, "spacing >= 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(MDError, match=rf"expected uncertainty\.{message}"):
        Uncertainty(**settings)
