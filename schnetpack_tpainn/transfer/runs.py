"""Run directories: find the last finished run, and refuse to write over one."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import instantiate, to_absolute_path
from omegaconf import DictConfig, OmegaConf

from schnetpack_tpainn.data.parallel import end_with_parent
from schnetpack_tpainn.errors import CheckpointError, TPaiNNError, TransferError
from schnetpack_tpainn.transfer.keys import check_config

__all__ = [
    "REPORT_NAME",
    "Preflight",
    "check_budget",
    "check_run_directory",
    "find_last_run",
    "read_scratch_run",
]

REPORT_NAME = "report.json"
CONFIG_NAME = "config.yaml"  # what SchNetPack writes
SECTIONS = ("data", "model", "task", "transfer", "globals", "seed", "trainer.max_steps")


def find_last_run(path: str | Path, stage: str) -> Path:
    """Run directory below a folder whose report is the newest of a stage.

    Args:
        path: folder that holds run directories, at any depth up to three.
        stage: ``pretrain`` or ``autotune``.

    Returns:
        The run directory.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    reports = [r for depth in ("*", "*/*", "*/*/*") for r in path.glob(f"{depth}/{REPORT_NAME}")]
    for report in sorted(reports, key=lambda r: r.stat().st_mtime, reverse=True):
        if _stage(report) == stage:
            return report.parent
    raise CheckpointError(
        f"expected a finished {stage}ing run below {path}, got none; run "
        f"`spktrain experiment=tpainn_{stage}` first, or name a model with transfer.checkpoint="
    )


def _stage(report: Path) -> str | None:
    try:
        content = json.loads(report.read_text())
    except (OSError, ValueError):
        return None
    return content.get("stage") if isinstance(content, dict) else None


def read_scratch_run(directory: Path) -> dict[str, Any]:
    """Report of a finished run from scratch, to compare a transfer with.

    Args:
        directory: its run directory.

    Returns:
        The content of its ``report.json``.

    Raises:
        TransferError: there is no such report, or it is one of another strategy.
    """
    report = directory / REPORT_NAME
    try:
        content = json.loads(report.read_text())
    except (OSError, ValueError) as error:
        raise TransferError(
            f"callbacks.report.scratch: expected the directory of a finished run, got no readable "
            f"{report} ({error}); run `spktrain experiment=tpainn_autotune transfer=scratch` first"
        ) from error
    if content.get("strategy") != "scratch":
        raise TransferError(
            f"callbacks.report.scratch: expected a run with transfer=scratch, got {directory} with "
            f"transfer={content.get('strategy')}"
        )
    return content


def check_budget(config: DictConfig) -> None:
    """Refuse a budget at whose end no weights would be validated and kept.

    Args:
        config: the configuration of the run.

    Raises:
        TPaiNNError: the steps are no multiple of the validation interval.
    """
    steps = OmegaConf.select(config, "trainer.max_steps")
    interval = OmegaConf.select(config, "trainer.val_check_interval")
    across_epochs = OmegaConf.select(config, "trainer.check_val_every_n_epoch") is None
    if across_epochs and isinstance(steps, int) and isinstance(interval, int) and steps % interval:
        raise TPaiNNError(
            "expected trainer.max_steps to be a multiple of trainer.val_check_interval, as weights "
            f"are kept when they are validated, got {steps} and {interval}; change one of them"
        )


def check_run_directory(directory: str | Path, config: DictConfig) -> None:
    """Let a run begin in a new directory or go on in its own, and in no other.

    Args:
        directory: the run directory.
        config: the configuration of the run.

    Raises:
        TPaiNNError: the directory holds a finished run, or one of another configuration.
    """
    directory = Path(directory)
    if not directory.exists() or not any(directory.iterdir()):
        return
    if (directory / REPORT_NAME).exists():
        raise TPaiNNError(
            f"{directory} holds a finished run and is not written over; choose another run.id"
        )
    stored = directory / CONFIG_NAME
    if not stored.exists():
        raise TPaiNNError(
            f"expected a new directory or an unfinished run, got {directory} with other files; "
            "choose another run.id"
        )
    old: Any = OmegaConf.load(stored)
    for section in SECTIONS:
        if _plain(old, section) != _plain(config, section):
            raise TPaiNNError(
                f"{directory} holds an unfinished run with another `{section}` section; repeat "
                "its command to resume it, or choose another run.id"
            )


def _plain(config: Any, section: str) -> Any:
    node = OmegaConf.select(config, section)
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


class Preflight(Callback):
    """Hydra callback: finds what would fail before a run directory is made or touched.

    It ends the program with a one-line message rather than a traceback.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the run directory, and the pretrained model against this run's.

        Args:
            config: the whole configuration, Hydra's included.
            **kwargs: unused.

        Raises:
            SystemExit: a check failed; its text says what was expected, got, and what to do.
        """
        HydraConfig.instance().set_config(config)  # for the resolver `hydra:`, set later otherwise
        _check(config, config.hydra.run.dir)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """The same for each run of several, and end a launcher's process with the program's.

        Args:
            config: the whole configuration, Hydra's included.
            **kwargs: unused.

        Raises:
            SystemExit: as above.
        """
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        if multiprocessing.parent_process() is not None:  # of joblib
            end_with_parent()
        directory = Path(config.hydra.runtime.output_dir)
        begun = any((directory / name).exists() for name in (REPORT_NAME, CONFIG_NAME))
        _check(config, directory if begun else None)  # Hydra has made it


def _check(config: DictConfig, directory: str | Path | None) -> None:
    try:
        if directory is not None:
            check_run_directory(directory, config)
        check_budget(config)
        scratch = OmegaConf.select(config, "callbacks.report.scratch")
        if scratch is not None:
            read_scratch_run(Path(to_absolute_path(str(Path(scratch).expanduser()))))
        if OmegaConf.select(config, "transfer._target_") is not None:
            check_config(config)
            instantiate(config.transfer).check(lambda: instantiate(config.model))
    except (TPaiNNError, InstantiationException) as error:
        cause = error if isinstance(error, TPaiNNError) else error.__cause__
        if not isinstance(cause, TPaiNNError):
            raise
        raise SystemExit(f"{type(cause).__name__}: {cause}") from error
