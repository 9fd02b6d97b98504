"""Report of a ladder: what each rung cost, what it learnt, and what it is worth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.files import write_json, write_text
from schnetpack_tpainn.ladder.settings import LadderSettings
from schnetpack_tpainn.study.comparison import read_run
from schnetpack_tpainn.study.jobs import Job
from schnetpack_tpainn.transfer.figures import COLOURS, save
from schnetpack_tpainn.transfer.tables import Table, markdown
from schnetpack_tpainn.transfer.tables import show as show_tables

__all__ = ["RESULTS_NAME", "collect", "show", "write_results"]

SCHEMA = 1
RESULTS_NAME = "ladder.json"
FIGURE_NAME = "ladder.png"
TARGETS = {"forces_mae_mev_per_ang": "forces (meV/Å)", "energy_mae_mev": "energy (meV)"}


def collect(
    settings: LadderSettings,
    jobs: Sequence[Job],
    costs: Sequence[float | None],
    tuned: Sequence[Job],
) -> dict[str, Any]:
    """Content of ``ladder.json``, from the reports of the runs.

    Args:
        settings: the ladder.
        jobs: the run of every rung.
        costs: seconds of a label of every rung, on one core.
        tuned: the tuning from every rung, or none.

    Returns:
        JSON-serialisable content.
    """
    rungs = []
    for k, (rung, job) in enumerate(zip(settings.rungs, jobs, strict=True)):
        report = read_run(job.directory)
        n = report["n_train"] + report["n_val"] + report["n_test"]
        rungs.append(
            {
                "name": rung.name,
                "directory": str(job.directory.relative_to(settings.directory)),
                "n_frames": n,
                "label_s": costs[k],
                "labels_s": None if costs[k] is None else n * (costs[k] or 0.0),
                "n_failed": report["data"].get("n_failed", 0),
                "training_s": report["wall_time_s"]["training"],
                "optimiser_steps": report["optimiser_steps"],
                "before": report["zero_shot"].get("aligned"),
                "after": report["test"],
                "tuned": read_run(tuned[k].directory)["test"] if tuned else None,
            }
        )
    return {
        "schema": SCHEMA,
        "rungs": rungs,
        "tune": None if settings.tune is None else list(settings.tune),
        "versions": software_versions(),
    }


def _number(value: float | None, digits: str = ".1f") -> str:
    return "" if value is None else f"{value:{digits}}"


def _error(entry: Mapping[str, float] | None, key: str) -> str:
    return "" if entry is None else _number(entry.get(key))


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Cost and errors of every rung.

    Args:
        results: content of ``ladder.json``.

    Returns:
        The tables.
    """
    rungs = results["rungs"]
    cost = Table(
        "Cost",
        ["rung", "frames", "failed", "ms per label", "labels (s)", "training (s)", "steps"],
        [
            [
                rung["name"],
                str(rung["n_frames"]),
                str(rung["n_failed"]),
                _number(None if rung["label_s"] is None else 1e3 * rung["label_s"], ".3g"),
                _number(rung["labels_s"], ".0f"),
                _number(rung["training_s"], ".0f"),
                str(rung["optimiser_steps"]),
            ]
            for rung in rungs
        ],
        "Labels on one core, from a few that were timed, without the dynamics that sampled the "
        "frames; training by the clock.",
    )
    found = [cost]
    for key, what in TARGETS.items():
        if not all(key in rung["after"] for rung in rungs):
            continue
        rows = [
            [r["name"], *(_error(r[column], key) for column in ("before", "after", "tuned"))]
            for r in rungs
        ]
        found.append(
            Table(f"Test MAE, {what}", ["rung", "before training", "after", "tuned"], rows)
        )
    note = (
        "Before and after training, on held-out labels of the rung itself: what the rung before "
        "knew of it once aligned, and what was learnt."
    )
    if results["tune"]:
        note += f" Tuned: the same tuning ({' '.join(results['tune'])}) from every rung."
    found.append(Table("How to read it", [], [], note))
    return found


def draw(results: Mapping[str, Any]) -> Figure:
    """Errors of every rung, before and after its training, and tuned from it.

    Args:
        results: content of ``ladder.json``.

    Returns:
        The figure.
    """
    rungs = results["rungs"]
    keys = [key for key in TARGETS if all(key in r["after"] for r in rungs)]
    figure = Figure(figsize=(4.2 * len(keys), 3.4), layout="constrained")
    styles = {
        "before": ("before its training", COLOURS["zero-shot"], "o--"),
        "after": ("after", COLOURS["pretrain"], "o-"),
        "tuned": ("tuned on DFT", COLOURS["autotune"], "s-"),
    }
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        for column, (label, colour, style) in styles.items():
            points = [(k, r[column][key]) for k, r in enumerate(rungs) if r[column] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=colour, label=label)
        axes.set_yscale("log")
        axes.set_xticks(range(len(rungs)), [r["name"] for r in rungs])
        axes.set_ylabel(f"test MAE, {TARGETS[key]}")
        axes.legend(frameon=False)
    return figure


def write_results(directory: Path, results: Mapping[str, Any]) -> None:
    """Write ``ladder.md``, ``ladder.png`` and, last, ``ladder.json``.

    Args:
        directory: where.
        results: content of ``ladder.json``.
    """
    save(draw(results), directory / FIGURE_NAME)
    names = " → ".join(rung["name"] for rung in results["rungs"])
    last = f"The last rung, `{results['rungs'][-1]['directory']}`, is the one to tune from."
    text = markdown(f"Ladder: {names}", [last], tables(results), {"Cost": [FIGURE_NAME]})
    write_text(directory / "ladder.md", text)
    write_json(directory / RESULTS_NAME, results)


def show(results: Mapping[str, Any], directory: Path) -> None:
    """Print the tables.

    Args:
        results: content of ``ladder.json``.
        directory: where the files are.
    """
    show_tables(tables(results))
    print(f"report, figure, models: {directory}")
