"""Results of a study: ``study.json``, a table, figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.files import write_json, write_text
from schnetpack_tpainn.study.comparison import history
from schnetpack_tpainn.study.settings import METRICS, StudySettings
from schnetpack_tpainn.study.statistics import (
    geometric_mean,
    labels_saved,
    paired_ratio,
    steps_to_reach,
)

__all__ = ["RESULTS_NAME", "collect", "markdown", "show", "write_results"]

SCHEMA = 1
RESULTS_NAME = "study.json"
Cell = tuple[str, int]


def collect(
    settings: StudySettings,
    rates: Mapping[Cell, Mapping[float, float]],
    reports: Mapping[Cell, Sequence[Mapping[str, Any]]],
    directories: Mapping[Cell, Sequence[Path]],
    baselines: Mapping[str, Mapping[int, Mapping[int, float]]],
) -> dict[str, Any]:
    """Statistics of the finished runs.

    Args:
        settings: the study.
        rates: strategy and number of labels -> learning rate -> validation error.
        reports: strategy and number of labels -> one report per seed.
        directories: likewise, the run directories.
        baselines: scheme -> number of labels -> seed -> energy MAE (meV).

    Returns:
        The content of ``study.json``.
    """
    first = next(iter(reports.values()))[0]
    metrics = [key for key, (column, _) in METRICS.items() if column in first["test"]]
    errors = {
        (key, *cell): {
            seed: float(report["test"][METRICS[key][0]])
            for seed, report in zip(settings.seeds[cell[1]], group, strict=True)
        }
        for key in metrics
        for cell, group in reports.items()
    }
    strategies: dict[str, Any] = {k: {} for k in settings.strategies}
    for (k, n), tried in rates.items():
        strategies[k][str(n)] = {
            "rates": {f"{rate:g}": error for rate, error in tried.items()},
            "rate": min(tried, key=tried.__getitem__),
            **{key: _errors(errors[key, k, n]) for key in metrics},
            "curve": _curve(directories[k, n], settings.metric),
            "training_s": [r["wall_time_s"]["training"] for r in reports[k, n]],
        }
    return {
        "schema": SCHEMA,
        "seeds": {str(n): list(seeds) for n, seeds in settings.seeds.items()},
        **{key: getattr(settings, key) for key in ("n_train", "metric", "reference")},
        **{key: first[key] for key in ("optimiser_steps", "n_val", "n_test")},
        "parameters": first["parameters"]["total"],
        "strategies": strategies,
        "against_reference": {
            k: {key: _against(settings, errors, key, k) for key in metrics}
            | {"convergence": _convergence(settings, strategies, k)}
            for k in settings.strategies
            if k != settings.reference
        },
        "baselines": {
            scheme: {str(n): _errors(e) for n, e in by_n.items()}
            for scheme, by_n in baselines.items()
        },
        "data": first["data"],
        "versions": software_versions(),
    }


def _errors(by_seed: Mapping[int, float]) -> dict[str, Any]:
    return {
        "by_seed": {str(seed): float(error) for seed, error in by_seed.items()},
        **geometric_mean(list(by_seed.values())).plain(),
    }


def _curve(directories: Sequence[Path], metric: str) -> dict[str, list[float]]:
    """Validation error over steps, geometric mean over seeds."""
    histories = [history(directory) for directory in directories]
    steps = histories[0]["step"]
    values = np.array([h[metric] for h in histories])  # (seeds, T)
    return {"step": steps.tolist(), "error": np.exp(np.log(values).mean(axis=0)).tolist()}


def _against(
    settings: StudySettings,
    errors: Mapping[tuple[str, str, int], dict[int, float]],
    key: str,
    k: str,
) -> dict[str, Any]:
    """Ratio to the reference and labels saved, for every number of labels."""
    curves = {
        name: {
            n: geometric_mean(list(errors[key, name, n].values())).mean for n in settings.n_train
        }
        for name in (settings.reference, k)
    }
    saved = {s.n_train: s.plain() for s in labels_saved(curves[settings.reference], curves[k])}
    return {
        str(n): {
            "ratio": paired_ratio(errors[key, settings.reference, n], errors[key, k, n]).plain(),
            "labels_saved": saved[n],
        }
        for n in settings.n_train
    }


def _convergence(
    settings: StudySettings, strategies: Mapping[str, Any], k: str
) -> dict[str, dict[str, Any]]:
    """Steps until the validation error is the one that the reference ends with."""
    found = {}
    for n in map(str, settings.n_train):
        reference = strategies[settings.reference][n]["curve"]
        own = strategies[k][n]["curve"]
        target = reference["error"][-1]
        found[n] = {
            "reference_error": target,
            "reference_steps": steps_to_reach(reference["step"], reference["error"], target),
            "steps": steps_to_reach(own["step"], own["error"], target),
        }
    return found


def _tables(results: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and cells of a table for each metric: rows for strategies, columns for sizes."""
    counts = [str(n) for n in results["n_train"]]
    first = next(iter(results["strategies"].values()))[counts[0]]
    tables = []
    for key, (_, label) in METRICS.items():
        if key not in first:
            continue
        rows = [
            [name, *(_cell(by_n[n][key]) for n in counts)]
            for name, by_n in results["strategies"].items()
        ]
        for name, against in results["against_reference"].items():
            cells = [_cell(against[key][n]["ratio"], 2) for n in counts]
            rows.append([f"{results['reference']} / {name}", *cells])
        for name, by_n in results["baselines"].items() if key == "energy" else ():
            rows.append([f"linear: {name}", *(_cell(by_n[n]) for n in counts)])
        tables.append((f"Test {label}", ["", *(f"N = {n}" for n in counts)], rows))
    return tables


def _cell(interval: Mapping[str, float], digits: int = 1) -> str:
    mean, low, high = (f"{interval[k]:.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def show(results: Mapping[str, Any], directory: Path) -> None:
    """Print the results.

    Args:
        results: content of ``study.json``.
        directory: where they are.
    """
    console = Console()
    for title, head, rows in _tables(results):
        table = Table(title=title)
        for k, name in enumerate(head):
            table.add_column(name, justify="right" if k else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(_about(results))
    console.print(f"study.json, study.md, study.png, study.pdf: {directory}")


def _about(results: Mapping[str, Any]) -> str:
    seeds = sorted({len(s) for s in results["seeds"].values()})
    return (
        f"Test errors on {results['n_test']} frames after {results['optimiser_steps']} steps: "
        f"geometric means over {' to '.join(map(str, seeds))} seeds with 95 % intervals; learning "
        f"rates chosen on {results['n_val']} validation frames."
    )


def markdown(results: Mapping[str, Any]) -> str:
    """The results as Markdown.

    Args:
        results: content of ``study.json``.

    Returns:
        Text of ``study.md``.
    """
    lines = ["# Data efficiency", "", _about(results)]
    for title, head, rows in _tables(results):
        lines += ["", f"## {title}", ""]
        lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", "## Labels and steps saved", ""]
    lines += [
        "| | labels | error as with | steps to the reference's last error |",
        "|---|---:|---:|---:|",
    ]
    key, reference = results["metric"], results["reference"]
    for name, against in results["against_reference"].items():
        for n in map(str, results["n_train"]):
            saved, steps = against[key][n]["labels_saved"], against["convergence"][n]
            bound = "" if saved["bound"] == "exact" else saved["bound"] + " "
            lines.append(
                f"| {name} | {n} | {bound}{saved['equivalent']:.0f} labels of {reference} "
                f"({saved['factor']:.1f} times) | {steps['steps'] or 'not reached'} of "
                f"{steps['reference_steps']} |"
            )
    lines += ["", "![learning curves](study.png)", ""]
    return "\n".join(lines)


def write_results(directory: Path, results: Mapping[str, Any]) -> None:
    """Write figure, table and, last, ``study.json``.

    Args:
        directory: folder of the study.
        results: content of ``study.json``.
    """
    from schnetpack_tpainn.study.curves import learning_curves
    from schnetpack_tpainn.study.figures import save

    figure = learning_curves(results)
    for suffix in ("png", "pdf"):
        save(figure, directory / f"study.{suffix}", dpi=300)
    write_text(directory / "study.md", markdown(results))
    write_json(directory / RESULTS_NAME, results)
