"""Sampling that is killed and resumed gives the frames of an unbroken run."""

import sys
from pathlib import Path

import pytest
from ase.db import connect
from killing import contents, kill_after, run

from schnetpack_tpainn.data.sampling import MDSampler

SCRIPT = """
import sys
from schnetpack_tpainn.data.sampling import MDSampler

if __name__ == "__main__":
    MDSampler(
        structures=["CCO", "CO"],
        calculator={"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField"},
        n_frames=60,
        temperatures_k=[300, 600],
        n_trajectories=4,
        interval_fs=20.0,
        equilibration_fs=100.0,
        seed=int(sys.argv[2]),
        n_workers=2,
    ).make(sys.argv[1])
"""


@pytest.mark.slow
def test_killed_sampling_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    script = tmp_path / "sample.py"
    script.write_text(SCRIPT)
    killed, unbroken = tmp_path / "killed.db", tmp_path / "unbroken.db"
    command = [sys.executable, script, killed, "7"]
    partial = tmp_path / "killed.db.partial"
    assert kill_after(command, partial, 1) < 60
    status, _, err = run(command)
    assert status == 0, err
    assert run([*command[:2], unbroken, "7"])[0] == 0
    assert contents(killed) == contents(unbroken)
    assert len(contents(killed)) == 60
    with connect(killed) as a, connect(unbroken) as b:
        assert a.metadata == b.metadata


def test_dask_gives_what_local_processes_give(tmp_path: Path) -> None:
    import distributed

    def make(name: str, **where) -> list[dict]:
        sampler = MDSampler(
            ["CCO"],
            {"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField"},
            n_frames=12,
            n_trajectories=2,
            interval_fs=5.0,
            equilibration_fs=5.0,
            **where,
        )
        return contents(sampler.make(tmp_path / name))

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, dashboard_address=None
    ) as cluster:
        dask = make("dask.db", scheduler=cluster.scheduler_address)
    assert dask == make("local.db", n_workers=1)
