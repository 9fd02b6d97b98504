import json
from dataclasses import replace

import numpy as np
import pytest
from ase.constraints import FixAtoms
from ase.io.trajectory import TrajectoryReader

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md import (
    NVE,
    ExplosionError,
    Limits,
    MDSettings,
    TPaiNNCalculator,
    read_log,
    run_md,
)

SHORT = MDSettings(duration_ps=0.02, trajectory_interval=4, log_interval=2, restart_interval=10)


def test_model_conserves_energy(water_model, water, tmp_path):
    settings = MDSettings(duration_ps=0.25, timestep_fs=0.25, equilibration_ps=0.05)
    result = run_md(settings, water, TPaiNNCalculator(water_model), tmp_path / "md")
    columns = read_log(result.log)
    assert columns["epot_ev"].std() > 5e-3  # it moves
    assert abs(result.drift.slope_mev_per_atom_per_ps) < 0.5
    assert result.drift.rms_mev_per_atom < 0.1
    assert result.steps_per_s > 1
    assert result.survival_ps == pytest.approx(0.25)
    np.testing.assert_allclose(columns["etot_ev"], columns["epot_ev"] + columns["ekin_ev"])
    np.testing.assert_allclose(np.diff(columns["time_fs"]), 1.25)


def test_fluctuation_of_the_energy_is_of_second_order(water, tmp_path):
    rms = []
    for timestep in (1.0, 0.5, 0.25):
        settings = MDSettings(duration_ps=0.2, timestep_fs=timestep, log_interval=1, seed=2)
        output = tmp_path / str(timestep)
        rms.append(run_md(settings, water, RDKitForceField(), output).drift.rms_mev_per_atom)
    assert rms[0] / rms[1] == pytest.approx(4, rel=0.15)
    assert rms[1] / rms[2] == pytest.approx(4, rel=0.15)


def test_outputs(ethanol, tmp_path):
    result = run_md(SHORT, ethanol, RDKitForceField(), tmp_path / "md", {"note": "mine"})
    with TrajectoryReader(result.trajectory) as frames:
        assert len(frames) == 11
        frame = frames[10]
    last = {name: column[-1] for name, column in read_log(result.log).items()}
    assert last["time_fs"] == 20
    assert frame.get_potential_energy() == last["epot_ev"]
    assert frame.get_kinetic_energy() == pytest.approx(last["ekin_ev"])
    largest = np.linalg.norm(frame.get_forces(), axis=1).max()
    assert largest == pytest.approx(last["max_force_ev_per_ang"])
    assert frame.get_potential_energy() == RDKitForceField().get_potential_energy(frame)
    assert result.figure.read_bytes().startswith(b"\x89PNG")
    report = json.loads(result.report.read_text())
    assert report["status"] == "finished"
    assert report["degrees_of_freedom"] == 21
    assert report["run"]["note"] == "mine"
    assert report["versions"]["ase"]
    assert not [p.name for p in result.folder.iterdir() if "tmp" in p.name]


def test_seed_decides(ethanol, tmp_path):
    logs = [
        run_md(replace(SHORT, seed=seed), ethanol, RDKitForceField(), tmp_path / name).log
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert logs[0].read_bytes() == logs[1].read_bytes()
    assert logs[0].read_bytes() != logs[2].read_bytes()


def test_relaxation_comes_first(ethanol, tmp_path):
    rattled = ethanol.copy()
    rattled.rattle(0.05, seed=0)
    settings = replace(SHORT, relax_fmax_ev_per_ang=0.02)
    result = run_md(settings, rattled, RDKitForceField(), tmp_path / "md")
    assert read_log(result.log)["max_force_ev_per_ang"][0] <= 0.02


def test_finished_run_is_read_and_other_settings_are_refused(ethanol, tmp_path):
    output = tmp_path / "md"
    first = run_md(SHORT, ethanol, RDKitForceField(), output)
    before = {p: p.stat().st_mtime_ns for p in output.iterdir()}
    assert run_md(SHORT, ethanol, RDKitForceField(), output) == first
    assert {p: p.stat().st_mtime_ns for p in output.iterdir()} == before
    with pytest.raises(MDError, match=r"other settings .seed: expected 5, got 0."):
        run_md(replace(SHORT, seed=5), ethanol, RDKitForceField(), output)
    moved = ethanol.copy()
    moved.positions[0, 0] += 0.01
    with pytest.raises(MDError, match=r"other settings .structure"):
        run_md(SHORT, moved, RDKitForceField(), output)


def test_foreign_folder_is_refused(ethanol, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(MDError, match="with other files; choose another"):
        run_md(SHORT, ethanol, RDKitForceField(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_explosion_is_named_and_what_was_before_is_kept(ethanol, tmp_path):
    settings = replace(SHORT, timestep_fs=6.0, duration_ps=3.0, log_interval=1)
    with pytest.raises(ExplosionError, match=r"C2H6O blew up at step \d+ of the prod") as caught:
        run_md(settings, ethanol, RDKitForceField(), tmp_path / "md")
    assert f"step {caught.value.step} " in str(caught.value)
    report = json.loads((tmp_path / "md" / "report.json").read_text())
    assert report["status"] == "stopped"
    assert report["reason"] == str(caught.value)
    assert report["survival_ps"] == pytest.approx(caught.value.step * 0.006)
    columns = read_log(tmp_path / "md" / "log.csv")
    assert len(columns["time_fs"]) == caught.value.step
    assert columns["max_force_ev_per_ang"].max() <= 100
    with TrajectoryReader(tmp_path / "md" / "trajectory.traj") as frames:
        assert len(frames) == (caught.value.step - 1) // 4 + 1
    assert (tmp_path / "md" / "energy.png").is_file()


def test_explosion_while_equilibrating(ethanol, tmp_path):
    limits = Limits(max_temperature_k=301.0)
    settings = replace(SHORT, equilibration_ps=1.0, limits=limits)
    with pytest.raises(ExplosionError, match="of the equilibration: the temperature is"):
        run_md(settings, ethanol, RDKitForceField(), tmp_path / "md")
    report = json.loads((tmp_path / "md" / "report.json").read_text())
    assert report["survival_ps"] == 0


def test_structures_that_cannot_be_run_are_refused(ethanol, tmp_path):
    with pytest.raises(MDError, match="at least two atoms, got 1"):
        run_md(SHORT, ethanol[:1], RDKitForceField(), tmp_path / "md")
    fixed = ethanol.copy()
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(MDError, match="without constraints"):
        run_md(SHORT, fixed, RDKitForceField(), tmp_path / "md")
    in_nm = ethanol.copy()
    in_nm.positions /= 10
    with pytest.raises(MDError, match=r"start structure are 0\.0.* Å apart"):
        run_md(SHORT, in_nm, RDKitForceField(), tmp_path / "md")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ensemble", "nve"),
        ("ensemble", NVE),
        ("duration_ps", 0.0),
        ("duration_ps", 1e-5),
        ("timestep_fs", -1.0),
        ("temperature_k", float("nan")),
        ("temperature_k", 6000.0),
        ("equilibration_ps", -1.0),
        ("relax_fmax_ev_per_ang", 0.0),
        ("log_interval", 0),
    ],
)
def test_bad_settings_are_refused(key, value):
    with pytest.raises(MDError, match=f"expected {key}.* got"):
        MDSettings(**{key: value})
