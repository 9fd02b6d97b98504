"""Models take turns on one piece of work; medians, their ratio and its spread."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Settings", "Work", "clocked", "summarise", "take_turns", "time_sound"]

TURN = 0.1  # least seconds of a turn

Work = Callable[[], float]  # does the work once and gives the seconds it took


@dataclass(frozen=True)
class Settings:
    """How a row is measured.

    Attributes:
        seconds: least time of all turns together.
        device: ``cpu`` or ``cuda``.
        variants: names out of :data:`benchmarks.models.VARIANTS`, the stock model left out.
        threads: of torch and of the processes that a row starts.
        peers: folder of other packages, see :mod:`benchmarks.peers`.
        least: least number of turns that count.
    """

    seconds: float
    device: str = "cpu"
    variants: tuple[str, ...] = ("TPaiNN",)
    threads: int = 1
    peers: Path | None = None
    least: int = 5


def clocked(call: Callable[[], Any], device: str = "cpu") -> Work:
    """Time a call, to the end of what it started on the GPU; a short one is repeated.

    Args:
        call: the work.
        device: ``cpu`` or ``cuda``.

    Returns:
        The work, giving the seconds of one call.
    """
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None

    def work() -> float:
        finish()
        start, calls = time.perf_counter(), 0
        while calls == 0 or time.perf_counter() - start < TURN:
            call()
            calls += 1
        finish()
        return (time.perf_counter() - start) / calls

    return work


def take_turns(works: Mapping[str, Work], seconds: float, least: int) -> dict[str, list[float]]:
    """Do all works one after the other, again and again; the first turn does not count.

    Args:
        works: model -> work.
        seconds: least time of all turns together.
        least: least number of turns that count.

    Returns:
        Model -> seconds of each turn.
    """
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    end, turns = time.perf_counter() + seconds, 0
    while turns < least or time.perf_counter() < end:
        for name, work in works.items():
            times[name].append(work())
        turns += 1
    return times


def summarise(times: Mapping[str, list[float]], reference: str) -> dict[str, dict[str, Any]]:
    """Medians, and how many times faster than the reference each model is.

    Args:
        times: model -> seconds of each turn.
        reference: the model whose time the ratios have above the line; it may be missing.

    Returns:
        Model -> ``seconds`` (median), ``turns`` and, with a reference, ``ratio`` (of the medians)
        and ``ratio_quartiles`` (of the ratios of the single turns, first and third).
    """
    summary: dict[str, dict[str, Any]] = {}
    for name, values in times.items():
        median = statistics.median(values)
        summary[name] = {"seconds": median, "turns": len(values)}
        if reference in times:
            single = [first / own for first, own in zip(times[reference], values, strict=True)]
            low, _, high = statistics.quantiles(single, n=4, method="inclusive")
            summary[name]["ratio"] = statistics.median(times[reference]) / median
            summary[name]["ratio_quartiles"] = [low, high]
    return summary


def time_sound(
    models: dict[str, dict[str, Any]],
    works: Callable[[list[str]], Mapping[str, Work]],
    settings: Settings,
    reference: str,
) -> dict[str, Any]:
    """Time those models that passed their check, and add what was found to their entries.

    Args:
        models: model -> entry, with ``correct``.
        works: makes the work of each model named.
        settings: how to measure.
        reference: name of the model the others are compared with.

    Returns:
        ``models``: the entries.
    """
    sound = [name for name, entry in models.items() if entry.get("correct")]
    times = take_turns(works(sound), settings.seconds, settings.least)
    for name, found in summarise(times, reference).items():
        models[name] |= found
    return {"models": models}
