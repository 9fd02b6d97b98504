"""``tpainn-md`` as a user calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import schnetpack as spk
import torch
from ase.io.trajectory import TrajectoryReader
from schnetpack.transform import CastTo64

from schnetpack_tpainn.cli.md import main

COMMAND = str(Path(sys.executable).with_name("tpainn-md"))
MMFF94 = "{_target_: schnetpack_tpainn.data.rdkit.RDKitForceField}"
RDKIT = (f"calculator={MMFF94}", "structure=O")


@pytest.fixture
def tpainn_md(tmp_path, monkeypatch):
    """The command inside this process: importing torch again and again would cost seconds."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides):
        monkeypatch.setattr(sys, "argv", ["tpainn-md", *overrides])
        main()

    return call


@pytest.fixture
def model(tmp_path):
    """A stock PaiNN as SchNetPack's training leaves it."""
    torch.manual_seed(0)
    potential = spk.model.NeuralNetworkPotential(
        spk.representation.PaiNN(
            n_atom_basis=16,
            n_interactions=1,
            radial_basis=spk.nn.GaussianRBF(8, 5.0),
            cutoff_fn=spk.nn.CosineCutoff(5.0),
        ),
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=[spk.atomistic.Atomwise(16, output_key="energy"), spk.atomistic.Forces()],
        postprocessors=[CastTo64()],
    )
    folder = tmp_path / "runs" / "trained"
    folder.mkdir(parents=True)
    torch.save(potential, folder / "best_model")
    return "runs/trained/best_model"


def test_model_from_the_command_line(model, tmp_path, tpainn_md, capsys):
    arguments = (
        f"model={model}",
        "structure=CCO",
        "ensemble=tpainn_nvt",
        "ensemble.friction_per_fs=0.05",
        "duration_ps=0.02",
        "output=runs/md",
        f"compare.calculator={MMFF94}",
        "compare.n_frames=2",
    )
    done = subprocess.run(
        [COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "force MAE (meV/Å)" in done.stdout
    output = tmp_path / "runs" / "md"
    report = json.loads((output / "report.json").read_text())
    assert report["status"] == "finished"
    assert report["run"]["ensemble"] == {"name": "NVT", "friction_per_fs": 0.05}
    assert len(report["run"]["model_sha256"]) == 64
    comparison = json.loads((output / "comparison.json").read_text())
    assert comparison["n_frames"] == 2
    assert comparison["force_rmse_mev_per_ang"] > 0
    with TrajectoryReader(output / "trajectory.traj") as frames:
        assert len(frames) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]  # nothing strewn about

    tpainn_md(*arguments)
    again = capsys.readouterr().out
    assert "is finished; its result is read" in again
    tables = [[t for t in said.splitlines() if "│" in t] for said in (again, done.stdout)]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 7
    with pytest.raises(SystemExit, match=r"holds a run with other settings .seed: expected 1"):
        tpainn_md(*arguments, "seed=1")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model=no/best_model", "structure=CCO"],
            "expected a SchNetPack model, got no/best_model",
        ),
        (["structure=CCO"], "expected either model=<best_model> or calculator="),
        ([f"calculator={MMFF94}"], "tpainn-md: expected structure="),
        (
            [*RDKIT, "ensemble=tpainn_nvt", "ensemble.friction_per_fs=-1"],
            "tpainn-md: expected friction_per_fs > 0, got -1",
        ),
    ],
    ids=["model", "no model", "no structure", "ensemble"],
)
def test_mistakes_are_explained(tmp_path, tpainn_md, capsys, overrides, message):
    with pytest.raises(SystemExit) as stopped:
        tpainn_md(*overrides)
    said = f"{stopped.value.code} {capsys.readouterr().err}"
    assert stopped.value.code != 0
    assert message in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ensemble=tpainn_nph", "tpainn_npt\n\ttpainn_npt_mtk\n\ttpainn_nve\n\ttpainn_nvt"),
        ("timestep=1", "Could not override 'timestep'"),
    ],
)
def test_unknown_names_are_explained(tmp_path, override, message):
    # Hydra takes the tracer of a coverage run for a debugger, and then shows the whole traceback
    env = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    failed = subprocess.run(
        [COMMAND, override], cwd=tmp_path, capture_output=True, text=True, env=env
    )
    assert failed.returncode != 0
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr
