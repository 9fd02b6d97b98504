"""Spread independent work over the cores of this machine or over a Dask cluster."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

__all__ = ["map_items", "n_cores", "workers"]


def n_cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0))


def _single_threaded() -> None:
    """Keep numerical libraries to one thread per worker process."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"


@contextmanager
def workers(n_workers: int | None = None, scheduler: str | None = None) -> Iterator[Executor]:
    """Executor over local processes, or over the workers of a Dask scheduler.

    Args:
        n_workers: local processes; all cores when None.
        scheduler: address of a running Dask scheduler (``tcp://host:8786``), or the path of its
            scheduler file; ``n_workers`` is then ignored.

    Yields:
        A ``concurrent.futures`` executor.
    """
    if scheduler is None:
        _single_threaded()
        context = multiprocessing.get_context("spawn")
        n = n_workers or n_cores()
        with ProcessPoolExecutor(n, mp_context=context, initializer=_single_threaded) as pool:
            yield pool
        return
    from distributed import Client

    where = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
    with Client(**where) as client, client.get_executor() as pool:
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
        Pairs of item name and result, in order of completion. An exception raised by ``function``
        is raised here, after the work that has not begun is cancelled.
    """
    futures: dict[Future[Any], str] = {pool.submit(function, *a): k for k, a in items.items()}
    try:
        with tqdm(total=len(futures), desc=description, unit=unit, disable=not futures) as bar:
            for future in as_completed(futures):
                yield futures[future], future.result()
                bar.update()
    finally:
        for future in futures:
            future.cancel()
