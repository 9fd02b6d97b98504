"""``tpainn-analyze``: properties of liquids, and of other systems, from MD trajectories."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from schnetpack_tpainn.cli.command import run_command
from schnetpack_tpainn.errors import AnalysisError

__all__ = ["main"]

EPILOG = """\
examples:
  tpainn-analyze runs/md -o analysis
  tpainn-analyze runs/md_spcfw runs/md_autotuned --label SPC/Fw --label autotuned -o analysis
  tpainn-analyze water.extxyz --interval-fs 10 --only rdf density --pairs O-O -o analysis

A trajectory is the output folder of tpainn-md or any file that ASE reads. What it does not allow,
such as the density of a molecule, is left out and said; with --only it is an error.

properties:
  rdf             partial radial distribution functions, first peak, coordination number
  diffusion       self-diffusion of each kind of molecule, corrected for the box; not of NPT
  density         with the standard error of a correlated series
  hydrogen_bonds  per molecule: O-O < 3.5 Å, H-O...O < 30°
  contacts        closest approach of each pair of elements
  temperature     its mean
  drift           of the total energy; NVE of tpainn-md
  molecules       how many dissociate

OUTPUT holds analysis.json (all numbers and curves), analysis.md and analysis.png.

exit status: 0 written; 2 nothing was written.
"""

OPTIONS = (
    "only",
    "pairs",
    "r_max_ang",
    "bin_ang",
    "intramolecular",
    "fit_from_ps",
    "viscosity_mpa_s",
    "temperature_k",
    "n_blocks",
    "seed",
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tpainn-analyze",
        description="Structure, diffusion, density and stability of trajectories, side by side, "
        "with error bars.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("trajectories", nargs="+", help="output folders of tpainn-md, or files that ASE reads")
    add("-o", "--output", required=True, type=Path, help="folder to make")
    add("--label", action="append", help="name of a trajectory, once for each, in their order")
    add("--only", nargs="+", help="find these properties alone")
    trajectory = parser.add_argument_group("frames")
    add = trajectory.add_argument
    add("--interval-fs", type=float, help="time between frames, for files not of tpainn-md")
    add("--skip-ps", type=float, default=0.0, help="leave out at the beginning (default: 0)")
    add("--every", type=int, default=1, help="take every so many frames (default: 1)")
    structure = parser.add_argument_group("radial distribution functions")
    add = structure.add_argument
    add("--pairs", nargs="+", help="elements, such as O-O O-H (default: of the three commonest)")
    add("--r-max-ang", type=float, help="largest distance (default: half the box, at most 10)")
    add("--bin-ang", type=float, default=0.02, help="width of the bins (default: 0.02)")
    add("--intramolecular", action="store_true", help="count pairs within a molecule, too")
    add("--n-blocks", type=int, default=5, help="blocks for the errors (default: 5)")
    diffusion = parser.add_argument_group("diffusion")
    add = diffusion.add_argument
    add("--fit-from-ps", type=float, default=2.0, help="shortest time lag of the fit (default: 2)")
    add(
        "--viscosity-mpa-s",
        type=float,
        help="for the finite-size correction (default: water's by experiment at 298 K, 0.89)",
    )
    add("--temperature-k", type=float, help="for the same (default: that of the trajectory)")
    add("--seed", type=int, default=0, help="of the posterior samples (default: 0)")
    return parser


def _analyse(arguments: argparse.Namespace, console: Console) -> None:
    from schnetpack_tpainn.analysis import (
        AnalysisSettings,
        analyse,
        read_trajectory,
        write_analysis,
    )
    from schnetpack_tpainn.analysis.output import check_output, remarks

    settings = AnalysisSettings(**{name: getattr(arguments, name) for name in OPTIONS})
    check_output(arguments.output)
    labels = arguments.label or [None] * len(arguments.trajectories)
    if len(labels) != len(arguments.trajectories):
        raise AnalysisError(
            f"expected a --label for each of {len(arguments.trajectories)} trajectories, got "
            f"{len(labels)}"
        )
    read = [
        read_trajectory(source, label, arguments.interval_fs, arguments.skip_ps, arguments.every)
        for source, label in zip(arguments.trajectories, labels, strict=True)
    ]
    names = [trajectory.label for trajectory in read]
    if len(set(names)) < len(names):
        raise AnalysisError(f"expected different names, got {names}; give a --label for each")
    analyses = [analyse(trajectory, settings) for trajectory in read]
    write_analysis(analyses, settings, arguments.output)
    console.print(_table(analyses))
    for text in remarks(analyses):
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    console.print(f"written: {arguments.output}", soft_wrap=True, highlight=False, markup=False)


def _table(analyses: Sequence[Any]) -> Table:
    from schnetpack_tpainn.analysis.table import rows

    found = rows(analyses)
    experiment = any(row.experiment for row in found)
    table = Table("", *(analysis.trajectory.label for analysis in analyses))
    if experiment:
        table.add_column("experiment")
    for row in found:
        table.add_row(row.name, *row.cells, *([row.experiment] if experiment else []))
    return table


def main(words: Sequence[str] | None = None) -> int:
    """Analyse from the command line.

    Args:
        words: the command line; that of the process when None.

    Returns:
        0 when the analysis is written, 2 on an error of use.
    """
    return run_command(_parser(), _analyse, words)
