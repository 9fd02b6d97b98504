"""Figures of a run: parity, validation errors over steps, how far each block has moved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from schnetpack_tpainn.transfer.outcome import TARGETS, targets

__all__ = ["COLOURS", "LABELS", "changes", "curves", "draw_run", "parity", "save"]

# Okabe and Ito's palette, which colour-blind readers tell apart
COLOURS = {
    "force field": "#999999",
    "scratch": "#E69F00",
    "autotune": "#0072B2",
    "recipe": "#CC79A7",
    "pretrain": "#009E73",
    "zero-shot": "#D55E00",
}
LABELS = {
    "force field": "force field",
    "scratch": "from scratch",
    "autotune": "autotuned",
    "recipe": "autotuned via xTB",
    "pretrain": "pretrained",
    "zero-shot": "before any step",
}
DPI = 150


def save(figure: Figure, path: str | Path, dpi: int = DPI) -> Path:
    """Write a figure at once, never half of it.

    Args:
        figure: the figure.
        path: file to write, its format by the suffix.
        dpi: pixels per inch.

    Returns:
        The path.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=dpi)
    temporary.replace(path)
    return path


def parity(predictions: Mapping[str, Mapping[str, np.ndarray]], reference: str = "DFT") -> Figure:
    """Predicted against reference energies and, where there are, forces, one column per model.

    Args:
        predictions: model (a key of ``LABELS``) -> ``energy``, ``energy_label`` (eV), ``forces``,
            ``forces_label`` (eV/Å) of the test frames.
        reference: where the labels come from, for the axes.

    Returns:
        The figure.
    """
    n = len(predictions)
    n_rows = 2 if all("forces" in p for p in predictions.values()) else 1
    figure = Figure(figsize=(3.2 * n, 3.1 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n, squeeze=False)
    zero = np.mean([p["energy_label"].mean() for p in predictions.values()])
    for column, (name, p) in enumerate(predictions.items()):
        pairs = [(p["energy_label"] - zero, p["energy"] - zero, "energy", "eV")]
        if n_rows > 1:
            pairs.append((p["forces_label"].ravel(), p["forces"].ravel(), "force", "eV/Å"))
        for row, (label, predicted, what, unit) in enumerate(pairs):
            axes: Axes = grid[row, column]
            axes.scatter(label, predicted, s=4, alpha=0.4, color=COLOURS[name], linewidths=0)
            axes.set_aspect("equal", adjustable="datalim")
            low, high = label.min(), label.max()
            axes.plot([low, high], [low, high], color="black", linewidth=0.8)
            mae = np.abs(predicted - label).mean() * 1e3
            axes.set_title(f"{LABELS[name]}: MAE {mae:.1f} m{unit}", fontsize=10)
            axes.set_xlabel(f"{reference} {what} ({unit})")
            if column == 0:
                axes.set_ylabel(f"predicted {what} ({unit})")
    return figure


def curves(
    histories: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    zero_shot: Mapping[str, float] | None = None,
) -> Figure:
    """Validation errors over optimiser steps, a band from lowest to highest seed.

    Args:
        histories: model (a key of ``LABELS``) -> one history per seed with ``step``, ``energy``
            (meV) and, unless it is of energies alone, ``forces`` (meV/Å).
        zero_shot: ``energy`` (meV) and ``forces`` (meV/Å) before any step, drawn as a line.

    Returns:
        The figure.
    """
    every = [h for seeds in histories.values() for h in seeds]
    known = {key: unit for key, (_, unit) in TARGETS.items() if all(key in h for h in every)}
    figure = Figure(figsize=(4.2 * len(known), 3.6), layout="constrained")
    grid = figure.subplots(1, len(known), squeeze=False)[0]
    for axes, (key, unit) in zip(grid, known.items(), strict=True):
        for name, seeds in histories.items():
            step = seeds[0]["step"]
            values = np.array([h[key] for h in seeds])  # (S, T)
            axes.plot(
                *(step, values.mean(0)),
                color=COLOURS[name],
                label=LABELS[name],
                marker="o" if len(step) == 1 else None,
            )
            if len(seeds) > 1:
                axes.fill_between(
                    step, values.min(0), values.max(0), color=COLOURS[name], alpha=0.2, linewidth=0
                )
        if zero_shot is not None:
            axes.axhline(
                zero_shot[key], color=COLOURS["zero-shot"], ls="--", label=LABELS["zero-shot"]
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter(minor_thresholds=(2, 0.7)))
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.7)))
        axes.set_xlabel("optimiser steps")
        axes.set_ylabel(f"validation MAE, {key} ({unit})")
        axes.grid(alpha=0.3, which="both")
    grid[0].legend()
    return figure


def changes(relative: Mapping[str, float]) -> Figure:
    """How far each block of the model has moved from where it started.

    Args:
        relative: block -> norm of the change over norm of the start.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(6.0, 0.7 + 0.32 * len(relative)), layout="constrained")
    axes: Axes = figure.subplots()
    blocks = list(relative)
    values = [100 * relative[block] for block in blocks]
    bars = axes.barh(blocks, values, color=COLOURS["autotune"])
    axes.bar_label(bars, [f"{value:.2g} %" for value in values], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("change of the parameters, ‖θ − θ₀‖ / ‖θ₀‖ (%)")
    return figure


def draw_run(
    directory: Path,
    report: Mapping[str, Any],
    predictions: Mapping[str, Mapping[str, np.ndarray]],
    histories: Mapping[str, Mapping[str, np.ndarray]],
) -> list[str]:
    """Draw what there is to see of a run.

    Args:
        directory: where to write.
        report: content of ``report.json``.
        predictions: see :func:`parity`; this run's, and that from scratch where one is given.
        histories: see :func:`curves`, likewise; those without a validation are left out.

    Returns:
        Names of the files: ``learning.png``, ``parity.png``, ``changes.png``, as far as there is
        something to draw.
    """
    figures = {}
    start = report["zero_shot"].get("validation")
    level = start and {k: start[key] for k, (key, _) in targets(start).items()}
    seeds = {name: [h] for name, h in histories.items() if len(h["step"])}
    if seeds:
        figures["learning.png"] = curves(seeds, level)
    reference = "DFT" if report["stage"] == "autotune" else "reference"
    figures["parity.png"] = parity(predictions, reference)
    if report["transfer"]["changes"]:
        figures["changes.png"] = changes(report["transfer"]["changes"])
    return [save(figure, directory / name).name for name, figure in figures.items()]
