"""``tpainn-diagnose``: is a pretrained model a useful teacher for these labels?"""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate, to_absolute_path
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from schnetpack_tpainn.errors import DataError, TPaiNNError, TransferError
from schnetpack_tpainn.files import write_json
from schnetpack_tpainn.transfer.verdict import VERDICTS

__all__ = ["composed", "main"]

MEND = "Even so, mend what the diagnosis found: it would make a better teacher yet."
LOGGER = "schnetpack_tpainn.transfer.diagnose"

EPILOG = """\
examples:
  tpainn-diagnose data/source=tpainn_database data.datapath=labels.db data.num_test=100
  tpainn-diagnose data/source=tpainn_database data.datapath=labels.db data.num_test=100 \\
      transfer.checkpoint=runs/gfn2 --trial --steps 500
  tpainn-diagnose data/source=tpainn_ethanol data.num_train=50 --output diagnosis.json

It takes what `spktrain experiment=tpainn_autotune` takes, and judges by the training labels alone.
The pretrained network stands for its force field, which is not evaluated itself. A trial tunes on
half of the training labels, from the pretrained model and from scratch, and judges by the other
half.

exit status: 0 useful or doubtful; 1 likely to hurt, or a trial in which it hurt; 2 bad input.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tpainn-diagnose",
        description="Judge a pretrained model as the start of an autotuning run, before that run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, as for spktrain")
    parser.add_argument("--trial", action="store_true", help="tune for a while and compare")
    parser.add_argument("--steps", type=int, default=300, help="steps of the trial (default: 300)")
    parser.add_argument("--directory", type=Path, help="keep the trial's runs here, and resume it")
    parser.add_argument("--output", type=Path, help="write everything to this JSON file")
    return parser


@contextlib.contextmanager
def composed(overrides: Sequence[str]) -> Iterator[DictConfig]:
    """Compose the configuration that `spktrain` would have; paths in it are meant from here.

    Args:
        overrides: Hydra overrides.

    Yields:
        DictConfig: the configuration, Hydra's own part included.
    """
    import schnetpack.cli  # noqa: F401 - registers its resolvers

    os.environ.setdefault("PWD", str(Path.cwd()))  # SchNetPack looks for configs there
    with initialize_config_module("schnetpack.configs", version_base="1.2"):
        config = compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    try:
        yield config
    finally:
        HydraConfig.instance().cfg = None


def _apply(config: DictConfig) -> tuple[Any, list[int], list[int]]:
    """Apply the transfer in memory; its record, places of training and of validation labels."""
    from schnetpack_tpainn.transfer.context import Context
    from schnetpack_tpainn.transfer.strategies import Autotune
    from schnetpack_tpainn.transfer.task import TransferTask
    from schnetpack_tpainn.transfer.units import check_data_units

    task: Any = instantiate(config.task, model=instantiate(config.model))
    if not isinstance(task, TransferTask) or not isinstance(task.strategy, Autotune):
        raise TransferError(
            "expected a task with a transfer to diagnose (task=tpainn_transfer, transfer=full), "
            "got one without"
        )
    keys = task.energy_key, task.forces_key
    datamodule = instantiate(config.data)
    datamodule.prepare_data()
    datamodule.setup()
    check_data_units(datamodule, *keys)
    task.model.initialize_transforms(datamodule)
    record = task.strategy.apply(Context(task.model, datamodule, *keys))
    train, validation = ([*map(int, p)] for p in (datamodule.train_idx, datamodule.val_idx))
    return record, train, validation


def _show(console: Console, diagnosis: dict[str, Any]) -> None:
    from schnetpack_tpainn.transfer.diagnose import lines, tables

    for title, columns, rows in tables(diagnosis):
        table = Table(title=title, title_justify="left")
        for k, column in enumerate(columns):
            table.add_column(column, justify="right" if k else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in lines(diagnosis):
        console.print(escape(line), soft_wrap=True, highlight=False)


def _diagnose(arguments: argparse.Namespace, console: Console) -> int:
    overrides = list(arguments.overrides)
    if not any(word.startswith("experiment=") for word in overrides):
        overrides.insert(0, "experiment=tpainn_autotune")
    if arguments.steps < 1:
        raise TransferError(f"expected --steps of 1 or more, got {arguments.steps}")
    if arguments.output is not None and not arguments.output.absolute().parent.is_dir():
        raise DataError(f"{arguments.output.parent} does not exist: make the folder first")
    with composed(overrides) as config:
        # here the data module would leave its split file
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            record, train, validation = _apply(config)
        search = to_absolute_path(config.transfer.search)
    _show(console, record.diagnosis)
    hurts, trial = record.diagnosis["verdict"] == VERDICTS[-1], None
    if arguments.trial:
        from schnetpack_tpainn.study.trial import HURTS, describe, run_trial

        pinned = f"transfer.checkpoint={record.checkpoint}", f"transfer.search={search}"
        with tempfile.TemporaryDirectory() as folder:
            directory = arguments.directory or Path(folder)
            trial = run_trial(overrides, pinned, train, validation, directory, arguments.steps)
        console.print(describe(trial), soft_wrap=True, highlight=False)
        if hurts and trial["verdict"] != HURTS:
            console.print(MEND, soft_wrap=True, highlight=False)
        hurts = hurts or trial["verdict"] == HURTS
    if arguments.output is not None:
        content = {
            "schema": 1,
            "checkpoint": record.checkpoint,
            "diagnosis": record.diagnosis,
            "alignment": record.alignment,
            "trial": trial,
        }
        write_json(arguments.output, content)
    return int(hurts)


def _refused(error: BaseException) -> int:
    """Say on one line what was wrong; the exit status."""
    print("tpainn-diagnose:", *str(error).split(), file=sys.stderr)
    return 2


def main(words: Sequence[str] | None = None) -> int:
    """Diagnose from the command line.

    Args:
        words: the command line; that of the process when None.

    Returns:
        0 when the teacher is useful or doubtful, 1 when it is likely to hurt, 2 on an error of use.
    """
    arguments = _parser().parse_intermixed_args(words)
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: record.name != LOGGER)  # all that it says is printed anyway
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    try:
        return _diagnose(arguments, Console())
    except InstantiationException as error:
        cause: BaseException | None = error
        while isinstance(cause, InstantiationException):
            cause = cause.__cause__
        if not isinstance(cause, TPaiNNError):
            raise
        return _refused(cause)
    except (TPaiNNError, HydraException, OmegaConfBaseException) as error:
        return _refused(error)
