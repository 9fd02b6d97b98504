"""Spread independent work over the cores of this machine or over a Dask cluster."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
)
from contextlib import contextmanager
from functools import cache
from typing import Any

from tqdm import tqdm

from schnetpack_tpainn.errors import LabelError

__all__ = ["end_with_parent", "map_items", "n_cores", "workers"]

POLL_SECONDS = 1.0
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def n_cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0))


def _single_threaded() -> dict[str, str | None]:
    """Keep numerical libraries of new processes to one thread; returns what was set before."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    return before


def _restore(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@cache
def end_with_parent() -> None:
    """Let this process end when the one that started it does, even by SIGKILL."""
    threading.Thread(target=_exit_after, args=(os.getppid(),), daemon=True).start()


def _exit_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


@contextmanager
def workers(n_workers: int | None = None, scheduler: str | None = None) -> Iterator[Executor]:
    """Executor over local processes, or over the workers of a Dask scheduler.

    Local processes are spawned: a script that uses this needs ``if __name__ == "__main__":``. They
    end when this process is killed.

    Args:
        n_workers: local processes; all cores when None.
        scheduler: address of a running Dask scheduler (``tcp://host:8786``), or the path of its
            scheduler file; ``n_workers`` is then ignored.

    Yields:
        Executor: a ``concurrent.futures`` executor.

    Raises:
        LabelError: Dask is not installed or its scheduler cannot be reached.
    """
    if scheduler is None:
        before = _single_threaded()
        try:
            if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
                # in a worker of joblib, whose own method no process of ours would know
                multiprocessing.set_start_method("spawn", force=True)
            context = multiprocessing.get_context("spawn")
            n = n_workers or n_cores()
            with ProcessPoolExecutor(n, context, initializer=end_with_parent) as pool:
                yield pool
        finally:
            _restore(before)
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise LabelError(
            "a Dask scheduler needs Dask: pip install 'schnetpack-tpainn[cluster]'"
        ) from error
    where = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
    try:
        client = Client(**where)
    except (OSError, ValueError) as error:
        raise LabelError(
            f"expected a running Dask scheduler at {scheduler}, cannot reach it ({error}); start "
            "one with `dask scheduler`, and workers with `dask worker ADDRESS`"
        ) from error
    with client, client.get_executor() as pool:
        yield pool


def map_items(
    pool: Executor,
    function: Callable[..., Any],
    items: Mapping[str, tuple[Any, ...]],
    description: str,
    unit: str = "it",
) -> Iterator[tuple[str, Any]]:
    """Run ``function(*args)`` for every item and yield results as they come.

    Args:
        pool: executor from :func:`workers`.
        function: importable function.
        items: item name -> positional arguments.
        description: label of the progress bar.
        unit: what the progress bar counts.

    Yields:
        tuple[str, Any]: item name and result, in order of completion. An exception raised by
        ``function`` is raised here, after the work that has not begun is cancelled.

    Raises:
        LabelError: a worker died.
    """
    futures: dict[Future[Any], str] = {pool.submit(function, *a): k for k, a in items.items()}
    left = dict.fromkeys(items)
    try:
        with tqdm(total=len(futures), desc=description, unit=unit, disable=not futures) as bar:
            for future in as_completed(futures):
                result = future.result()
                del left[futures[future]]
                yield futures[future], result
                bar.update()
    except _deaths() as error:
        raise LabelError(
            f"a worker process died while {description} (out of memory, killed, or a crash of the "
            f"engine), with {len(left)} of {len(items)} {unit}s left. What is finished is kept: "
            "run the same again to go on, with fewer workers if memory was short. Likely in "
            f"progress: {', '.join(list(left)[:4])}"
        ) from error
    finally:
        for future in futures:
            future.cancel()


def _deaths() -> tuple[type[BaseException], ...]:
    """What executors raise when a worker dies."""
    try:
        from distributed import KilledWorker
    except ImportError:
        return (BrokenExecutor,)
    return (BrokenExecutor, KilledWorker)
