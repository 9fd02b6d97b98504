"""`tpainn-label` as a user runs it: killed and resumed, with failures, on a Dask cluster."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import ase.io
import pytest
from ase.build import molecule
from ase.db import connect
from killing import HERE, contents, count, kill_after, run, start

TPAINN_LABEL = Path(sys.executable).with_name("tpainn-label")
LJ = ("--calculator", "ase.calculators.lj.LennardJones")


def structures(path: Path, n: int = 30) -> Path:
    frames = []
    for i in range(n):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.05, seed=i)
        atoms.info["origin"] = i
        frames.append(atoms)
    ase.io.write(path, frames)
    return path


@pytest.mark.slow
def test_killed_labelling_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    frames = structures(tmp_path / "frames.extxyz")
    killed, unbroken = tmp_path / "killed.db", tmp_path / "unbroken.db"
    slow = ("--calculator", "engines.SlowLJ", "seconds=0.2", "--workers", "2")
    command = [TPAINN_LABEL, frames, "-o", killed, *slow]
    partial = tmp_path / "killed.db.partial"
    first = kill_after(command, partial, 4)
    second = kill_after(command, partial, first + 4)
    assert second < 30
    status, out, err = run(command)
    assert status == 0, err
    assert f"resuming: {second} of 30" in err
    assert "30 frames labelled" in out
    assert run([TPAINN_LABEL, frames, "-o", unbroken, *slow])[0] == 0
    assert contents(killed) == contents(unbroken)
    assert [frame["origin"] for frame in contents(killed)] == list(range(30))
    assert not partial.exists()


def test_other_frames_do_not_get_into_killed_work(tmp_path: Path) -> None:
    command = [TPAINN_LABEL, structures(tmp_path / "a.extxyz"), "-o", tmp_path / "x.db"]
    slow = ("--calculator", "engines.SlowLJ", "seconds=0.05", "--workers", "1")
    kill_after([*command, *slow], tmp_path / "x.db.partial", 2)
    command[1] = structures(tmp_path / "b.extxyz", 31)
    status, _, err = run([*command, *slow])
    assert status == 2
    assert "begun with other settings" in err


def test_failed_frames_are_shown_and_kept(tmp_path: Path) -> None:
    good, bad = molecule("H2O"), molecule("H2O", vacuum=3.0, pbc=True)
    ase.io.write(tmp_path / "frames.extxyz", [good, bad, good])
    status, out, _ = run(
        [
            *(TPAINN_LABEL, tmp_path / "frames.extxyz", "-o", tmp_path / "x.db"),
            *("--calculator", "pyscf", "xc=pbe", "basis=sto-3g", "conv_tol=1e-7"),
            *("--atomrefs", "--workers", "1"),
        ]
    )
    assert status == 1
    assert "1 frames failed" in out
    assert "x.failed.extxyz" in out
    assert "periodic" in ase.io.read(tmp_path / "x.failed.extxyz").info["error"]
    with connect(tmp_path / "x.db") as db:
        assert len(db) == 2
        atomrefs = db.metadata["atomrefs"]["energy"]
        assert db.metadata["calculator"]["conv_tol"] == 1e-7
        binding = db.get(1).data["energy"][0] - 2 * atomrefs[1] - atomrefs[8]
    assert -12 < binding < -6  # 10.1 eV in nature, a minimal basis here


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    frames = structures(tmp_path / "frames.extxyz")
    slow = ("--calculator", "engines.SlowLJ", "seconds=0.05", "--workers", "2")
    process = start([TPAINN_LABEL, frames, "-o", tmp_path / "x.db", *slow])
    limit = time.monotonic() + 60
    try:
        while count(tmp_path / "x.db.partial") < 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < limit, "too slow"
            time.sleep(0.01)
        process.kill()  # the parent alone
        process.communicate(timeout=20)  # returns when no process holds its output any more
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_worker_that_dies_is_reported_and_work_goes_on(tmp_path: Path) -> None:
    names = ["H2O"] * 5 + ["CO"] + ["CH4"] * 5
    ase.io.write(tmp_path / "frames.extxyz", [molecule(name) for name in names])
    command = [
        *(TPAINN_LABEL, tmp_path / "frames.extxyz", "-o", tmp_path / "x.db", "--workers", "1"),
        *("--calculator", "engines.DeadlyLJ", f"tally={tmp_path / 'died'}"),
    ]
    status, _, err = run(command)
    assert status == 2
    assert "a worker process died" in err
    assert "frame-0000005" in err
    assert "run the same again" in err
    assert not (tmp_path / "x.db").exists()
    status, _, err = run(command)
    assert status == 0, err
    assert "resuming: 5 of 11" in err
    assert len(contents(tmp_path / "x.db")) == 11


def test_a_dask_cluster_gives_what_local_processes_give(tmp_path: Path, monkeypatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    frames = structures(tmp_path / "frames.extxyz", 12)
    mmff = ("--calculator", "rdkit", "force_field=MMFF94")
    command = [TPAINN_LABEL, frames, *mmff, "-o"]
    assert run([*command, tmp_path / "local.db", "--workers", "1"])[0] == 0
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=3, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        status, _, err = run([*command, tmp_path / "dask.db", "--scheduler", address])
        assert status == 0, err
    assert contents(tmp_path / "dask.db") == contents(tmp_path / "local.db")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["no.xyz", "-o", "new.db", *LJ], "no.xyz does not exist"),
        (["no.xyz@:5", "-o", "new.db", *LJ], "no.xyz does not exist"),
        (["a.xyz@9", "-o", "new.db", *LJ], "expected FILE@START:STOP:STEP, got a.xyz@9"),
        (["broken.xyz", "-o", "new.db", *LJ], "ASE cannot read structures from broken.xyz"),
        (["a.xyz", "-o", "old.db", *LJ], "never written over"),
        (["a.xyz", "-o", "new.xyz", *LJ], "ending in '.db'"),
        (["a.xyz", "-o", "new.db", *LJ, "sigma"], "expected KEY=VALUE"),
        (["a.xyz", "-o", "new.db", "-c", "pyscf", "xcc=pbe"], "cannot build the ASE calculator"),
        (["a.xyz", "-o", "new.db", *LJ, "--atomrefs"], "gives no isolated-atom energies"),
        (["a.xyz", "-o", "new.db", "-c", "no.yaml"], "no.yaml does not exist"),
        (["a.xyz", "-o", "new.db", "-c", "empty.yaml"], "expected `_target_"),
        (["a.xyz", "-o", "new.db", *LJ, "-s", "no-address"], "expected a running Dask scheduler"),
    ],
)
def test_errors_of_use(tmp_path: Path, monkeypatch, capsys, words: list[str], match: str) -> None:
    from schnetpack_tpainn.cli.label import main

    monkeypatch.chdir(tmp_path)
    ase.io.write("a.xyz", molecule("H2O"))
    Path("broken.xyz").write_text("what?")
    Path("empty.yaml").write_text("sigma: 1.0")
    Path("old.db").touch()
    assert main(words) == 2
    assert match in capsys.readouterr().err
    assert not Path("new.db").exists()


def test_calculators_from_yaml_and_nested_arguments(tmp_path: Path) -> None:
    from schnetpack_tpainn.cli.label import calculator_node

    file = tmp_path / "lj.yaml"
    file.write_text("_target_: ase.calculators.lj.LennardJones\nsigma: 2.5\n")
    node = calculator_node([str(file), "epsilon=1e-2", "a.b=[1,2]"])
    assert node == {
        "_target_": "ase.calculators.lj.LennardJones",
        "sigma": 2.5,
        "epsilon": 0.01,
        "a": {"b": [1, 2]},
    }


def test_some_frames_of_a_database_with_their_key_value_pairs(tmp_path: Path) -> None:
    with connect(tmp_path / "a.db") as db:
        for i in range(6):
            db.write(molecule("H2O"), number=i)
    source = f"{tmp_path / 'a.db'}@1:5:2"
    status, _, err = run([TPAINN_LABEL, source, "-o", tmp_path / "b.db", "-w", "1", *LJ])
    assert status == 0, err
    assert [frame["number"] for frame in contents(tmp_path / "b.db")] == [1, 3]


def test_help_shows_an_example(capsys) -> None:
    from schnetpack_tpainn.cli.label import main

    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    assert "tpainn-label frames.extxyz -o labels.db --calculator" in capsys.readouterr().out
