"""Reliability plot of an ensemble: calibration curves, and errors beside standard deviations."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from schnetpack_tpainn.ensemble.calibration import (
    MIN_STD,
    Spread,
    calibration_curve,
    miscalibration_area,
)
from schnetpack_tpainn.ensemble.results import MEV, TITLES
from schnetpack_tpainn.study.curves import HEIGHT, PALETTE, STYLE, WIDTH
from schnetpack_tpainn.transfer.ensemble import Calibration

__all__ = ["reliability"]

BINS = 10  # of equal numbers of errors, by standard deviation
MAX_POINTS = 3000  # drawn, evenly spaced
COLOURS = {"before": PALETTE[0], "calibrated": PALETTE[1]}


def reliability(spreads: Mapping[str, Spread], calibration: Calibration) -> Figure:
    """Draw how reliable the standard deviations are, before and after calibration.

    Panels, for energies and, if there are, forces: share of errors within the central intervals
    over their probability; root-mean-square error over standard deviation, in ten bins of equal
    numbers, before single errors.

    Args:
        spreads: errors on frames that calibrated nothing.
        calibration: the factors.

    Returns:
        The figure, for print at its size.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(spreads) * 1.1), layout="constrained")
        panels = figure.subplots(len(spreads), 2, squeeze=False)
        for row, (name, spread) in zip(panels, spreads.items(), strict=True):
            scaled = spread.scaled(getattr(calibration, name))
            both = {"before": spread, "calibrated": scaled}
            _curves(row[0], both, TITLES[name][0])
            _bins(row[1], both, *TITLES[name])
        for letter, axes in zip("abcd", panels.ravel(), strict=False):
            axes.set_title(letter, loc="left", fontweight="bold", fontsize=9)
        return figure


def _curves(axes: Axes, both: Mapping[str, Spread], what: str) -> None:
    axes.plot([0, 1], [0, 1], color="grey", lw=0.8, ls="--")
    for name, spread in both.items():
        label = f"{name}, area {miscalibration_area(spread):.3f}"
        axes.plot(*calibration_curve(spread), color=COLOURS[name], label=label)
    axes.set(xlabel="probability of the interval", ylabel=f"share of errors within ({what})")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(loc="upper left")


def _bins(axes: Axes, both: Mapping[str, Spread], what: str, unit: str) -> None:
    scaled = both["calibrated"]
    shown = np.linspace(0, len(scaled.std) - 1, min(MAX_POINTS, len(scaled.std))).astype(int)
    positive = np.maximum(scaled.std[shown], MIN_STD) * MEV
    error = np.maximum(np.abs(scaled.error[shown]) * MEV, MIN_STD)
    axes.scatter(positive, error, s=2, color="lightgrey", lw=0, rasterized=True)
    levels = []
    for name, spread in both.items():
        groups = np.array_split(np.argsort(spread.std), min(BINS, len(spread.std)))
        std = [np.sqrt(np.mean(spread.std[g] ** 2)) * MEV for g in groups]
        rmse = [np.sqrt(np.mean(spread.error[g] ** 2)) * MEV for g in groups]
        axes.plot(std, rmse, marker="o", color=COLOURS[name], label=name)
        levels += [*std, *rmse]
    low, high = max(min(levels), MIN_STD) / 2, max(levels) * 2
    axes.plot([low, high], [low, high], color="grey", lw=0.8, ls="--")
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.set(xlabel=f"standard deviation ({unit})", ylabel=f"error of {what} ({unit})")
    axes.legend(loc="upper left")
