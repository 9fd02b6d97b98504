"""``tpainn-analyze`` on real dynamics of flexible TIP3P water, as a user calls it."""

import json
import sys

import numpy as np
import pytest
from ase.io import read, write

from schnetpack_tpainn.cli.analyze import main
from schnetpack_tpainn.data.liquid import water_box
from schnetpack_tpainn.md import NVE, NVT, MDSettings, run_md

INTERVAL_FS = 5.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run by ``tpainn-md`` in NVE, the same frames wrapped in another file, and one in NVT."""
    openmm = pytest.importorskip("schnetpack_tpainn.data.openmm")
    pytest.importorskip("openmm")
    folder = tmp_path_factory.mktemp("runs")
    calculator = openmm.OpenMMForceField("tip3p", cutoff_ang=4.5)
    for name, ensemble, duration in (("nve", NVE(), 0.4), ("nvt", NVT(), 0.1)):
        settings = MDSettings(
            ensemble=ensemble,
            duration_ps=duration,
            equilibration_ps=0.1,
            relax_fmax_ev_per_ang=0.5,
            relax_steps=40,
        )
        run_md(settings, water_box(27, 0.95), calculator, folder / name)
    frames = read(folder / "nve" / "trajectory.traj", ":")
    for frame in frames:
        frame.wrap()
        frame.calc = None
    write(folder / "wrapped.extxyz", frames)
    return folder


@pytest.fixture
def analyze(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        status = main(["-o", "analysis", "--fit-from-ps", "0.05", "--every", "2", *words])
        return status, capsys.readouterr()

    return call


def test_two_trajectories_side_by_side(runs, analyze, tmp_path):
    words = [str(runs / "nve"), str(runs / "wrapped.extxyz"), "--label", "run", "--label", "file"]
    status, said = analyze(*words, "--interval-fs", str(INTERVAL_FS))
    assert status == 0, said.err
    folder = tmp_path / "analysis"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["analysis.json", "analysis.md", "analysis.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["analysis"]
    run, file = json.loads((folder / "analysis.json").read_text())["trajectories"]
    report = json.loads((runs / "nve" / "report.json").read_text())
    assert run["n_frames"] == 41
    assert run["interval_fs"] == 2 * INTERVAL_FS
    assert run["molecules"] == {"H2O": 27}
    assert run["density"]["mean"] == pytest.approx(0.95)
    assert run["drift"] == pytest.approx(report["drift"])
    assert run["temperature"]["mean"] == pytest.approx(report["mean_temperature_k"])
    assert run["run"]["survival_ps"] == 0.4
    assert 1 < run["hydrogen_bonds"]["mean"] < 4.5
    assert run["dissociation"]["n_frames"] == 0
    assert run["diffusion"]["H2O"]["d_m2_per_s"] > 0
    assert [one["pair"] for one in run["rdf"]] == ["O-O", "O-H", "H-H"]
    assert 2.5 < run["rdf"][0]["first"]["position_ang"] < 3.1
    for mine, theirs in zip(run["rdf"], file["rdf"], strict=True):
        assert np.allclose(mine["g"], theirs["g"], atol=0.05)
    assert file["diffusion"]["H2O"]["msd_ang2"] == pytest.approx(
        run["diffusion"]["H2O"]["msd_ang2"], rel=1e-4
    )
    assert file["drift"] is None
    text = (folder / "analysis.md").read_text()
    assert "|  | run | file | experiment |" in text
    assert "| density (g/cm³) | 0.95 | 0.95 | 0.99705 |" in text
    assert "0.89 mPa s (experiment, water at 298 K)" in text
    assert "Skinner" in text
    assert "experiment" in said.out
    assert (folder / "analysis.png").read_bytes().startswith(b"\x89PNG")


def test_langevin_friction_is_a_warning(runs, analyze, tmp_path):
    status, said = analyze(str(runs / "nvt"), "--fit-from-ps", "0.01")
    assert status == 0, said.err
    text = (tmp_path / "analysis" / "analysis.md").read_text()
    assert "Langevin friction of 0.01/fs slows H2O down" in text
    assert "energy drift" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{runs}/wrapped.extxyz"], "give --interval-fs"),
        (["{runs}/none"], "expected the output folder of tpainn-md"),
        (["{runs}/nve", "--only", "rdfs"], "did you mean rdf?"),
        (["{runs}/nve", "--pairs", "O-C"], "pairs of the elements ['H', 'O'], got one with C"),
        (["{runs}/nve", "--pairs", "OO"], "expected a pair of elements such as O-H, got OO"),
        (["{runs}/nve", "--only", "rdf", "--r-max-ang", "6"], "at most half the smallest height"),
        (["{runs}/nve", "--only", "rdf", "--n-blocks", "30"], "run longer or skip less"),
        (["{runs}/nvt", "--only", "drift"], "expected an NVE run"),
        (["{runs}/nve", "{runs}/nvt", "--label", "one"], "a --label for each of 2"),
        (["{runs}/nve", "{runs}/nve"], "expected different names"),
        (["{runs}/nve", "--skip-ps", "9"], "got 0 of the 81"),
        (["{runs}/nve", "--viscosity-mpa-s", "-1"], "expected viscosity_mpa_s > 0"),
        (["mixed.extxyz", "--interval-fs", "1"], "the atoms of the first frame (C2H6O)"),
        (["mixed.extxyz", "--interval-fs", "-1"], "a time between frames above 0 fs"),
        (["broken.extxyz", "--interval-fs", "1"], "ASE cannot read frame 0"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(runs, analyze, tmp_path, words, message):
    from ase.build import molecule

    write(tmp_path / "mixed.extxyz", [molecule("CH3CH2OH"), molecule("H2O")])
    (tmp_path / "broken.extxyz").write_text("3\nno frame\nH 0 0\n")
    status, said = analyze(*(word.format(runs=runs) for word in words))
    assert status == 2
    assert message in said.err
    assert said.err.count("\n") == 1 or sys.stderr.isatty()
    assert {path.name for path in tmp_path.iterdir()} == {"mixed.extxyz", "broken.extxyz"}


def test_an_output_that_exists_is_not_written_over(runs, analyze, tmp_path):
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "mine").write_text("kept")
    status, said = analyze(str(runs / "nve"))
    assert status == 2
    assert "never written over" in said.err
    assert (tmp_path / "analysis" / "mine").read_text() == "kept"
