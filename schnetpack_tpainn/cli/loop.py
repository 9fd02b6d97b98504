"""``tpainn-loop``: rounds of select, label and tune."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from schnetpack_tpainn.cli.label import calculator_node, read_sources
from schnetpack_tpainn.cli.select import add_options, read_settings
from schnetpack_tpainn.errors import SelectionError, TPaiNNError
from schnetpack_tpainn.files import file_sha256

__all__ = ["main"]

EPILOG = """\
examples:
  tpainn-loop pool.extxyz -d runs/loop -n 10 --rounds 5 --checkpoint runs/pretrain \\
      --labelled labels.db --num-val 10 --num-test 50 --calculator pyscf xc=pbe0 basis=def2-svp
  tpainn-loop pool.extxyz -d runs/loop -n 10 --rounds 5 --checkpoint runs/pretrain -m committee \\
      --labelled labels.db --split runs/tuned/split.npz --calculator engine.yaml \\
      --overrides trainer.max_steps=2000 globals.lr=1e-3
  tpainn-loop all.db -d runs/what_if -n 10 --rounds 5 --checkpoint runs/pretrain \\
      --labelled all.db --split split.npz --labels-from all.db

Every round chooses NUMBER frames of the pool, labels them, and tunes the pretrained model on all
labels so far. Validation and test frames are those of the split, and are never chosen. A loop that
was stopped goes on where it was when the same command is given again; with more rounds it goes
further. DIRECTORY/loop.json tells what was chosen and the test errors.

exit status: 0 done; 2 refused, or the work was cut short.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tpainn-loop",
        description="Choose frames of a pool, label them, tune on all labels so far, and again.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pool", nargs="+", help="files that ASE reads, or FILE@START:STOP:STEP")
    parser.add_argument("-d", "--directory", required=True, type=Path, help="where everything goes")
    parser.add_argument("-r", "--rounds", required=True, type=int, help="how often")
    add_options(parser)
    parser.add_argument("--members", type=int, default=4, help="models of a committee (default: 4)")
    parser.add_argument(
        "--checkpoint", required=True, type=Path, help="pretrained run directory or .safetensors"
    )
    labels = parser.add_argument_group("labels so far")
    labels.add_argument("--labelled", required=True, type=Path, help="SchNetPack database")
    labels.add_argument("--split", type=Path, help="its parts: the split.npz of a run")
    labels.add_argument("--num-val", type=int, help="or: validation frames to draw from it")
    labels.add_argument("--num-test", type=int, help="test frames to draw from it")
    engine = parser.add_argument_group("new labels")
    source = engine.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "-c",
        "--calculator",
        nargs="+",
        metavar=("CLASS|FILE.yaml", "KEY=VALUE"),
        help="the calculator and its arguments, as for tpainn-label",
    )
    source.add_argument(
        "--labels-from", type=Path, help="the pool as a database that has all labels: a what-if"
    )
    engine.add_argument("-w", "--workers", type=int, help="local processes (default: all cores)")
    engine.add_argument("-s", "--scheduler", help="Dask scheduler to use instead")
    parser.add_argument("--parallel", type=int, help="training runs at once (default: all cores)")
    parser.add_argument(
        "--overrides", nargs="*", default=[], help="Hydra overrides of experiment=tpainn_autotune"
    )
    return parser


def _steps(overrides: Sequence[str], checkpoint: Path) -> int:
    """Optimiser steps of a tuning run, whose settings and network are checked."""
    from hydra.utils import instantiate

    from schnetpack_tpainn.cli.diagnose import composed
    from schnetpack_tpainn.transfer.keys import check_config
    from schnetpack_tpainn.transfer.runs import check_budget

    words = [*overrides, "data/source=tpainn_database", "data.datapath=labels.db"]
    with composed([*words, f"transfer.checkpoint={checkpoint}"]) as config:
        check_budget(config)
        steps = OmegaConf.select(config, "trainer.max_steps")
        if not isinstance(steps, int) or steps < 1:
            raise SelectionError(f"expected a number as trainer.max_steps, got {steps}; set it")
        check_config(config)
        instantiate(config.transfer).check(lambda: instantiate(config.model))
    return steps


def _loop(arguments: argparse.Namespace, console: Console) -> None:
    selection = read_settings(arguments)
    overrides = list(arguments.overrides)
    if not any(word.startswith("experiment=") for word in overrides):
        overrides.insert(0, "experiment=tpainn_autotune")
    from schnetpack_tpainn.selection.labels import Engine, Oracle, read_labels
    from schnetpack_tpainn.selection.loop import Loop, LoopSettings

    checkpoint = arguments.checkpoint.resolve()
    settings = LoopSettings(
        directory=arguments.directory.resolve(),
        rounds=arguments.rounds,
        selection=selection,
        checkpoint=checkpoint,
        overrides=tuple(overrides),
        steps=_steps(overrides, checkpoint),
        members=arguments.members,
        parallel=arguments.parallel,
    )
    pool, hashes = read_sources(arguments.pool)
    sizes = arguments.num_val, arguments.num_test
    start = read_labels(arguments.labelled, arguments.split, *sizes, selection.seed)
    labeller: Any
    if arguments.labels_from is not None:
        labeller = Oracle(arguments.labels_from.resolve(), len(pool))
    else:
        node = calculator_node(arguments.calculator)
        labeller = Engine(node, arguments.workers, arguments.scheduler)
    identity = {
        "pool": hashes,
        "labelled": file_sha256(arguments.labelled),
        "split": list(sizes) if arguments.split is None else file_sha256(arguments.split),
    }
    result = Loop(settings, pool, start, labeller, identity).run()
    console.print(_table(result["rounds"]))
    console.print(f"everything is in {settings.directory}", soft_wrap=True)


def _table(rounds: Sequence[dict[str, Any]]) -> Table:
    errors = {"energy_mae_mev": "energy (meV)", "forces_mae_mev_per_ang": "forces (meV/Å)"}
    shown = {k: name for k, name in errors.items() if all(k in r["test"] for r in rounds)}
    table = Table("round", "method", "labels", *shown.values(), title="MAE on the test frames")
    for r in rounds:
        cells = [f"{r['test'][key]:.1f}" for key in shown]
        table.add_row(str(r["round"]), r["method"], str(r["n_train"]), *cells)
    return table


def _refused(error: BaseException) -> int:
    print("tpainn-loop:", *str(error).split(), file=sys.stderr)
    return 2


def main(words: Sequence[str] | None = None) -> int:
    """Run a loop from the command line.

    Args:
        words: the command line; that of the process when None.

    Returns:
        0 when all rounds are done, 2 on an error of use or a failed step.
    """
    arguments = _parser().parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        _loop(arguments, Console())
    except InstantiationException as error:
        if not isinstance(error.__cause__, TPaiNNError):
            raise
        return _refused(error.__cause__)
    except (TPaiNNError, HydraException, OmegaConfBaseException) as error:
        return _refused(error)
    except KeyboardInterrupt:
        print("tpainn-loop: stopped; the same command goes on from here", file=sys.stderr)
        return 2
    return 0
