"""Means of correlated series with their errors."""

from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np

from schnetpack_tpainn.errors import AnalysisError

__all__ = ["Average", "average", "block_error", "blocks", "engine"]

ENOUGH = 50  # correlation times in a series, for its error to be trusted (emcee's default)


@dataclass(frozen=True)
class Average:
    """Mean of a time series.

    Attributes:
        mean: the mean, in the unit of the series.
        error: its standard error, likewise.
        n_independent: length of the series in correlation times.
    """

    mean: float
    error: float
    n_independent: float

    @property
    def is_trusted(self) -> bool:
        """Whether the series is long enough for its error, 50 correlation times or constant."""
        return self.error == 0 or self.n_independent >= ENOUGH


def average(values: np.ndarray) -> Average:
    r"""Mean of a correlated series and its standard error.

    The error is :math:`\sigma\sqrt{\tau/T}` with the statistical inefficiency
    :math:`\tau = 1 + 2\sum_t \rho(t)`, which is what blocks longer than the correlation time
    give. emcee estimates it in Sokal's window (Sokal, Monte Carlo Methods in Statistical
    Mechanics, 1996; Foreman-Mackey et al., PASP 125, 306, 2013). Series shorter than 50
    correlation times give too small an error.

    Args:
        values: the series, shape (T,).

    Returns:
        Mean and standard error.

    Raises:
        AnalysisError: emcee is not installed.
    """
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    if deviation <= 1e-12 * abs(mean):
        return Average(mean, 0.0, float(len(values)))
    autocorr = engine("emcee.autocorr")
    inefficiency = float(autocorr.integrated_time(values, tol=0, quiet=True)[0])
    inefficiency = min(max(inefficiency, 1.0), len(values))
    n_independent = len(values) / inefficiency
    return Average(mean, deviation / n_independent**0.5, n_independent)


def blocks(n_frames: int, n_blocks: int) -> list[slice]:
    """Parts of a trajectory of about equal length.

    Args:
        n_frames: frames.
        n_blocks: parts.

    Returns:
        The parts, one after the other.

    Raises:
        AnalysisError: fewer than two blocks, or than two frames in each.
    """
    if n_blocks < 2 or n_frames < 2 * n_blocks:
        raise AnalysisError(
            f"expected two blocks or more of two frames or more, for an error, got {n_frames} "
            f"frames and {n_blocks} blocks; run longer or skip less"
        )
    edges = np.linspace(0, n_frames, n_blocks + 1).round().astype(int)
    return [slice(a, b) for a, b in pairwise(edges)]


def block_error(values: np.ndarray) -> np.ndarray:
    """Standard error of a mean over blocks.

    Args:
        values: means of the blocks, shape (blocks, ...).

    Returns:
        Shape (...).
    """
    return np.asarray(np.std(values, axis=0, ddof=1) / len(values) ** 0.5)


def engine(name: str) -> Any:
    """Import a library of the extra ``analysis``.

    Args:
        name: its name.

    Returns:
        The module.

    Raises:
        AnalysisError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise AnalysisError(
            f"expected {name.split('.')[0]}, which is not installed: pip install "
            "'schnetpack-tpainn[analysis]'"
        ) from error
