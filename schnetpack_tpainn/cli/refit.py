"""``tpainn-refit``: an OpenMM force field's own parameters, fitted to few labels."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from schnetpack_tpainn.cli.command import run_command
from schnetpack_tpainn.errors import DataError

__all__ = ["main"]

EPILOG = """\
examples:
  tpainn-refit labels.db -o refitted.xml --model spcfw -n 10
  tpainn-refit water.db -o refitted.xml --model iamoeba --split runs/autotune/split.npz
  tpainn-refit methanol.extxyz -o refitted.xml --model gaff.xml --topology box.pdb
  spktrain experiment=tpainn_pretrain_water data.source.model=[refitted.xml] \\
      data.datapath=data/water_refitted.db

Lengths and constants of bonds and angles, torsions, Lennard-Jones parameters and polarizabilities
each get a factor between 1/2 and 2, all charges one. OUTPUT.refit.json has them, and the errors
of labels predicted without them. Nothing but training labels belongs here: say which by --split
or -n.

exit status: 0 written; 2 nothing was written.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tpainn-refit",
        description="Fit the parameters of an OpenMM force field to a few labels of its liquid.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "labels",
        type=Path,
        help="SchNetPack database, or a file that ASE reads with energies and forces (eV, eV/Å)",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="force field to write")
    parser.add_argument(
        "-m",
        "--model",
        default="iamoeba",
        help="iamoeba (default), spcfw, tip3p, or an OpenMM XML file",
    )
    parser.add_argument("--topology", help="PDB file, for other liquids than water")
    parser.add_argument("--split", type=Path, help="split.npz of a run, for its training labels")
    parser.add_argument("-n", "--number", type=int, help="the first so many labels")
    parser.add_argument("--cutoff", type=float, help="of pair terms in Å (default: what fits)")
    parser.add_argument("--folds", type=int, help="of the cross-validation (default: at most 10)")
    parser.add_argument("--platform", default="CPU", help="OpenMM's platform (default: CPU)")
    return parser


def _labels(arguments: argparse.Namespace) -> list[Any]:
    from ase.io import read
    from ase.io.formats import UnknownFileTypeError

    from schnetpack_tpainn.data.additive import read_labelled
    from schnetpack_tpainn.data.training import existing_file, training_rows

    path, number = existing_file(str(arguments.labels)), arguments.number
    if arguments.split is not None:
        if path.suffix != ".db":
            raise DataError(f"expected the database that --split is of (data.datapath), got {path}")
        split = existing_file(str(arguments.split))
        return list(read_labelled(path, training_rows(split, number, path)))
    try:
        frames = list(read_labelled(path)) if path.suffix == ".db" else read(path, ":")
    except (ValueError, OSError, IndexError, KeyError, UnknownFileTypeError) as error:
        raise DataError(
            f"expected labelled structures, cannot read {path}: {error}; give a database or a file "
            "that ASE reads"
        ) from error
    if number is not None and not 2 <= number <= len(frames):
        raise DataError(f"expected -n from 2 to the {len(frames)} labels of {path}, got {number}")
    return list(frames[:number])


def _table(summary: dict[str, Any]) -> Table:
    table = Table("parameter", "before", "after" if summary["used"] else "after (fit not used)")
    for name, change in summary["parameters"].items():
        before, after = change if isinstance(change, list) else (1.0, change)
        table.add_row(name, f"{before:.6g}", f"{after:.6g}")
    for key, unit in (("forces_mae", "meV/Å"), ("energy_mae", "meV")):
        errors = summary["cross_validation_mev"]
        table.add_row(
            f"{key}, {unit}, unseen labels",
            *(f"{errors[when][key]:.0f}" for when in ("before", "after")),
        )
    return table


def _refit(arguments: argparse.Namespace, console: Console) -> None:
    from schnetpack_tpainn.data.openmm_refit import refit_openmm

    output = arguments.output
    if output.suffix != ".xml" or output.exists():
        raise DataError(f"expected a new file that ends with .xml, got -o {output}")
    refit = refit_openmm(
        _labels(arguments),
        arguments.model,
        arguments.topology,
        arguments.cutoff,
        arguments.folds,
        arguments.platform,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    refit.write(output)
    console.print(_table(refit.summary))


def main(words: Sequence[str] | None = None) -> int:
    """Refit from the command line.

    Args:
        words: the command line; that of the process when None.

    Returns:
        0 when the force field is written, 2 on an error of use.
    """
    return run_command(_parser(), _refit, words)
