"""A run that is killed and resumed gives what an unbroken one gives."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.io.trajectory import TrajectoryReader, TrajectoryWriter

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.md import NPT, NVE, NVT, MDSettings, TPaiNNCalculator, run_md

COMMON = {"trajectory_interval": 2, "log_interval": 1, "restart_interval": 70}


def run(case, model, output):
    """One of the cases; called here and in the process that is killed."""
    if case == "model":
        settings = MDSettings(ensemble=NVE(), duration_ps=0.2, equilibration_ps=0.05, **COMMON)
        return run_md(settings, embed_smiles("O"), TPaiNNCalculator(model, device="cpu"), output)
    if case.startswith("npt"):
        ensemble = NPT(pressure_gpa=1, barostat_time_fs=30, isotropic=case == "npt isotropic")
        settings = MDSettings(ensemble=ensemble, duration_ps=0.3, equilibration_ps=0.05, **COMMON)
        box = embed_smiles("O")
        box.set_cell([[6.0, 0, 0], [1, 6, 0], [0, 1, 6]])
        box.pbc = True
        calculator = TPaiNNCalculator(model, device="cpu", stress=True)
        return run_md(settings, box, calculator, output)
    if case == "early":
        intervals = COMMON | {"restart_interval": 10**6}
        settings = MDSettings(ensemble=NVE(), duration_ps=2, equilibration_ps=0.01, **intervals)
        return run_md(settings, embed_smiles("CCO"), RDKitForceField(), output)
    settings = MDSettings(
        ensemble=NVT(), duration_ps=0.4, equilibration_ps=0.4, relax_fmax_ev_per_ang=0.1, **COMMON
    )
    return run_md(settings, embed_smiles("CCO"), RDKitForceField(), output)


def kill_in(case, model, output, phase, step=1):
    """Run in a process of its own, and kill -9 it after a restart file of a phase and step."""
    script = f"import test_md_resume as t; t.run({case!r}, {str(model)!r}, {str(output)!r})"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parent)
    restart, limit = output / "restart.npz", time.monotonic() + 60
    try:
        while process.poll() is None and time.monotonic() < limit:
            if restart.exists():
                with np.load(restart) as file:
                    state = json.loads(str(file["scalars"]))
                if state["phase"] == phase and state["step"] >= step:
                    break
            time.sleep(0.001)
        time.sleep(0.03)  # some steps beyond the restart file
    finally:
        process.kill()
    assert process.wait() == -9, "the run ended before it was killed"


def leave_rubbish(output):
    """What a kill may leave behind the restart file: frames and half a line."""
    with TrajectoryReader(output / "trajectory.traj") as frames:
        last = frames[-1]
    with TrajectoryWriter(output / "trajectory.traj", "a") as frames:
        frames.write(last)
    with (output / "log.csv").open("a") as file:
        file.write("1.5,3")


@pytest.mark.parametrize(
    ("case", "phases"),
    [
        ("model", {"production": 1}),
        ("npt isotropic", {"production": 1}),
        ("npt", {"equilibration": 1, "production": 1}),
        ("mmff94", {"equilibration": 1, "production": 1}),
        ("early", {"production": 0}),
    ],
)
def test_killed_run_goes_on_as_if_unbroken(case, phases, request, tmp_path):
    model = request.getfixturevalue("water_model") if case not in ("mmff94", "early") else None
    for phase, step in phases.items():
        kill_in(case, model, tmp_path / "killed", phase, step)
    leave_rubbish(tmp_path / "killed")
    resumed, unbroken = run(case, model, tmp_path / "killed"), run(case, model, tmp_path / "whole")
    assert resumed.log.read_bytes() == unbroken.log.read_bytes()
    assert resumed.drift == unbroken.drift
    with TrajectoryReader(resumed.trajectory) as a, TrajectoryReader(unbroken.trajectory) as b:
        assert len(a) == len(b)
        for i in range(len(b)):
            x, y = a[i], b[i]
            np.testing.assert_array_equal(x.positions, y.positions)
            np.testing.assert_array_equal(x.cell, y.cell)
            np.testing.assert_array_equal(x.get_momenta(), y.get_momenta())
            np.testing.assert_array_equal(x.get_forces(), y.get_forces())
            assert x.get_potential_energy() == y.get_potential_energy()
