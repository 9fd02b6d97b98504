"""Figure of a study: learning curves, ratio to the reference, labels saved, convergence."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, FixedLocator, LogLocator, NullLocator

from schnetpack_tpainn.study.settings import METRICS

__all__ = ["learning_curves"]

# Okabe and Ito's palette, which colour-blind readers tell apart
PALETTE = ("#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
STYLE: Any = {
    "font.size": 8,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,
}
WIDTH, HEIGHT = 7.0, 2.5  # inches: two columns wide, per row


def learning_curves(results: Mapping[str, Any]) -> Figure:
    """Draw the results of a study.

    Panels: test error over number of labels with 95 % intervals over seeds, one for every metric;
    error of the reference over that of each strategy; labels of the reference at equal error over
    labels; validation error over steps at the smallest number of labels.

    Args:
        results: content of ``study.json``.

    Returns:
        The figure, for print at its size.
    """
    first = next(iter(results["strategies"].values()))[str(results["n_train"][0])]
    metrics = [key for key in METRICS if key in first]
    colours = dict(zip(results["strategies"], PALETTE * 9, strict=False))
    markers = dict(zip(results["strategies"], MARKERS * 9, strict=False))
    with mpl.rc_context(STYLE):
        n_panels = len(metrics) + 3
        n_rows = (n_panels + 2) // 3
        figure = Figure(figsize=(WIDTH, HEIGHT * n_rows), layout="constrained")
        panels = figure.subplots(n_rows, 3).ravel()
        for axes, key in zip(panels, metrics, strict=False):
            _errors(axes, results, key, colours, markers)
        rest = panels[len(metrics) :]
        _ratios(rest[0], results, colours, markers)
        _saved(rest[1], results, colours, markers)
        _convergence(rest[2], results, colours)
        for axes in rest[3:]:
            axes.set_axis_off()
        (rest[3] if len(rest) > 3 else panels[0]).legend(*panels[0].get_legend_handles_labels())
        for letter, axes in zip("abcdefgh", panels[:n_panels], strict=False):
            axes.set_title(letter, loc="left", fontweight="bold", fontsize=9)
        return figure


def _log_n(axes: Axes, results: Mapping[str, Any]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(results["n_train"]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(map(str, results["n_train"]))
    axes.set_xlabel("labels")


def _log_errors(axes: Axes) -> None:
    """Plain numbers at 1, 2, 5, or evenly spaced where these would be fewer than two."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = LogLocator(subs=(1, 2, 5)) if high / low > 5 else AutoLocator()
    axes.yaxis.set_major_locator(ticks)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _series(axes: Axes, n: list[int], intervals: list[Mapping[str, float]], **style: Any) -> None:
    """Means with bars for their intervals."""
    mean, low, high = (np.array([i[k] for i in intervals]) for k in ("mean", "low", "high"))
    axes.errorbar(n, mean, yerr=[mean - low, high - mean], capsize=2, elinewidth=0.7, **style)


def _errors(
    axes: Axes,
    results: Mapping[str, Any],
    key: str,
    colours: Mapping[str, str],
    markers: Mapping[str, str],
) -> None:
    counts = results["n_train"]
    for name, by_n in results["strategies"].items():
        intervals = [by_n[str(n)][key] for n in counts]
        _series(axes, counts, intervals, label=name, color=colours[name], marker=markers[name])
    if key == "energy":
        for dash, (name, by_n) in zip(
            ("--", ":", "-."), results["baselines"].items(), strict=False
        ):
            means = [by_n[str(n)]["mean"] for n in counts]
            axes.plot(counts, means, dash, color="#777777", label=f"linear: {name}")
    _log_errors(axes)
    axes.set_ylabel(f"test {METRICS[key][1]}")
    _log_n(axes, results)


def _ratios(
    axes: Axes, results: Mapping[str, Any], colours: Mapping[str, str], markers: Mapping[str, str]
) -> None:
    counts, key = results["n_train"], results["metric"]
    for name, against in results["against_reference"].items():
        intervals = [against[key][str(n)]["ratio"] for n in counts]
        _series(axes, counts, intervals, color=colours[name], marker=markers[name])
    axes.axhline(1, color="#777777", linewidth=0.6)
    axes.set_ylabel(f"{key} error, {results['reference']} / strategy")
    axes.set_ylim(bottom=0)
    _log_n(axes, results)


def _saved(
    axes: Axes, results: Mapping[str, Any], colours: Mapping[str, str], markers: Mapping[str, str]
) -> None:
    """Filled markers are interpolated; open arrows are bounds."""
    counts, key = results["n_train"], results["metric"]
    arrows = {"at least": "^", "at most": "v"}
    for name, against in results["against_reference"].items():
        saved = [against[key][str(n)]["labels_saved"] for n in counts]
        factors = [s["factor"] for s in saved]
        axes.plot(counts, factors, color=colours[name])
        for n, s in zip(counts, saved, strict=True):
            bound = arrows.get(s["bound"])
            face = "white" if bound else colours[name]
            marker = bound or markers[name]
            axes.plot(n, s["factor"], marker, color=colours[name], markerfacecolor=face)
    axes.axhline(1, color="#777777", linewidth=0.6)
    axes.set_ylabel(f"labels of {results['reference']} at equal error")
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    ticks = [t for t in (0.5, 1, 2, 5, 10, 20, 50) if t <= 2 * axes.get_ylim()[1]]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.set_yticklabels(f"{t:g}×" for t in ticks)
    _log_n(axes, results)


def _convergence(axes: Axes, results: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    n = str(results["n_train"][0])
    for name, by_n in results["strategies"].items():
        curve = by_n[n]["curve"]
        axes.plot(curve["step"], curve["error"], color=colours[name])
    _log_errors(axes)
    axes.set_xlabel(f"optimiser steps, {n} labels")
    axes.set_ylabel(f"validation {METRICS[results['metric']][1]}")
