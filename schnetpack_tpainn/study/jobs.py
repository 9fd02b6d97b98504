"""Run `spktrain` jobs side by side on one machine."""

import csv
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from schnetpack_tpainn.data.parallel import end_with_parent, n_cores
from schnetpack_tpainn.errors import TPaiNNError
from schnetpack_tpainn.files import write_json
from schnetpack_tpainn.transfer.runs import REPORT_NAME

__all__ = ["Job", "claim_jobs", "run_jobs", "train", "validation_interval"]

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
JOBS_NAME = "jobs.json"


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        directory: the run directory.
        overrides: Hydra overrides, ``experiment=...`` first.
        steps: optimiser steps, for the progress bar.
    """

    directory: Path
    overrides: tuple[str, ...]
    steps: int

    @property
    def finished(self) -> bool:
        """Whether the run has its report."""
        return (self.directory / REPORT_NAME).is_file()

    def progress(self) -> int:
        """Optimiser steps done, as far as Lightning's CSV logger has written them."""
        if self.finished:
            return self.steps
        done = 0
        for file in self.directory.glob("csv/version_*/metrics.csv"):
            with file.open(newline="") as lines:
                done = max([done, *(int(row["step"] or 0) for row in csv.DictReader(lines))])
        return min(done, self.steps)

    def command(self) -> list[str]:
        """The command line, without threads and log file."""
        place = [f"run.path={self.directory.parent}", f"run.id={self.directory.name}"]
        code = "from schnetpack_tpainn.study.jobs import train; train()"
        return [sys.executable, "-c", code, *self.overrides, *place]


def claim_jobs(
    directory: Path,
    jobs: Sequence[Job],
    option: str = "--directory",
    error: type[TPaiNNError] = TPaiNNError,
) -> None:
    """Remember the overrides of runs, and refuse those that an earlier call ran otherwise.

    Args:
        directory: what all runs lie below; it exists.
        jobs: the runs.
        option: what sets the directory, for messages.
        error: class of the error.

    Raises:
        TPaiNNError: a run of the same name has other overrides.
    """
    path = directory / JOBS_NAME
    known: dict[str, list[str]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for job in jobs:
        name = str(job.directory.relative_to(directory))
        wanted = list(job.overrides)
        if not job.directory.exists():
            known[name] = wanted
        if known.setdefault(name, wanted) != wanted:
            changes = sorted(set(known[name]) ^ set(wanted))
            raise error(
                f"{job.directory} was run with other overrides ({', '.join(changes)}); restore "
                f"them, delete it, or choose another {option}"
            )
    write_json(path, known)


def validation_interval(steps: int, parts: int) -> int:
    """Longest validation interval that divides the steps into so many parts or more.

    Args:
        steps: optimiser steps.
        parts: fewest parts.

    Returns:
        Steps between validations.
    """
    return next(d for d in range(max(1, steps // parts), 0, -1) if steps % d == 0)


def train() -> None:
    """SchNetPack's training, which ends when the process that started it does, even by SIGKILL."""
    end_with_parent()
    from schnetpack.cli import train

    train()


def _run(job: Job, threads: int, cwd: Path, processes: list[subprocess.Popen]) -> None:
    if job.finished:
        log.info("finished before: %s", job.directory)
        return
    log_file = job.directory.with_name(f"{job.directory.name}.log")
    log_file.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with log_file.open("a") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            job.command(), stdout=output, stderr=subprocess.STDOUT, env=env, cwd=cwd
        )
        processes.append(process)
        code = process.wait()
    if code != 0 or not job.finished:
        tail = "\n".join(log_file.read_text(errors="replace").splitlines()[-15:])
        raise TPaiNNError(
            f"training in {job.directory} ended with status {code}; the end of {log_file}:\n{tail}"
        )


def _watch(jobs: Sequence[Job], futures: Sequence[Future[None]]) -> None:
    """Show the steps done until every job is, or one failed."""
    pending = set(futures)
    with tqdm(total=sum(job.steps for job in jobs), unit="step", disable=not pending) as bar:
        while pending:
            done, pending = wait(pending, timeout=POLL_SECONDS)
            for future in done:
                future.result()
            bar.update(sum(job.progress() for job in jobs) - bar.n)


def run_jobs(jobs: Sequence[Job], cwd: str | Path = ".", parallel: int | None = None) -> None:
    """Run training jobs, those that are finished left out, those that were killed resumed.

    Args:
        jobs: the jobs; they do not depend on each other.
        cwd: working directory, where ``data/`` lies.
        parallel: jobs at once; as many as there are cores when None. The cores are shared out.

    Raises:
        TPaiNNError: a job failed; the others are ended first and can be resumed.
    """
    parallel = parallel or n_cores()
    threads = max(1, n_cores() // parallel)
    processes: list[subprocess.Popen] = []
    failed = threading.Event()

    def work(job: Job) -> None:
        if not failed.is_set():
            _run(job, threads, Path(cwd), processes)

    with ThreadPoolExecutor(parallel) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            _watch(jobs, futures)
        except BaseException:
            failed.set()
            for process in processes:
                process.terminate()
            raise
