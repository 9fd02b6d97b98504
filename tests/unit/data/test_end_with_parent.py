"""Worker processes end with the program that started them, however that ended."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, time
from joblib import Parallel, delayed
from schnetpack_tpainn.data.parallel import end_with_parent, workers

def work(place):
    end_with_parent()
    end_with_parent()
    open(f"{place}/{os.getpid()}", "w").close()
    time.sleep(120)

if __name__ == "__main__":
    KIND
"""
KINDS = {
    "joblib": "Parallel(n_jobs=2)(delayed(work)('PLACE') for _ in range(2))",
    "workers": "with workers(2) as pool: list(pool.map(work, ['PLACE'] * 2))",
}


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_workers_end_with_a_killed_program(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "pids"
    place.mkdir()
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.replace("KIND", KINDS[kind]).replace("PLACE", str(place)))
    program = subprocess.Popen([sys.executable, script])
    deadline = time.monotonic() + 60
    while len(list(place.iterdir())) < 2:
        assert program.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = [int(file.name) for file in place.iterdir()]
    assert all(map(alive, pids))
    program.kill()
    program.wait()
    while any(map(alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
