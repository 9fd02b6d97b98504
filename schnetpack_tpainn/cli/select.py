"""``tpainn-select``: the frames of a pool to label next."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from schnetpack_tpainn.cli.command import run_command
from schnetpack_tpainn.cli.label import read_sources
from schnetpack_tpainn.errors import DataError
from schnetpack_tpainn.files import file_sha256, write_json

__all__ = ["add_options", "main", "read_settings"]

ROWS = 20

EPILOG = """\
examples:
  tpainn-select pool.extxyz -n 25 -o next.xyz --model runs/pretrain
  tpainn-select md.traj@::10 -n 25 -o next.xyz --model runs/pretrain --labelled labels.db
  tpainn-select pool.db -n 25 -o next.xyz -m committee --model runs/ensemble_tpainn_autotune
  tpainn-label next.xyz -o next.db --calculator pyscf xc=pbe0 basis=def2-svp

methods:
  kmeans     centres of clusters, those without a labelled frame, in the features of a model, the
             pretrained one in the first place
  farthest   one after the other the frame farthest from all that are labelled or chosen, in the
             same space
  committee  where the forces of several models are farthest apart
  random     the control

Of equal frames (same composition, same distances) one is taken, none if it is labelled. Frames
stand in the order of choice: all but kmeans choose the first ones of a larger number. No label is
read. OUTPUT.json tells pool, settings, places and scores.

exit status: 0 written; 2 nothing was written.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide a choice.

    Args:
        parser: the parser of a command.
    """
    parser.add_argument("-n", "--number", required=True, type=int, help="frames to choose")
    parser.add_argument(
        "-m",
        "--method",
        default="kmeans",
        help="kmeans (default), farthest, committee or random",
    )
    parser.add_argument(
        "--reduce", default="max", help="committee: max (default) or mean over the atoms of a frame"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is random (default: 0)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        help="Å by which the distances of equal frames differ at most (default: 0.01)",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="frames at a time (default: 32)")
    parser.add_argument("--device", default="auto", help="cpu, cuda ...; the GPU if there is one")


def read_settings(arguments: argparse.Namespace) -> Any:
    """Settings of a choice.

    Args:
        arguments: of a parser with :func:`add_options`.

    Returns:
        ``SelectionSettings``. Refuses with ``SelectionError`` what is out of range.
    """
    from schnetpack_tpainn.selection.select import SelectionSettings

    names = ("method", "seed", "reduce", "batch_size", "device")
    return SelectionSettings(
        n=arguments.number,
        tolerance_ang=arguments.tolerance,
        **{name: getattr(arguments, name) for name in names},
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tpainn-select",
        description="Choose the frames of a pool to label next, and write them for tpainn-label.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "pool",
        nargs="+",
        help="files of any format that ASE reads, SchNetPack databases among them: all their "
        "frames, or FILE@START:STOP:STEP",
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, help="file to write (.xyz, .extxyz)"
    )
    add_options(parser)
    parser.add_argument(
        "--model",
        nargs="+",
        default=[],
        type=Path,
        help="run directory, best_model or .safetensors; for a committee several, or what "
        "tpainn-ensemble made. A best_model is a pickle and runs code: open only those that you "
        "trust",
    )
    parser.add_argument(
        "--labelled", nargs="+", default=[], help="files with the frames that have labels"
    )
    parser.add_argument(
        "--exclude", nargs="+", default=[], help="files with frames never to choose: test frames"
    )
    parser.add_argument("--plot", type=Path, help="draw a map of pool, labelled and selected here")
    return parser


def _select(arguments: argparse.Namespace, console: Console) -> None:
    settings = read_settings(arguments)
    if arguments.plot is not None and not arguments.model:
        raise DataError("--plot draws the features of a model, got none; give one with --model")
    from schnetpack_tpainn.data.structures import write_frames
    from schnetpack_tpainn.selection.output import check_output, draw_map
    from schnetpack_tpainn.selection.select import METHODS, select
    from schnetpack_tpainn.transfer.figures import save

    check_output(arguments.output)
    (pool, hashes), (labelled, _), (excluded, _) = (
        read_sources(s) for s in (arguments.pool, arguments.labelled, arguments.exclude)
    )
    selection = select(pool, settings, arguments.model, labelled, excluded)
    console.print(str(selection.available), soft_wrap=True, highlight=False)
    if arguments.plot is not None:
        points = selection.points
        if points is None:
            points = _points(pool, labelled, selection.available.index, arguments, settings)
        save(draw_map(points, selection), arguments.plot)
    content = {
        "schema": 1,
        "pool": hashes,
        "settings": asdict(settings),
        "models": _hashes(arguments.model) if METHODS[settings.method][0] else {},
        "available": asdict(selection.available),
        "index": selection.index,
        "scores": selection.scores,
    }
    write_json(arguments.output.with_suffix(".json"), content)
    write_frames(arguments.output, selection.frames)
    console.print(_table(selection, arguments.method))
    console.print(f"{len(selection.index)} frames: {arguments.output}", soft_wrap=True)


def _points(
    pool: Sequence[Any], labelled: Sequence[Any], index: list[int], arguments: Any, settings: Any
) -> Any:
    """Features of the frames of a method that does not look at them."""
    from schnetpack_tpainn.selection.evaluate import embed, find_models, open_models

    (model,) = open_models(find_models(arguments.model)[:1], settings.device)
    frames = [*(pool[i] for i in index), *labelled]
    model.check_elements({z for atoms in frames for z in atoms.numbers.tolist()})
    return embed(model, frames, settings.batch_size)


def _hashes(models: Sequence[Path]) -> dict[str, str]:
    from schnetpack_tpainn.selection.evaluate import model_file

    return {str(p): file_sha256(model_file(p)) for p in models}


def _table(selection: Any, method: str) -> Table:
    scored = {"committee": "disagreement (eV/Å)", "farthest": "distance", "kmeans": "share of pool"}
    table = Table("frame of the pool", "formula", scored.get(method, ""))
    rows = zip(selection.index, selection.frames, selection.scores, strict=True)
    for i, atoms, score in islice(rows, ROWS):
        shown = "" if score is None else f"{score:.3g}"
        table.add_row(str(i), atoms.get_chemical_formula(), shown)
    if len(selection.index) > ROWS:
        table.add_row("...")
    return table


def main(words: Sequence[str] | None = None) -> int:
    """Select from the command line.

    Args:
        words: the command line; that of the process when None.

    Returns:
        0 when the selection is written, 2 on an error of use.
    """
    return run_command(_parser(), _select, words)
