"""Refitted frames beside the labels: whose labels are used, their zero, their share, resuming."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.db import connect
from methanol import UFF, make_frames

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.errors import DataError, TransferError
from schnetpack_tpainn.transfer.refitted import RefittedReplay
from tests.fits import Fit, fit, make_labels, make_task, save_pretrained, strategy

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("refitted")
    make_labels(place)
    make_frames(place / "frames.db")
    save_pretrained(place, "schnet")
    return place


def run(place: Path, folder: Path, labels: str = "labels.db", stop: Any = None, **s: Any) -> Fit:
    """A fit with refitted frames, gone on with if `folder` holds a killed one."""
    folder.mkdir(exist_ok=True)
    transfer = strategy("full", place / "schnet.safetensors", "transfer/replay=refitted")
    transfer["frames"] = str(place / "frames.db")
    transfer["replay"] |= {"directory": str(folder), **s}
    task = make_task("schnet", transfer)
    resume = next(folder.glob("last.ckpt"), None)
    return fit(folder, place / labels, task, stop=stop, resume=resume)


@pytest.fixture(scope="module")
def whole(place: Path) -> Fit:
    return run(place, place / "whole", weight=1.0)


def summary(of: Fit) -> dict[str, Any]:
    return of.task.record.parts["replay"]


def test_frames_are_the_teachers_plus_the_correction_on_the_labels_zero(place: Path) -> None:
    begun = run(place, place / "begun", stop=0)
    with connect(place / "frames.db") as before, connect(place / "begun" / "refit.db") as after:
        assert after.metadata["calculator"] == UFF
        assert after.count() == before.count() == summary(begun)["refitted_frames"]
        old, new = (db.get(1).data["energy"][0] for db in (before, after))
        row = after.get(1)
    assert summary(begun)["refit_labels"] == 8
    assert old != new
    labels = begun.trainer.datamodule.train_transforms
    offsets = next(t.atomref for t in labels if hasattr(t, "atomref"))[row.numbers].sum().item()
    sample = begun.task.parts[0]._frames[0][0]
    assert sample["energy"].item() == pytest.approx(new - offsets, abs=1e-4)
    np.testing.assert_allclose(sample["forces"], row.data["forces"], atol=1e-5)


def test_only_training_labels_are_used(whole: Fit, place: Path) -> None:
    used = whole.trainer.datamodule.train_idx
    changed = place / "changed.db"
    changed.write_bytes((place / "labels.db").read_bytes())
    with connect(changed) as db:
        for k in range(db.count()):
            if k not in used:
                data = db.get(k + 1).data
                db.update(k + 1, data={key: value + 1.0 for key, value in data.items()})
    again = run(place, place / "again", "changed.db", weight=1.0)
    assert again.trainer.datamodule.train_idx == used
    files = [place / name / "refit.refit.json" for name in ("whole", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    for a, b in zip(whole.watch.weights, again.watch.weights, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_their_loss_moves_the_weights_in_proportion(whole: Fit, place: Path) -> None:
    transfer = strategy("full", place / "schnet.safetensors")
    plain = fit(place, place / "labels.db", make_task("schnet", transfer))
    light = run(place, place / "light", weight=1e-9)
    ends = [of.watch.weights[-1] for of in (plain, light, whole)]
    for name, without in ends[0].items():
        torch.testing.assert_close(without, ends[1][name], rtol=1e-3, atol=1e-4)
    assert any((ends[2][name] - without).abs().max() > 1e-3 for name, without in ends[0].items())


def test_a_killed_run_ends_as_an_unbroken_one(whole: Fit, place: Path) -> None:
    folder = place / "killed"
    run(place, folder, weight=1.0, stop=5)
    made = (folder / "refit.db").stat().st_mtime_ns
    rest = run(place, folder, weight=1.0)
    assert (folder / "refit.db").stat().st_mtime_ns == made
    a, b = whole.stored()["state_dict"], rest.stored()["state_dict"]
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6, msg=name)
    assert summary(whole) == summary(rest)


def test_bad_input(place: Path) -> None:
    with pytest.raises(TransferError, match=r"replay.weight above 0, got 0; .*replay=null"):
        RefittedReplay(weight=0)
    with pytest.raises(TransferError, match=r"replay.ratio above 0, got nan"):
        RefittedReplay(ratio=float("nan"))
    transfer = strategy("full", place / "schnet.safetensors", "transfer/replay=refitted")
    transfer["replay"] |= {"directory": str(place)}
    with pytest.raises(TransferError, match=r"energies alone .*do not determine a force field"):
        make_task("schnet", transfer, forces_key=None)
    with pytest.raises(TransferError, match=r"give its path as transfer.frames"):
        fit(place, place / "labels.db", make_task("schnet", transfer))
    with pytest.raises(DataError, match=r"folds from 2 to the number of labels, 8, got 9"):
        run(place, place / "folds", folds=9)
    another = {"_target_": f"{RDKitForceField.__module__}.RDKitForceField"}
    with pytest.raises(DataError, match=r"the calculator to be the one that labelled"):
        run(place, place / "another", calculator=another)
    make_frames(place / "unknown.db", 4, source="somewhere")
    transfer["frames"] = str(place / "unknown.db")
    with pytest.raises(DataError, match=r"its metadata name none"):
        fit(place, place / "labels.db", make_task("schnet", transfer))
