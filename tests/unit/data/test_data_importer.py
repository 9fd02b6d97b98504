"""Import: units are stated, labels are found, nothing is skipped."""

import hashlib
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from distorted import frames_of
from schnetpack.data import ASEAtomsData

from schnetpack_tpainn.data import TPaiNNDataModule, TrajectoryImport
from schnetpack_tpainn.data.split import PartSplit
from schnetpack_tpainn.errors import DataError

KCAL = {"distance_unit": "Bohr", "energy_unit": "kcal/mol", "forces_unit": "kcal/mol/Ang"}
EV = {"distance_unit": "Ang", "energy_unit": "eV", "forces_unit": "eV/Ang"}


@pytest.fixture
def labelled_file(tmp_path: Path) -> Path:
    frames = frames_of(6)
    for i, atoms in enumerate(frames):
        atoms.info["temperature"] = 300 + i
        atoms.cell = [10, 11, 12]
        atoms.calc = SinglePointCalculator(atoms, energy=-100.0 * i, forces=atoms.positions * 2)
    path = tmp_path / "frames.extxyz"
    ase.io.write(path, frames)
    return path


def test_units_are_converted(labelled_file: Path, tmp_path: Path) -> None:
    source = TrajectoryImport([str(labelled_file)], **KCAL)
    dataset = ASEAtomsData(str(source.make(tmp_path / "x.db")))
    frames = ase.io.read(labelled_file, ":")
    kcal = units.kcal / units.mol
    for i, atoms in enumerate(frames):
        sample = dataset[i]
        assert sample["energy"].item() == pytest.approx(-100.0 * i * kcal, rel=1e-12)
        np.testing.assert_allclose(sample["forces"], atoms.get_forces() * kcal, rtol=1e-12)
        np.testing.assert_allclose(sample["_positions"], atoms.positions * units.Bohr, rtol=1e-12)
        np.testing.assert_allclose(sample["_cell"][0], atoms.cell * units.Bohr, rtol=1e-12)
    [row] = dataset.conn.select(id=3)
    assert row.key_value_pairs == {"temperature": 302}
    digest = hashlib.sha256(labelled_file.read_bytes()).hexdigest()
    assert dataset.metadata["files"] == [{"name": "frames.extxyz", "sha256": digest}]
    assert dataset.metadata["energy_unit"] == "kcal/mol"


def test_labels_in_info_and_arrays(tmp_path: Path) -> None:
    frames = frames_of(2)
    for atoms in frames:
        atoms.info["REF_energy"] = -7.0
        atoms.arrays["REF_forces"] = np.ones((9, 3))
    path = tmp_path / "x.extxyz"
    ase.io.write(path, frames, columns=["symbols", "positions", "REF_forces"])
    keys = {"energy_key": "REF_energy", "forces_key": "REF_forces"}
    dataset = ASEAtomsData(str(TrajectoryImport(str(path), **EV, **keys).make(tmp_path / "x.db")))
    assert dataset[1]["energy"].item() == -7.0
    assert dataset[1]["forces"].min().item() == 1.0
    with pytest.raises(DataError, match=r"no 'energy' in 2 of 2.*has REF_energy, REF_forces"):
        TrajectoryImport(str(path), **EV).make(tmp_path / "y.db")


def test_no_frame_is_skipped(labelled_file: Path, tmp_path: Path) -> None:
    frames = ase.io.read(labelled_file, ":")
    frames[2].calc = None
    frames[4].calc.results.pop("forces")
    ase.io.write(labelled_file, frames)
    with pytest.raises(DataError) as error:
        TrajectoryImport(str(labelled_file), **EV).make(tmp_path / "x.db")
    assert "no 'energy' in 1 of 6 frames (from 0: 2)" in str(error.value)
    assert "no 'forces' in 2 of 6 frames (from 0: 2, 4)" in str(error.value)
    assert not (tmp_path / "x.db").exists()


def test_several_files_in_order(labelled_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.extxyz"
    copy.write_bytes(labelled_file.read_bytes())
    path = TrajectoryImport([str(copy), str(labelled_file)], **EV).make(tmp_path / "x.db")
    assert [s["energy"].item() for s in ASEAtomsData(str(path)).iter_properties()] == [
        -100.0 * i for i in range(6)
    ] * 2


def test_files_for_tests_alone(labelled_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.extxyz"
    ase.io.write(other, ase.io.read(labelled_file, ":3"))
    source = TrajectoryImport([str(labelled_file)], test_files=str(other), **EV)
    dataset = ASEAtomsData(str(source.make(tmp_path / "x.db")))
    train, val, test = PartSplit(test_seed=0).split(dataset, 4, 2, 3)
    assert sorted(train + val) == [0, 1, 2, 3, 4, 5]
    assert sorted(test) == [6, 7, 8]
    assert [f["name"] for f in dataset.metadata["test_files"]] == ["other.extxyz"]
    assert "test_files" not in TrajectoryImport([str(labelled_file)], **EV).settings
    with pytest.raises(DataError, match=r"labelled frames, .*none.xyz does not exist"):
        TrajectoryImport([str(labelled_file)], test_files=["none.xyz"], **EV)


def test_a_changed_file_is_noticed(labelled_file: Path, tmp_path: Path) -> None:
    def prepare() -> None:
        source = TrajectoryImport(str(labelled_file), **EV)
        TPaiNNDataModule(str(tmp_path / "x.db"), 2, source=source).prepare_data()

    prepare()
    prepare()
    labelled_file.write_text(labelled_file.read_text().replace("energy=-500", "energy=-501"))
    with pytest.raises(DataError, match="made with other settings"):
        prepare()


def test_refusals(labelled_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        TrajectoryImport("no.xyz", **EV)
    with pytest.raises(DataError, match="empty list"):
        TrajectoryImport([], **EV)
    with pytest.raises(DataError, match="unit of forces"):
        TrajectoryImport(str(labelled_file), **EV | {"forces_unit": "Hartree"})
    broken = tmp_path / "x.extxyz"
    broken.write_text("nothing")
    with pytest.raises(DataError, match="ASE cannot read"):
        TrajectoryImport(str(broken), **EV).make(tmp_path / "x.db")


def test_energies_alone(tmp_path: Path) -> None:
    frames = frames_of(3)
    for i, atoms in enumerate(frames):
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * i)
    ase.io.write(tmp_path / "energies.extxyz", frames)
    none = {"forces_key": None, "forces_unit": None}
    source = TrajectoryImport(str(tmp_path / "energies.extxyz"), **{**EV, **none})
    dataset = ASEAtomsData(str(source.make(tmp_path / "x.db")))
    assert [dataset[i]["energy"].item() for i in range(3)] == [0.0, -1.0, -2.0]
    assert dataset.available_properties == ["energy"]
    with pytest.raises(DataError, match="both null for energies alone"):
        TrajectoryImport(str(tmp_path / "energies.extxyz"), **{**EV, "forces_unit": None})
