"""Figure of an analysis: structure, diffusion and density of all trajectories."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from schnetpack_tpainn.analysis.analyse import Analysis

__all__ = ["draw"]

# Okabe and Ito's palette, which colour-blind readers tell apart
COLOURS = ("#999999", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
WATER_PEAK = ("O-O", 2.80, 2.57)  # Å; Skinner et al. (2013)
WATER_DENSITY = 0.99705  # g/cm³ at 298.15 K
COLUMNS = 3


def draw(analyses: Sequence[Analysis]) -> Figure:
    """Radial distribution functions with error bands, mean squared displacements, densities.

    Args:
        analyses: the trajectories.

    Returns:
        The figure.
    """
    pairs = list(dict.fromkeys(one.pair for a in analyses for one in a.rdf))
    panels = [*pairs]
    panels += ["msd"] if any(a.diffusion for a in analyses) else []
    panels += ["density"] if any(a.density and a.trajectory.box_changes for a in analyses) else []
    panels = panels or ["temperature"]
    lines = -(-len(panels) // COLUMNS)
    columns = min(COLUMNS, len(panels))
    figure = Figure(figsize=(4.2 * columns, 3.4 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        for analysis, colour in zip(analyses, cycle(COLOURS), strict=False):
            if panel == "msd":
                _draw_msd(axes, analysis, colour)
            elif panel in ("density", "temperature"):
                _draw_series(axes, analysis, colour, panel)
            else:
                _draw_rdf(axes, analysis, colour, panel)
        _finish(axes, panel, any(a.is_water for a in analyses))
    for axes in grid[len(panels) :]:
        axes.remove()
    return figure


def _draw_rdf(axes: Axes, analysis: Analysis, colour: str, pair: str) -> None:
    for one in analysis.rdf:
        if one.pair == pair:
            label = analysis.trajectory.label
            axes.plot(one.r_ang, one.g, color=colour, lw=1.3, label=label)
            low, high = one.g - one.error, one.g + one.error
            axes.fill_between(one.r_ang, low, high, color=colour, alpha=0.3, lw=0)


def _draw_msd(axes: Axes, analysis: Analysis, colour: str) -> None:
    for formula, one in analysis.diffusion.items():
        name = analysis.trajectory.label
        name += f", {formula}" if len(analysis.diffusion) > 1 else ""
        low, high = one.msd_ang2 - one.msd_error_ang2, one.msd_ang2 + one.msd_error_ang2
        axes.plot(one.lag_ps, one.msd_ang2, color=colour, lw=1.3, label=name)
        axes.fill_between(one.lag_ps, low, high, color=colour, alpha=0.3, lw=0)
        fitted = one.lag_ps >= one.fit_from_ps
        axes.plot(one.lag_ps[fitted], one.fitted_ang2[fitted], color="black", lw=1.0, ls="--")


def _draw_series(axes: Axes, analysis: Analysis, colour: str, name: str) -> None:
    trajectory = analysis.trajectory
    mean = analysis.density if name == "density" else analysis.temperature
    if mean is None or (name == "density" and not trajectory.box_changes):
        return
    if name == "density":
        times, values = trajectory.times_ps, trajectory.densities
    elif trajectory.run is not None:
        times = trajectory.run.log["time_fs"] / 1000
        values = trajectory.run.log["temperature_k"]
    else:
        times, values = trajectory.times_ps, np.asarray(trajectory.temperatures_k)
    axes.plot(times, values, color=colour, lw=0.6, alpha=0.6)
    axes.axhline(mean.mean, color=colour, lw=1.5, label=trajectory.label)
    axes.axhspan(mean.mean - mean.error, mean.mean + mean.error, color=colour, alpha=0.25, lw=0)


def _finish(axes: Axes, panel: str, is_water: bool) -> None:
    experiment: dict[str, Any] = {"color": "black", "label": "experiment"}
    if panel == "msd":
        axes.set(xlabel="time lag (ps)", ylabel="mean squared displacement (Å²)")
    elif panel == "density":
        axes.set(xlabel="time (ps)", ylabel="density (g/cm³)")
        if is_water:
            axes.axhline(WATER_DENSITY, ls=":", **experiment)
    elif panel == "temperature":
        axes.set(xlabel="time (ps)", ylabel="temperature (K)")
    else:
        first, second = panel.split("-")
        axes.set(xlabel="r (Å)", ylabel=rf"$g_\mathrm{{{first}{second}}}(r)$")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.axhline(1, color="black", lw=0.5, ls=":")
        if is_water and panel == WATER_PEAK[0]:
            axes.scatter(*WATER_PEAK[1:], marker="x", zorder=3, **experiment)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small")
