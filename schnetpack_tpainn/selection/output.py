"""Write a selection as tpainn-label reads it, and draw it."""

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure

from schnetpack_tpainn.data.structures import read_frames
from schnetpack_tpainn.errors import DataError
from schnetpack_tpainn.selection.select import Selection
from schnetpack_tpainn.transfer.figures import COLOURS

__all__ = ["check_output", "draw_map", "read_selection"]

NUMBERED = 30  # frames that get their number in the map


def check_output(path: Path) -> None:
    """Refuse a file that would not be written.

    Args:
        path: the file.

    Raises:
        DataError: its name does not end in ``.xyz`` or ``.extxyz``, it or the ``.json`` beside it
            exists, or its folder does not.
    """
    if path.suffix not in (".xyz", ".extxyz"):
        raise DataError(f"expected an output that ends in .xyz or .extxyz, got {path}")
    for file in (path, path.with_suffix(".json")):
        if file.exists():
            raise DataError(f"{file} exists and is never written over; choose another path")
    if not path.absolute().parent.is_dir():
        raise DataError(f"{path.parent} does not exist: make the folder first")


def read_selection(path: Path) -> list[Atoms]:
    """Read the frames of a selection.

    Args:
        path: the file.

    Returns:
        The frames, in the order of choice.

    Raises:
        DataError: the file is no selection.
    """
    frames = read_frames(path)
    if any("pool_index" not in atoms.info for atoms in frames):
        raise DataError(f"expected frames of tpainn-select in {path}, got others; delete it")
    return frames


def draw_map(points: np.ndarray, selection: Selection) -> Figure:
    """Pool, labelled and chosen frames along the two main components of their features.

    Args:
        points: available frames and after them the labelled ones, shape (M + K, D).
        selection: what was chosen of them.

    Returns:
        The figure; the first frames carry their place in the order of choice.
    """
    centred = points - points.mean(0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    flat = np.pad(left * size, [(0, 0), (0, max(0, 2 - len(size)))])[:, :2]  # (M + K, 2)
    share = size**2 / max(float((size**2).sum()), np.finfo(float).tiny)
    index = selection.available.index
    place = {i: k for k, i in enumerate(index)}
    chosen = flat[[place[i] for i in selection.index]]
    figure = Figure(figsize=(5.6, 5.0), layout="constrained")
    axes = figure.subplots()
    known = flat[len(index) :]
    layers: list[tuple[np.ndarray, str, dict[str, Any]]] = [
        (flat[: len(index)], "pool", {"s": 9, "color": COLOURS["force field"], "alpha": 0.6}),
        (known, "labelled", {"s": 30, "color": COLOURS["scratch"], "marker": "s"}),
        (chosen, "selected", {"s": 34, "color": COLOURS["autotune"]}),
    ]
    for xy, name, style in layers:
        if len(xy):
            axes.scatter(*xy.T, label=f"{name} ({len(xy)})", linewidths=0, **style)
    for k, xy in enumerate(chosen[:NUMBERED], 1):
        axes.annotate(str(k), xy, (3, 3), textcoords="offset points", fontsize=7)
    for axis, part, name in zip((axes.xaxis, axes.yaxis), share, ("first", "second"), strict=False):
        axis.set_label_text(f"{name} component of the features ({100 * part:.0f} % of the spread)")
    axes.legend()
    return figure
