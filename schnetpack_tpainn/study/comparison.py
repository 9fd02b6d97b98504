"""Collect finished runs into one comparison: errors, histories, table, report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.db import connect
from rich.table import Table

from schnetpack_tpainn.data.label import compute_label, make_calculator
from schnetpack_tpainn.transfer.outcome import history
from schnetpack_tpainn.transfer.runs import REPORT_NAME

__all__ = ["force_field_predictions", "history", "markdown", "read_run", "summary", "table"]

COLUMNS = {
    "energy_mae_mev": "energy MAE (meV)",
    "forces_mae_mev_per_ang": "forces MAE (meV/Å)",
}
NAMES = {
    "force_field": "force field",
    "scratch": "from scratch",
    "autotune": "autotuned",
    "recipe": "autotuned via xTB",
}


def read_run(directory: Path) -> dict[str, Any]:
    """The report of a finished run."""
    return json.loads((directory / REPORT_NAME).read_text())


def force_field_predictions(
    run: Path, calculator: Mapping[str, Any], energy_key: str = "energy", forces_key: str = "forces"
) -> dict[str, np.ndarray]:
    """Energies and forces of a classical calculator on the test frames of a run.

    The one thing taken from the DFT labels is the energy's zero: a constant, fitted to the
    *training* labels of the same run.

    Args:
        run: run directory with ``split.npz`` and ``report.json``.
        calculator: Hydra node of an ASE calculator.
        energy_key: key of the energy in the database.
        forces_key: key of the forces.

    Returns:
        ``energy``, ``energy_label`` (eV), ``forces``, ``forces_label`` (eV/Å), as a run's
        ``test_predictions.npz``.
    """
    split = np.load(run / "split.npz")
    engine = make_calculator(calculator)
    columns: dict[str, list[Any]] = {k: [] for k in ("e", "el", "f", "fl")}
    shift = []
    with connect(read_run(run)["data"]["path"]) as db:
        for part in ("train_idx", "test_idx"):
            for i in split[part]:
                row = db.get(int(i) + 1)
                frame = compute_label(row.toatoms(), engine)
                energy, label = frame.get_potential_energy(), row.data[energy_key].item()
                if part == "train_idx":
                    shift.append(label - energy)
                    continue
                columns["e"].append(energy + np.mean(shift))
                columns["el"].append(label)
                columns["f"].append(frame.get_forces())
                columns["fl"].append(row.data[forces_key])
    e, el, f, fl = (np.array(c) for c in columns.values())
    return {"energy": e, "energy_label": el, "forces": f, "forces_label": fl}


def _mean(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    result = {}
    for key in COLUMNS:
        values = np.array([r[key] for r in runs])
        result[key] = float(values.mean())
        result[f"{key}_std"] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return result


def summary(
    force_field: Mapping[str, np.ndarray], runs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Test errors side by side.

    Args:
        force_field: predictions of the force field.
        runs: ``scratch``, ``autotune`` and, where it was run, ``recipe`` -> their reports, one per
            seed.

    Returns:
        ``force_field`` and the ``runs`` with mean and standard deviation over seeds, and
        ``ratio``: of scratch's errors to those of ``autotune`` or ``recipe``, mean over seeds and
        per seed.
    """
    de = force_field["energy"] - force_field["energy_label"]
    df = force_field["forces"] - force_field["forces_label"]
    classical = {
        "energy_mae_mev": float(np.abs(de).mean() * 1e3),
        "forces_mae_mev_per_ang": float(np.abs(df).mean() * 1e3),
    }
    tests = {name: [r["test"] for r in reports] for name, reports in runs.items()}
    result: dict[str, Any] = {"force_field": classical}
    result |= {name: _mean(errors) for name, errors in tests.items()}
    result["ratio"] = {
        name: {
            key: {
                "of_means": result["scratch"][key] / result[name][key],
                "per_seed": [
                    s[key] / a[key] for s, a in zip(tests["scratch"], tests[name], strict=True)
                ],
            }
            for key in COLUMNS
        }
        for name in tests
        if name != "scratch"
    }
    return result


def _cells(errors: Mapping[str, float]) -> list[str]:
    cells = []
    for key in COLUMNS:
        spread = errors.get(f"{key}_std", 0.0)
        cells.append(f"{errors[key]:.1f}" + (f" ± {spread:.1f}" if spread else ""))
    return cells


def _rows(test: Mapping[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of errors, and of ratios."""
    errors = [[label, *_cells(test[name])] for name, label in NAMES.items() if name in test]
    ratios = [
        [f"from scratch / {NAMES[name]}", *(f"{ratio[key]['of_means']:.2f}" for key in COLUMNS)]
        for name, ratio in test["ratio"].items()
    ]
    return errors, ratios


def table(title: str, test: Mapping[str, Any]) -> Table:
    """The comparison for the terminal.

    Args:
        title: heading.
        test: what :func:`summary` gave.

    Returns:
        A table that rich prints.
    """
    result = Table(title=title)
    result.add_column("")
    for name in COLUMNS.values():
        result.add_column(name, justify="right")
    for rows in _rows(test):
        for row in rows:
            result.add_row(*row, end_section=row is rows[-1])
    return result


def markdown(
    title: str, test: Mapping[str, Any], notes: Sequence[str], figures: Sequence[str]
) -> str:
    """The comparison as Markdown.

    Args:
        title: heading.
        test: what :func:`summary` gave.
        notes: paragraphs below the table.
        figures: file names of the figures.

    Returns:
        The text of ``report.md``.
    """
    head = "| | " + " | ".join(COLUMNS.values()) + " |\n|---|" + "---:|" * len(COLUMNS)
    body = "\n".join("| " + " | ".join(row) + " |" for rows in _rows(test) for row in rows)
    images = "\n\n".join(f"![{Path(f).stem}]({f})" for f in figures)
    return "\n\n".join([f"# {title}", head + "\n" + body, *notes, images]) + "\n"
