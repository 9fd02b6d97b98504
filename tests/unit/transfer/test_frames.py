"""Force-field frames beside labels: their own zero, the labels' units, errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.db import connect
from methanol import make_frames

from schnetpack_tpainn.data import TPaiNNDataModule
from schnetpack_tpainn.errors import DataError, TransferError
from schnetpack_tpainn.transfer.context import TransferRecord
from schnetpack_tpainn.transfer.frames import force_field_frames, pretraining_frames
from tests.fits import data_module, make_labels

KCAL_EV = 0.0433641


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("frames")
    make_labels(place)
    make_frames(place / "frames.db")
    return place


@pytest.fixture
def labels(place: Path) -> TPaiNNDataModule:
    module = data_module(place / "labels.db")
    module.setup()
    return module


def energies(path: Path) -> np.ndarray:
    with connect(path) as db:
        return np.array([row.data["energy"][0] for row in db.select()])


def test_frames_lose_their_own_zero_and_labels_keep_theirs(
    place: Path, labels: TPaiNNDataModule
) -> None:
    before = [labels.train_dataset[i]["energy"].item() for i in range(8)]
    labels.clear_cache()
    frames = force_field_frames(place / "frames.db", labels)
    found = torch.cat([frames[i]["energy"] for i in range(len(frames))])
    stored = energies(place / "frames.db")
    # one composition: the offsets take the mean
    assert np.allclose(found, stored - stored.mean(), atol=1e-5)
    assert found.dtype == torch.float32
    assert [labels.train_dataset[i]["energy"].item() for i in range(8)] == before
    assert set(frames[0]) == set(labels.train_dataset[0])


def test_other_frames_take_the_offsets_of_the_first(place: Path, labels: TPaiNNDataModule) -> None:
    first = force_field_frames(place / "frames.db", labels)
    water = make_frames(place / "water.db", 2, "H2O")
    transforms = list(first.transforms)
    with_theirs = force_field_frames(water, labels, transforms=transforms)
    alone = force_field_frames(water, labels)
    offsets = next(t.atomref for t in transforms if hasattr(t, "atomref"))
    expected = energies(water)[0] - (2 * offsets[1] + offsets[8]).item()
    assert with_theirs[0]["energy"].item() == pytest.approx(expected, abs=1e-5)
    assert abs(with_theirs[0]["energy"].item() - alone[0]["energy"].item()) > 0.01


def test_frames_are_converted_to_the_units_of_the_labels(
    place: Path, labels: TPaiNNDataModule
) -> None:
    expected = force_field_frames(place / "frames.db", labels)[3]
    other = make_frames(place / "kcal.db")
    with connect(other) as db:
        metadata = db.metadata
        metadata["_property_unit_dict"] = {"energy": "kcal/mol", "forces": "kcal/mol/Ang"}
        db.metadata = metadata
    found = force_field_frames(other, labels)[3]
    for key in ("energy", "forces"):
        assert torch.allclose(found[key], KCAL_EV * expected[key], rtol=1e-4, atol=1e-7)


def test_frames_are_drawn_by_the_seed(place: Path, labels: TPaiNNDataModule) -> None:
    def drawn(n: int | None, seed: int) -> list[int]:
        frames = force_field_frames(place / "frames.db", labels, n, seed)
        return frames.frames(range(len(frames)))

    assert drawn(5, 0) == drawn(5, 0)
    assert len(set(drawn(5, 0))) == 5
    assert drawn(5, 0) != drawn(5, 1)
    assert drawn(None, 0) == drawn(50, 0) == list(range(12))


def test_what_is_not_the_pretraining_is_refused(place: Path, labels: TPaiNNDataModule) -> None:
    record = TransferRecord("full")
    with pytest.raises(TransferError, match=r"does not say where .*give its path as transfer.fr"):
        pretraining_frames(record, labels)
    record.frames = str(place / "gone.db")
    with pytest.raises(TransferError, match=r"gone.db, got no such file; give its path"):
        pretraining_frames(record, labels)
    record.frames = str(place / "frames.db")
    record.pretrained = {"elements": [1, 6]}
    with pytest.raises(TransferError, match=r"holds O, which the pretraining never saw"):
        pretraining_frames(record, labels)
    record.pretrained = {"elements": [1, 6, 8]}
    assert len(pretraining_frames(record, labels)) == 12
    with connect(place / "other.db") as db:
        db.metadata = {"_property_unit_dict": {"e": "eV"}, "_distance_unit": "Ang"}
    record.frames = str(place / "other.db")
    with pytest.raises(DataError, match="empty database"):
        pretraining_frames(record, labels)
