"""Figures of a comparison: errors with seeds, beside the figures of a run."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from schnetpack_tpainn.transfer.figures import COLOURS, LABELS, curves, parity, save

__all__ = ["bars", "curves", "parity", "save"]


def bars(errors: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Test errors of each model, with every seed and the standard deviation over seeds.

    Args:
        errors: model name -> one dictionary per seed with ``energy_mae_mev`` and
            ``forces_mae_mev_per_ang``.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    grid = figure.subplots(1, 2)
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
        axes.set_xticks(
            range(len(errors)), [LABELS[name].replace(" via ", "\nvia ") for name in errors]
        )
        axes.set_ylabel(label)
        axes.margins(y=0.12)
    return figure
