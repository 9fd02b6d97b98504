"""A short trial of a transfer against scratch, on the training labels alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schnetpack_tpainn.errors import DataError
from schnetpack_tpainn.files import claim_directory
from schnetpack_tpainn.study.comparison import COLUMNS, read_run
from schnetpack_tpainn.study.jobs import Job, run_jobs
from schnetpack_tpainn.transfer.outcome import targets

__all__ = ["HELPS", "HURTS", "describe", "run_trial"]

SCRATCH_LR = 1e-3  # the best of 2.5e-4 to 4e-3 on ethanol (benchmarks/ethanol.py)
HELPS, SAME, HURTS = "transfer helps", "transfer makes no difference", "transfer hurts"
MARGIN = 1.05  # ratio of errors that counts as a difference


def run_trial(
    overrides: Sequence[str],
    transfer: Sequence[str],
    labels: Sequence[int],
    validation: Sequence[int],
    directory: Path,
    steps: int,
) -> dict[str, Any]:
    """Tune on half of the labels, with the transfer and from scratch, and judge by the other half.

    Args:
        overrides: Hydra overrides of the run in question, ``experiment=...`` first.
        transfer: further overrides of the tuned run.
        labels: its training labels, as places in the database.
        validation: its validation labels, which draw the curves and judge nothing.
        directory: an empty folder, or one with the same trial, which goes on.
        steps: optimiser steps.

    Returns:
        ``verdict`` (by forces, or by energies where there are no others), ``ratio`` of the errors
        from scratch to those of the transfer, ``scratch`` and ``transfer`` (errors on the other
        half), ``steps``, ``n_train`` and ``n_judged``.

    Raises:
        DataError: there are not two labels.
        TPaiNNError: the folder holds another trial or other files, or a run failed.
    """
    if len(labels) < 2:
        raise DataError(
            f"expected two training labels or more for a trial, got {len(labels)}; raise "
            "data.num_train"
        )
    half = (len(labels) + 1) // 2
    tuned, judged = list(labels[:half]), list(labels[half:])
    directory = directory.resolve()
    settings = {
        "overrides": [*overrides],
        "transfer": [*transfer],
        "steps": steps,
        "labels": labels,
        "validation": validation,
    }
    claim_directory(directory, settings, "trial")
    np.savez(directory / "split.npz", train_idx=tuned, val_idx=validation, test_idx=judged)
    sizes = (len(tuned), len(validation), len(judged))
    jobs = _jobs(overrides, transfer, directory, steps, sizes)
    run_jobs(list(jobs.values()))
    errors = {name: read_run(directory / name)["test"] for name in jobs}
    scratch, tuned_errors = errors["scratch"], errors["transfer"]
    ratio = {key: scratch[key] / tuned_errors[key] for key in COLUMNS if key in scratch}
    return {
        "verdict": _verdict(ratio[_judge(ratio)[1]]),
        "ratio": ratio,
        **errors,
        "steps": steps,
        "n_train": len(tuned),
        "n_judged": len(judged),
    }


def _jobs(
    overrides: Sequence[str],
    transfer: Sequence[str],
    directory: Path,
    steps: int,
    sizes: tuple[int, int, int],
) -> dict[str, Job]:
    """The two runs, with the split of the trial."""
    common = (
        f"data.split_file={directory / 'split.npz'}",
        f"data.num_train={sizes[0]}",
        f"data.num_val={sizes[1]}",
        f"data.num_test={sizes[2]}",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={steps}",
        "print_config=false",
    )
    plain = [o for o in overrides if not o.lstrip("+~").startswith("transfer")]
    words = {
        "transfer": (*overrides, *transfer, *common),
        "scratch": (*plain, *common, "transfer=scratch", f"globals.lr={SCRATCH_LR}"),
    }
    return {name: Job(directory / name, w, steps) for name, w in words.items()}


def _judge(ratio: Mapping[str, float]) -> tuple[str, str, str]:
    """What the verdict rests on: its name, its key and its unit."""
    what, (key, unit) = next(iter(targets(ratio).items()))
    return {"forces": "force"}.get(what, what), key, unit


def _verdict(ratio: float) -> str:
    if ratio > MARGIN:
        return HELPS
    return HURTS if ratio < 1 / MARGIN else SAME


def describe(trial: Mapping[str, Any]) -> str:
    """A trial in words.

    Args:
        trial: what :func:`run_trial` gave.

    Returns:
        A paragraph.
    """
    what, key, unit = _judge(trial["ratio"])
    return (
        f"trial: {trial['verdict']}. After {trial['steps']} steps on {trial['n_train']} labels, "
        f"the {what} MAE on {trial['n_judged']} others is {trial['transfer'][key]:.1f} {unit} with "
        f"the transfer and {trial['scratch'][key]:.1f} from scratch, {trial['ratio'][key]:.2f} "
        "times as large. Longer training lets scratch catch up; more labels make the trial surer."
    )
