"""The folder of an analysis: written whole or not at all."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from schnetpack_tpainn.analysis.analyse import Analysis
from schnetpack_tpainn.analysis.figures import draw
from schnetpack_tpainn.analysis.settings import AnalysisSettings
from schnetpack_tpainn.analysis.table import SOURCES, rows
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import AnalysisError

__all__ = ["check_output", "remarks", "write_analysis"]

SCHEMA = 1
DPI = 200


def check_output(folder: Path) -> None:
    """Refuse a folder that would not be written.

    Args:
        folder: the folder.

    Raises:
        AnalysisError: there is something in it, or it is none.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AnalysisError(f"{folder} exists and is never written over; choose another output")


def write_analysis(
    analyses: Sequence[Analysis], settings: AnalysisSettings, folder: str | Path
) -> None:
    """Write ``analysis.json``, ``analysis.md`` and ``analysis.png``.

    Args:
        analyses: the trajectories.
        settings: what they were analysed with.
        folder: a new folder; made at the end, with all three files.

    Raises:
        AnalysisError: the folder exists.
    """
    folder = Path(folder).absolute()
    check_output(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir()
    try:
        content = {
            "schema": SCHEMA,
            "settings": asdict(settings),
            "trajectories": [_record(analysis) for analysis in analyses],
            "versions": software_versions(),
        }
        text = json.dumps(content, indent=2, default=_plain, ensure_ascii=False)
        (temporary / "analysis.json").write_text(text + "\n", encoding="utf-8")
        (temporary / "analysis.md").write_text(_markdown(analyses), encoding="utf-8")
        draw(analyses).savefig(temporary / "analysis.png", dpi=DPI)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value)} is no JSON")


def _record(analysis: Analysis) -> dict[str, Any]:
    """Everything but the trajectory's own arrays."""
    trajectory, run = analysis.trajectory, analysis.trajectory.run
    found = {k: v for k, v in vars(analysis).items() if k != "trajectory"}
    contacts = analysis.contacts
    if contacts is not None:
        found["contacts"] = {k: v for k, v in vars(contacts).items() if k != "hydrogen_bonds"}
    return {
        "label": trajectory.label,
        "source": trajectory.source,
        "formula": trajectory.formula,
        "n_frames": trajectory.n_frames,
        "interval_fs": trajectory.interval_fs,
        "start_ps": trajectory.start_ps,
        "run": None if run is None else {k: v for k, v in vars(run).items() if k != "log"},
        **{name: _unfold(value) for name, value in found.items()},
    }


def _unfold(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _unfold(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_unfold(v) for v in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def remarks(analyses: Sequence[Analysis]) -> list[str]:
    """What one should know beside the table.

    Args:
        analyses: the trajectories.

    Returns:
        One line per remark.
    """
    found = []
    for analysis in analyses:
        label = analysis.trajectory.label
        found += [f"{label}: {text}." for text in analysis.warnings]
        found += [f"{label}, no {name}: {text}." for name, text in analysis.missing.items()]
        if analysis.finite_size is not None:
            size = analysis.finite_size
            found.append(
                f"{label}: corrected for the box by Yeh and Hummer with {size.viscosity_mpa_s:g} "
                f"mPa s ({size.source}), {size.temperature_k:.1f} K, {size.length_ang:.2f} Å: "
                f"{1e9 * size.correction_m2_per_s:+.3f}·10⁻⁹ m²/s."
            )
    return found


def _markdown(analyses: Sequence[Analysis]) -> str:
    table = rows(analyses)
    experiment = any(row.experiment for row in table)
    head = ["", *(a.trajectory.label for a in analyses), *(["experiment"] if experiment else [])]
    lines = ["# Analysis", "", _line(head), _line(["---"] * len(head))]
    for row in table:
        lines.append(_line([row.name, *row.cells, *([row.experiment] if experiment else [])]))
    lines += ["", "Errors are standard errors. ![](analysis.png)", ""]
    lines += [f"- {text}" for text in remarks(analyses)]
    if experiment:
        lines += [f"- {text}" for text in SOURCES]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
