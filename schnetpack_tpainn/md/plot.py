"""Figure of a run's energies."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from schnetpack_tpainn.md.analyse import EnergyDrift

__all__ = ["plot_energies"]


def plot_energies(
    columns: dict[str, np.ndarray], n_atoms: int, path: Path, drift: EnergyDrift | None = None
) -> None:
    """Draw the change of total and potential energy, and the total energy alone, over time.

    Args:
        columns: the log's columns, see :func:`schnetpack_tpainn.md.output.read_log`.
        n_atoms: number of atoms.
        path: PNG file to write.
        drift: drift of the total energy; its line is drawn into the lower panel.
    """
    time = columns["time_fs"] / 1000  # ps
    to_mev = 1000 / n_atoms
    total = (columns["etot_ev"] - columns["etot_ev"][0]) * to_mev
    potential = (columns["epot_ev"] - columns["epot_ev"][0]) * to_mev
    figure = Figure(figsize=(7, 6), layout="constrained")
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "frameon": False}
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(time, potential, color="tab:blue", lw=0.7, label="potential")
    upper.plot(time, total, color="black", lw=1.5, label="total")
    upper.set_ylabel("energy − start (meV/atom)")
    upper.legend(**above)
    lower.plot(time, total, color="black", lw=0.7, label="total")
    if drift is not None:
        line = total.mean() + drift.slope_mev_per_atom_per_ps * (time - time.mean())
        label = (
            f"fit: {drift.slope_mev_per_atom_per_ps:+.2g} meV/atom/ps, "
            f"rms {drift.rms_mev_per_atom:.2g} meV/atom"
        )
        lower.plot(time, line, color="tab:red", lw=2, label=label)
    lower.set_ylabel("total energy − start (meV/atom)")
    lower.set_xlabel("time (ps)")
    lower.legend(**above)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=150, format="png")
    temporary.replace(path)
