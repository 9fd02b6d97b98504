"""Frames of one method, labelled by another."""

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.db import connect

from schnetpack_tpainn.data import MDSampler, RelabelledData
from schnetpack_tpainn.data.additive import read_labelled
from schnetpack_tpainn.errors import DataError, LabelError

RDKIT = "schnetpack_tpainn.data.rdkit.RDKitForceField"
MMFF: dict[str, Any] = {"_target_": RDKIT, "force_field": "MMFF94"}
EMT_NODE: dict[str, Any] = {"_target_": "ase.calculators.emt.EMT"}


class Picky(EMT):
    """EMT that fails where the first atom lies too far to the left."""

    def __init__(self, left: float) -> None:
        super().__init__()
        self.left = left

    def calculate(self, atoms: Any = None, *args: Any, **kwargs: Any) -> None:
        if atoms.positions[0, 0] < self.left:
            raise RuntimeError("no SCF convergence")
        Calculator.calculate(self, atoms, *args, **kwargs)
        super().calculate(atoms, *args, **kwargs)


PICKY: dict[str, Any] = {"_target_": "test_data_relabel.Picky", "left": 0.0}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pool") / "mmff.db"
    sampler = MDSampler(["CO"], MMFF, 20, [300.0], 1, 5.0, equilibration_fs=5.0, n_workers=1)
    return sampler.make(path)


def positions(path: Path) -> list[np.ndarray]:
    return [frame.positions for frame in read_labelled(path)]


def test_the_frames_are_the_pools_and_the_labels_the_calculators(pool: Path, tmp_path) -> None:
    source = RelabelledData(str(pool), EMT_NODE, n_workers=1)
    made = source.make(tmp_path / "emt.db")
    frames = list(read_labelled(made))
    assert len(frames) == 20
    np.testing.assert_array_equal([f.positions for f in frames], positions(pool))
    for frame, before in zip(frames, read_labelled(pool), strict=True):
        bare = Atoms(frame.numbers, frame.positions, calculator=EMT())
        assert frame.get_potential_energy() == pytest.approx(bare.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(frame.get_forces(), bare.get_forces(), atol=1e-9)
        assert frame.info["temperature_k"] == before.info["temperature_k"]


def test_a_random_choice_follows_its_seed(pool: Path, tmp_path: Path) -> None:
    made = [
        positions(RelabelledData(str(pool), EMT_NODE, 6, seed=seed).make(tmp_path / f"{k}.db"))
        for k, seed in enumerate([0, 0, 1])
    ]
    everything = [p.tolist() for p in positions(pool)]
    places = [[everything.index(p.tolist()) for p in chosen] for chosen in made]
    assert places[0] == places[1] != places[2]
    assert all(len(p) == 6 and p == sorted(p) for p in places)


def line(path: Path) -> Path:
    """Five copper pairs, the first two of which Picky refuses."""
    frames = [Atoms("Cu2", [[x, 0, 0], [x + 2.5, 0, 0]]) for x in (-2.0, -1.0, 1.0, 2.0, 3.0)]
    ase.io.write(path, frames)
    return path


def test_failures_are_kept_apart_counted_and_limited(tmp_path: Path) -> None:
    file = str(line(tmp_path / "line.extxyz"))
    with pytest.raises(LabelError, match=r"at most 0 frames to fail, but 2 of 5 .* SCF"):
        RelabelledData(file, PICKY, max_failed=0.1, n_workers=1).make(tmp_path / "a.db")
    assert not (tmp_path / "a.db").exists()
    # three are finished, and another limit goes on from them
    RelabelledData(file, PICKY, max_failed=0.4, n_workers=1).make(tmp_path / "a.db")
    assert [p[0, 0] for p in positions(tmp_path / "a.db")] == [1.0, 2.0, 3.0]
    failed: Any = ase.io.read(tmp_path / "a.failed.extxyz", ":")
    assert [f.info["index"] for f in failed] == [0, 1]
    with connect(str(tmp_path / "a.db"), use_lock_file=False) as db:
        assert db.metadata["n_failed"] == 2


def test_a_charge_that_the_calculator_is_not_set_for_is_refused(tmp_path: Path) -> None:
    ions = MDSampler(["[NH4+]"], MMFF, 2, [300.0], 1, 1.0, equilibration_fs=1.0, n_workers=1)
    pool = str(ions.make(tmp_path / "ammonium.db"))
    with pytest.raises(DataError, match=r"charge 0, frame 0 \(H4N\) has \+1"):
        RelabelledData(pool, EMT_NODE)
    assert RelabelledData(pool, MMFF | {"charge": 1}, n_workers=1).make(tmp_path / "b.db").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": "nowhere.db"}, "does not exist"),
        ({"n_frames": 21}, "n_frames from 1 to the 20"),
        ({"n_frames": 0}, "n_frames from 1"),
        ({"max_failed": 1.0}, "max_failed from 0 to below 1"),
        ({"calculator": EMT()}, "Hydra node of a calculator"),
    ],
)
def test_nonsense_is_refused(pool: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        RelabelledData(**({"frames": str(pool), "calculator": EMT_NODE} | settings))
