"""Results of an ensemble: the factors, how reliable they are, a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from schnetpack_tpainn.ensemble.calibration import (
    Spread,
    fit_factor,
    miscalibration_area,
    rank_correlation,
)
from schnetpack_tpainn.errors import EnsembleError
from schnetpack_tpainn.transfer.ensemble import Calibration

__all__ = [
    "MEV",
    "PARTS",
    "TITLES",
    "calibrate",
    "judge",
    "markdown",
    "read_spreads",
    "show",
]

MEV = 1e3  # meV in an eV
PARTS = {"validation": "validation_predictions.npz", "test": "test_predictions.npz"}
TITLES = {"energy": ("energy", "meV"), "forces": ("forces", "meV/Å")}
COLUMNS = ("", "", "before calibration", "calibrated")


def read_spreads(directories: Sequence[Path], part: str) -> dict[str, Spread]:
    r"""Errors of the mean of finished runs, and the spread around it.

    With the predictions :math:`x_m` of M members, :math:`\sigma^2 = \frac{1}{M-1} \sum_m
    (x_m - \bar x)^2`, for forces averaged over the three directions of an atom, so that it does not
    depend on how the molecule lies.

    Args:
        directories: run directories of the members.
        part: ``validation`` or ``test``.

    Returns:
        ``energy`` in eV, one per frame, and, if the labels have them, ``forces`` in eV/Å, one per
        Cartesian component.

    Raises:
        EnsembleError: the members predicted other frames.
    """
    files = []
    for directory in directories:
        path = directory / PARTS[part]
        if not path.is_file():
            raise EnsembleError(
                f"expected {path}, got no such file: the run was made by an older version, or is "
                "damaged; delete its directory and repeat the command"
            )
        with np.load(path) as content:
            files.append(dict(content))
    first = files[0]
    for directory, file in zip(directories, files, strict=True):
        same = np.array_equal(file["n_atoms"], first["n_atoms"])
        if not same or not np.allclose(file["energy_label"], first["energy_label"], atol=1e-4):
            raise EnsembleError(
                f"expected members with the same {part} frames, got others in {directory} than in "
                f"{directories[0]}; delete the one that is wrong and repeat the command"
            )
    energies = np.array([file["energy"] for file in files])  # (M, K)
    found = {
        "energy": Spread(energies.mean(axis=0) - first["energy_label"], energies.std(0, ddof=1))
    }
    if "forces" in first:
        forces = np.array([file["forces"] for file in files], dtype=float)  # (M, N, 3)
        std = np.sqrt(forces.var(axis=0, ddof=1).mean(axis=1))  # (N,)
        error = forces.mean(axis=0) - first["forces_label"]
        found["forces"] = Spread(error.ravel(), std.repeat(3))
    return found


def calibrate(spreads: Mapping[str, Spread], method: str) -> Calibration:
    """Fit the factors.

    Args:
        spreads: errors on the validation frames.
        method: ``crps`` or ``nll``.

    Returns:
        The factors.
    """
    factors = {name: fit_factor(spread, method) for name, spread in spreads.items()}
    n_frames = len(spreads["energy"].error)
    return Calibration(factors["energy"], factors.get("forces"), method, n_frames)


def judge(spreads: Mapping[str, Spread], calibration: Calibration) -> dict[str, Any]:
    """How large the errors of an ensemble are, and how reliable its standard deviations.

    Args:
        spreads: errors on some frames.
        calibration: the factors.

    Returns:
        For ``energy`` and ``forces``: ``mae`` and ``rmse`` of the mean, ``std`` (root of the mean
        square, calibrated), all in meV or meV/Å; ``rank_correlation`` of errors with deviations,
        ``miscalibration_area`` and ``within_1_std`` (share, expected 0.683) each ``before`` and
        ``after`` calibration.
    """
    found = {}
    for name, spread in spreads.items():
        scaled = spread.scaled(getattr(calibration, name))
        both = {"before": spread, "after": scaled}
        found[name] = {
            "mae": float(np.abs(spread.error).mean() * MEV),
            "rmse": float(np.sqrt(np.mean(spread.error**2)) * MEV),
            "std": float(np.sqrt(np.mean(scaled.std**2)) * MEV),
            "rank_correlation": rank_correlation(spread),
            "miscalibration_area": {k: miscalibration_area(s) for k, s in both.items()},
            "within_1_std": {k: float(np.mean(np.abs(s.z) <= 1)) for k, s in both.items()},
        }
    return found


def _rows(results: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for name, judged in results["test"].items():
        title, unit = TITLES[name]
        area, share = judged["miscalibration_area"], judged["within_1_std"]
        single = results["members_test_mae"][name]
        rank = judged["rank_correlation"]
        rows += [
            (title, f"MAE of the mean ({unit})", "", f"{judged['mae']:.1f}"),
            ("", f"MAE of one member ({unit})", "", f"{single:.1f}"),
            ("", "factor on the spread", "1", f"{results['calibration'][name]:.2f}"),
            ("", "miscalibration area", f"{area['before']:.3f}", f"{area['after']:.3f}"),
            ("", "within 1 std (0.683)", f"{share['before']:.3f}", f"{share['after']:.3f}"),
            ("", "rank correlation with the error", "", "" if rank is None else f"{rank:.2f}"),
        ]
    return rows


def _title(results: Mapping[str, Any]) -> str:
    return (
        f"ensemble of {len(results['members'])}, calibrated on {results['n_val']} validation "
        f"frames, on {results['n_test']} test frames"
    )


def markdown(results: Mapping[str, Any], figure: str) -> str:
    """The results as Markdown.

    Args:
        results: content of ``ensemble.json``.
        figure: file name of the figure.

    Returns:
        The text of ``ensemble.md``.
    """
    head = f"| {' | '.join(COLUMNS)} |\n|---|---|---:|---:|"
    body = "\n".join(f"| {' | '.join(row)} |" for row in _rows(results))
    title = _title(results)
    image = f"![calibration curves, and errors beside standard deviations]({figure})"
    return f"# {title[0].upper()}{title[1:]}\n\n{head}\n{body}\n\n{image}\n"


def show(results: Mapping[str, Any], directory: Path) -> None:
    """Print the results.

    Args:
        results: content of ``ensemble.json``.
        directory: where they are.
    """
    table = Table(title=_title(results))
    for k, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if k < 2 else "right")
    for row in _rows(results):
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(f"results and model in {directory}", soft_wrap=True)
