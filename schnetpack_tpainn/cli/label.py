"""``tpainn-label``: energies and forces of any structures with any ASE calculator."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io.formats import string2index
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from schnetpack_tpainn.cli.command import run_command
from schnetpack_tpainn.errors import DataError, LabelError
from schnetpack_tpainn.files import file_sha256

__all__ = ["calculator_node", "main", "read_sources"]

SHORT = {
    "espresso": "schnetpack_tpainn.data.espresso.QuantumEspresso",
    "openmm": "schnetpack_tpainn.data.openmm.OpenMMForceField",
    "pyscf": "schnetpack_tpainn.data.pyscf.PySCF",
    "rdkit": "schnetpack_tpainn.data.rdkit.RDKitForceField",
    "tblite": "tblite.ase.TBLite",
}
ROWS = 20

EPILOG = """\
examples:
  tpainn-label frames.extxyz -o labels.db --calculator pyscf xc=pbe0 basis=def2-svp --atomrefs
  tpainn-label md.traj@::50 more.xyz -o gfn2.db --calculator tblite.ase.TBLite method=GFN2-xTB
  tpainn-label water.extxyz -o pbe.db --calculator espresso.yaml --scheduler tcp://node1:8786

The calculator is a class that Python can import (espresso, openmm, pyscf, rdkit and tblite are
short for five), or a YAML file with `_target_:` and arguments, which may nest. Work that was
stopped goes on where it was when the same command is given again. Frames that fail are kept in
OUTPUT.failed.extxyz.

exit status: 0 all frames labelled; 1 some failed; 2 nothing was done, or the work was cut short.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tpainn-label",
        description="Label structures with any ASE calculator and store them as a SchNetPack "
        "database (eV, eV/Å): in parallel, resumably, failures kept apart.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "frames",
        nargs="+",
        help="files of any format that ASE reads: all their frames, or FILE@START:STOP:STEP",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="database to make (.db)")
    parser.add_argument(
        "-c",
        "--calculator",
        required=True,
        nargs="+",
        metavar=("CLASS|FILE.yaml", "KEY=VALUE"),
        help="the calculator and its arguments",
    )
    parser.add_argument("-w", "--workers", type=int, help="local processes (default: all cores)")
    parser.add_argument(
        "-s", "--scheduler", help="Dask scheduler to use instead: its address or scheduler file"
    )
    parser.add_argument(
        "--atomrefs",
        action="store_true",
        help="also compute isolated-atom energies and store them as the elements' offsets",
    )
    return parser


def calculator_node(words: Sequence[str]) -> dict[str, Any]:
    """Hydra node of a calculator.

    Args:
        words: class or YAML file, then ``key=value`` with YAML values; dots in keys nest.

    Returns:
        ``{"_target_": class, key: value, ...}``.

    Raises:
        DataError: a word is not ``key=value``, or the file is absent or names no class.
    """
    name, *pairs = words
    for pair in pairs:
        if "=" not in pair:
            raise DataError(f"expected KEY=VALUE after the calculator, got {pair!r}")
    node: Any = OmegaConf.create({"_target_": SHORT.get(name, name)})
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise DataError(f"calculator file {name} does not exist")
        node = OmegaConf.load(name)
    config: Any = OmegaConf.to_container(OmegaConf.merge(node, OmegaConf.from_dotlist(pairs)))
    if "_target_" not in config:
        raise DataError(f"expected `_target_: <class>` in {name}, got {', '.join(config)}")
    return config


def read_sources(sources: Sequence[str]) -> tuple[list[Atoms], dict[str, str]]:
    """Read frames as the command line names them.

    Args:
        sources: files that ASE reads, or ``FILE@START:STOP:STEP``.

    Returns:
        All frames (Å), and source without its folder -> hash of the file.

    Raises:
        DataError: a file does not exist or cannot be read, or has no such frames.
    """
    from schnetpack_tpainn.data.structures import read_frames

    frames: list[Atoms] = []
    hashes = {}
    for source in sources:
        name, index = source, ":"
        if not Path(name).is_file() and "@" in name:
            name, index = source.rsplit("@", 1)
        file = Path(name)
        if not file.is_file():
            raise DataError(f"file {name} does not exist")
        try:
            where: Any = string2index(index)
            chosen: Any = read_frames(file)[where]
        except (IndexError, TypeError) as error:
            raise DataError(f"expected FILE@START:STOP:STEP, got {source}: {error}") from error
        frames += chosen if isinstance(chosen, list) else [chosen]
        hashes[Path(source).name] = file_sha256(file)
    return frames, hashes


def _atomrefs(calculator: dict[str, Any], frames: Sequence[Atoms]) -> dict[str, list[float]]:
    from schnetpack_tpainn.data.label import make_calculator
    from schnetpack_tpainn.data.offsets import element_values

    engine = make_calculator(calculator)
    if not hasattr(engine, "isolated_atom_energies"):
        raise LabelError(
            f"{calculator['_target_']} gives no isolated-atom energies (the class has no method "
            "isolated_atom_energies): leave --atomrefs out, offsets can be fitted to the labels"
        )
    symbols = {symbol for atoms in frames for symbol in atoms.get_chemical_symbols()}
    return {"energy": element_values(engine.isolated_atom_energies(symbols))}


def _label(arguments: argparse.Namespace, console: Console) -> int:
    from schnetpack_tpainn.data.label import label_frames

    if arguments.output.exists():
        raise DataError(
            f"{arguments.output} exists and is never written over; choose another path or delete it"
        )
    calculator = calculator_node(arguments.calculator)
    frames, hashes = read_sources(arguments.frames)
    atomrefs = _atomrefs(calculator, frames) if arguments.atomrefs else None
    result = label_frames(
        frames,
        calculator,
        arguments.output,
        metadata={"structures_from": hashes},
        atomrefs=atomrefs,
        n_workers=arguments.workers,
        scheduler=arguments.scheduler,
    )
    if result.path is not None:
        console.print(f"{result.n_labelled} frames labelled: {result.path}", soft_wrap=True)
    if not result.failed:
        return 0
    table = Table("frame (from 0)", "formula", "why", title=f"{len(result.failed)} frames failed")
    for i in sorted(result.failed)[:ROWS]:
        table.add_row(str(i), frames[i].get_chemical_formula(), result.failed[i])
    console.print(table)
    console.print(f"they are kept, with the reason, in {result.failed_path}", soft_wrap=True)
    return 1


def main(words: Sequence[str] | None = None) -> int:
    """Label structures from the command line.

    Args:
        words: the command line; that of the process when None.

    Returns:
        0 when all frames are labelled, 1 when some failed, 2 on an error of use.
    """
    try:
        return run_command(_parser(), _label, words)
    except KeyboardInterrupt:
        print("tpainn-label: stopped; the same command goes on from here", file=sys.stderr)
        return 2
