"""Start a command, wait until it has done some work, and kill it with all its processes."""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.db import connect

HERE = Path(__file__).parent


def count(partial: Path) -> int:
    """Frames in a partial file; none while it is being created."""
    try:
        with sqlite3.connect(f"file:{partial}?mode=ro", uri=True, timeout=20) as db:
            return db.execute("SELECT COUNT(*) FROM systems").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def kill_after(command: Sequence[str | Path], partial: Path, n_frames: int) -> int:
    """Kill -9 a command once `n_frames` are stored; returns how many were in the end."""
    process = start(command)
    deadline = time.monotonic() + 60
    while count(partial) < n_frames:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "too slow"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return count(partial)


def start(command: Sequence[str | Path]) -> subprocess.Popen:
    """A command in a process group of its own, to which the engines of this folder are known."""
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    return subprocess.Popen(
        command,
        env=env,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(command: Sequence[str | Path]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    process = start(command)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def contents(path: Path) -> list[dict[str, Any]]:
    """Everything a database says about its frames, in order."""
    with connect(path, use_lock_file=False) as db:
        return [
            {
                "numbers": row.numbers.tolist(),
                "positions": row.positions.tolist(),
                "energy": row.data["energy"].tolist(),
                "forces": np.asarray(row.data["forces"]).tolist(),
                **row.key_value_pairs,
            }
            for row in db.select()
        ]
