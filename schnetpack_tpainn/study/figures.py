"""Figures of a comparison: parity, validation error over steps, errors with seeds, energy in MD."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt  # the backend is chosen before
from matplotlib.axes import Axes

__all__ = ["bars", "curves", "parity"]

# Okabe and Ito's palette, which colour-blind readers tell apart
COLOURS = {"force field": "#999999", "scratch": "#E69F00", "autotune": "#0072B2"}
LABELS = {"force field": "force field", "scratch": "from scratch", "autotune": "autotuned"}
DPI = 150


def _save(figure: Any, path: Path) -> Path:
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=DPI)
    temporary.replace(path)
    plt.close(figure)
    return path


def _parity_axes(axes: Axes, label: np.ndarray, predicted: np.ndarray, name: str) -> None:
    axes.scatter(label, predicted, s=4, alpha=0.4, color=COLOURS[name], linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")


def parity(predictions: Mapping[str, Mapping[str, np.ndarray]], path: str | Path) -> Path:
    """Predicted against DFT energies and forces, one column per model.

    Args:
        predictions: model name -> ``energy``, ``energy_label`` (eV), ``forces``, ``forces_label``
            (eV/Å) of the test frames.
        path: PNG to write.

    Returns:
        The path.
    """
    n = len(predictions)
    figure, grid = plt.subplots(2, n, figsize=(3.2 * n, 6.2), layout="constrained", squeeze=False)
    zero = np.mean([p["energy_label"].mean() for p in predictions.values()])
    for column, (name, p) in enumerate(predictions.items()):
        pairs = [
            (p["energy_label"] - zero, p["energy"] - zero, "energy", "eV", 1e3, "meV"),
            (p["forces_label"].ravel(), p["forces"].ravel(), "force", "eV/Å", 1e3, "meV/Å"),
        ]
        for row, (label, predicted, what, unit, factor, small) in enumerate(pairs):
            axes = grid[row, column]
            _parity_axes(axes, label, predicted, name)
            low, high = label.min(), label.max()
            axes.plot([low, high], [low, high], color="black", linewidth=0.8)
            mae = np.abs(predicted - label).mean() * factor
            axes.set_title(f"{LABELS[name]}: MAE {mae:.0f} {small}", fontsize=10)
            axes.set_xlabel(f"DFT {what} ({unit})")
            if column == 0:
                axes.set_ylabel(f"predicted {what} ({unit})")
    return _save(figure, Path(path))


def curves(histories: Mapping[str, Sequence[Mapping[str, np.ndarray]]], path: str | Path) -> Path:
    """Validation errors over optimiser steps, a band from lowest to highest seed.

    Args:
        histories: model name -> one history per seed with ``step``, ``energy`` (meV) and
            ``forces`` (meV/Å).
        path: PNG to write.

    Returns:
        The path.
    """
    figure, grid = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
    for axes, key, unit in zip(grid, ("forces", "energy"), ("meV/Å", "meV"), strict=True):
        for name, seeds in histories.items():
            step = seeds[0]["step"]
            values = np.array([h[key] for h in seeds])  # (S, T)
            axes.plot(step, values.mean(0), color=COLOURS[name], label=LABELS[name])
            if len(seeds) > 1:
                axes.fill_between(
                    step, values.min(0), values.max(0), color=COLOURS[name], alpha=0.2, linewidth=0
                )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(mpl.ticker.LogFormatter(minor_thresholds=(2, 0.7)))
        axes.yaxis.set_minor_formatter(mpl.ticker.LogFormatter(minor_thresholds=(2, 0.7)))
        axes.set_xlabel("optimiser steps")
        axes.set_ylabel(f"validation MAE, {key} ({unit})")
        axes.grid(alpha=0.3, which="both")
    grid[0].legend()
    return _save(figure, Path(path))


def bars(errors: Mapping[str, Sequence[Mapping[str, float]]], path: str | Path) -> Path:
    """Test errors of each model, with every seed and the standard deviation over seeds.

    Args:
        errors: model name -> one dictionary per seed with ``energy_mae_mev`` and
            ``forces_mae_mev_per_ang``.
        path: PNG to write.

    Returns:
        The path.
    """
    figure, grid = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
    columns = [
        ("forces_mae_mev_per_ang", "test MAE, forces (meV/Å)"),
        ("energy_mae_mev", "test MAE, energy (meV)"),
    ]
    for axes, (key, label) in zip(grid, columns, strict=True):
        for x, (name, seeds) in enumerate(errors.items()):
            values = np.array([e[key] for e in seeds])
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            axes.bar(x, values.mean(), yerr=spread or None, capsize=5, color=COLOURS[name])
            if len(values) > 1:
                axes.scatter(np.full(len(values), x), values, s=10, color="black", zorder=3)
            text = f"{values.mean():.0f}" + (f" ± {spread:.0f}" if spread else "")
            top = max(values.max(), values.mean() + spread)
            axes.annotate(text, (x, top), (0, 4), textcoords="offset points", ha="center")
        axes.set_xticks(range(len(errors)), [LABELS[name] for name in errors])
        axes.set_ylabel(label)
        axes.margins(y=0.12)
    return _save(figure, Path(path))
