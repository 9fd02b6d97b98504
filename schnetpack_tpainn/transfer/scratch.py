"""Compare a transfer with a run from scratch on the same test frames."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.outcome import targets
from schnetpack_tpainn.transfer.runs import read_scratch_run

__all__ = ["against_scratch", "check_same_test_frames"]


def check_same_test_frames(scratch: Path, datamodule: Any) -> None:
    """Refuse a run from scratch that was tested on other frames.

    Args:
        scratch: its run directory.
        datamodule: data module of this run, set up.

    Raises:
        TransferError: it is not finished, not from scratch, or has other data, kinds of labels or
            test frames.
    """
    report = read_scratch_run(scratch)
    trained, here = ("forces" in targets(report["test"])), datamodule.forces_key is not None
    if trained != here:
        labels = {True: "energies and forces", False: "energies alone"}
        raise TransferError(
            f"callbacks.report.scratch: expected a run on {labels[here]}, as this one, got "
            f"{scratch} on {labels[trained]}; train from scratch with the same globals.forces_key"
        )
    then, now = report["data"], datamodule.dataset.metadata
    mark = "fingerprint" if now.get("fingerprint") and then.get("fingerprint") else "path"
    mine = now[mark] if mark == "fingerprint" else str(Path(datamodule.datapath).resolve())
    if then[mark] != mine:
        raise TransferError(
            f"callbacks.report.scratch: expected a run on the data of this one ({mark} {mine}), "
            f"got {scratch} with {mark} {then[mark]}; train from scratch on the same data.datapath"
        )
    if sorted(_split(scratch)["test_idx"]) != sorted(datamodule.test_idx):
        raise TransferError(
            f"callbacks.report.scratch: expected a run with this one's {len(datamodule.test_idx)} "
            f"test frames, got other frames in {scratch / 'split.npz'}; train from scratch with "
            "the same seed, data.num_val and data.num_test"
        )


def _split(directory: Path) -> dict[str, list[int]]:
    path = directory / "split.npz"
    if not path.is_file():
        raise TransferError(
            f"callbacks.report.scratch: expected {path}, which tells that run's test frames, got "
            "no such file; train from scratch with data.split_file=split.npz"
        )
    with np.load(path) as content:
        return {name: content[name].tolist() for name in ("train_idx", "test_idx")}


def against_scratch(scratch: Path, datamodule: Any, test: Mapping[str, float]) -> dict[str, Any]:
    """A run's test errors beside those of a run from scratch.

    Args:
        scratch: run directory that passed :func:`check_same_test_frames`.
        datamodule: data module of this run.
        test: errors of this run on the test frames.

    Returns:
        ``path``, ``n_train``, ``same_labels`` (the training frames are this run's),
        ``optimiser_steps``, ``test`` and, if it has forces, ``by_element`` of the run from scratch,
        and ``ratio``, its errors over this run's.
    """
    report = read_scratch_run(scratch)
    by_element = {key: report[key] for key in ["by_element"] if key in report}
    return {
        "path": str(scratch.resolve()),
        "n_train": report["n_train"],
        "same_labels": sorted(_split(scratch)["train_idx"]) == sorted(datamodule.train_idx),
        "optimiser_steps": report["optimiser_steps"],
        "test": report["test"],
        **by_element,
        "ratio": {
            key: report["test"][key] / test[key] if test[key] else math.inf
            for key, _ in targets(test).values()
        },
    }
