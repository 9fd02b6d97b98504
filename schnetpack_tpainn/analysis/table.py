"""The table of trajectories side by side, and experiment's numbers for water."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10

from schnetpack_tpainn.analysis.analyse import Analysis

__all__ = ["EXPERIMENT", "SOURCES", "Row", "rows", "with_error"]

EXPERIMENT = {  # of water, at the keys of rows
    "temperature (K)": "298.15",
    "density (g/cm³)": "0.99705",
    "D, H2O, corrected for the box (10⁻⁹ m²/s)": "2.30",
    "g O-O: first peak (Å)": "2.80",
    "g O-O: its height": "2.57",
}
SOURCES = (
    "Density of water at 298.15 K: Wagner and Pruß, J. Phys. Chem. Ref. Data 31, 387 (2002).",
    "Self-diffusion of water at 298.15 K: Holz, Heil and Sacco, Phys. Chem. Chem. Phys. 2, 4740 "
    "(2000).",
    "g O-O of water at 295 K, X-ray diffraction: Skinner et al., J. Chem. Phys. 138, 074506 "
    "(2013).",
)


@dataclass(frozen=True)
class Row:
    """A quantity of every trajectory.

    Attributes:
        name: the quantity and its unit.
        cells: its value with error in each trajectory; empty where there is none.
        experiment: that of experiment, for water; empty where there is none.
    """

    name: str
    cells: tuple[str, ...]
    experiment: str


def with_error(value: float | None, error: float | None = None) -> str:
    """A number with its standard error, of which two digits are shown.

    Args:
        value: the number; None for none.
        error: its error; None or 0 for none, then four digits are shown.

    Returns:
        Such as ``2.31 ± 0.12``.
    """
    if value is None:
        return ""
    if not error:
        return f"{value:.4g}"
    decimals = max(0, 1 - floor(log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def rows(analyses: Sequence[Analysis]) -> list[Row]:
    """Rows of the table; quantities that no trajectory has are left out.

    Args:
        analyses: the trajectories.

    Returns:
        The rows.
    """
    found: dict[str, list[str]] = {}
    for k, analysis in enumerate(analyses):
        for name, cell in _cells(analysis):
            found.setdefault(name, [""] * len(analyses))[k] = cell
    water = any(analysis.is_water for analysis in analyses)
    return [
        Row(name, tuple(cells), EXPERIMENT.get(name, "") if water else "")
        for name, cells in found.items()
        if any(cells)
    ]


def _cells(analysis: Analysis) -> list[tuple[str, str]]:
    parts: tuple[Callable[[Analysis], list[tuple[str, str]]], ...] = (
        _run,
        _averages,
        _structure,
        _diffusion,
        _stability,
    )
    return [pair for part in parts for pair in part(analysis)]


def _run(analysis: Analysis) -> list[tuple[str, str]]:
    trajectory = analysis.trajectory
    ensemble = "" if trajectory.run is None else str(trajectory.run.ensemble["name"])
    return [
        ("system", trajectory.formula),
        ("ensemble", ensemble),
        ("frames", str(trajectory.n_frames)),
        ("analysed (ps)", f"{trajectory.duration_ps:.4g}"),
    ]


def _averages(analysis: Analysis) -> list[tuple[str, str]]:
    named = (
        ("temperature (K)", analysis.temperature),
        ("density (g/cm³)", analysis.density),
        ("hydrogen bonds per molecule", analysis.hydrogen_bonds),
    )
    return [(name, with_error(one.mean, one.error)) for name, one in named if one is not None]


def _structure(analysis: Analysis) -> list[tuple[str, str]]:
    found = []
    for one in analysis.rdf:
        peak, name = one.first, f"g {one.pair}"
        if peak is None:
            continue
        found += [
            (f"{name}: first peak (Å)", with_error(peak.position_ang, peak.position_error_ang)),
            (f"{name}: its height", with_error(peak.height, peak.height_error)),
            (f"{name}: first minimum (Å)", with_error(peak.minimum_ang)),
            (
                f"{name}: neighbours up to there",
                with_error(peak.coordination, peak.coordination_error),
            ),
        ]
    return found


def _diffusion(analysis: Analysis) -> list[tuple[str, str]]:
    found = []
    for formula, one in analysis.diffusion.items():
        d, error = 1e9 * one.d_m2_per_s, 1e9 * one.error_m2_per_s
        found.append((f"D, {formula} (10⁻⁹ m²/s)", with_error(d, error)))
        if analysis.finite_size is not None:
            corrected = d + 1e9 * analysis.finite_size.correction_m2_per_s
            name = f"D, {formula}, corrected for the box (10⁻⁹ m²/s)"
            found.append((name, with_error(corrected, error)))
    return found


def _stability(analysis: Analysis) -> list[tuple[str, str]]:
    found = []
    if analysis.drift is not None:
        slope = analysis.drift.slope_mev_per_atom_per_ps
        found.append(("energy drift (meV/atom/ps)", f"{slope:.2g}"))
    run = analysis.trajectory.run
    if run is not None and run.survival_ps is not None:
        text = f"{run.survival_ps:.4g}" + ("" if run.status == "finished" else f", {run.status}")
        found.append(("survived (ps)", text))
    if analysis.contacts is not None:
        for pair, closest in analysis.contacts.between_ang.items():
            found.append((f"closest {pair} of two molecules (Å)", with_error(closest)))
    lost = analysis.dissociation
    if lost is not None:
        found.append(("dissociated molecules, at most", f"{lost.most} of {lost.n_molecules}"))
    return found
