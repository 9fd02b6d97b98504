"""What would spoil a training run is found before it, and named."""

import logging
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from distorted import frames_of

from schnetpack_tpainn.data.check import check_database, shortest_distances
from schnetpack_tpainn.errors import DataError


def check(path: Path):
    return check_database(path, "energy", "forces")


def test_a_sound_database_passes(database) -> None:
    table = check(database(frames_of(7, ["CH3CH2OH", "H2O", "CH4"])))
    assert len(table) == 7
    assert table.energies.tolist() == [-4200.0 + i for i in range(7)]
    assert table.counts[1, [1, 6, 8]].tolist() == [2, 0, 1]
    assert table.counts.sum() == 3 * 9 + 2 * 3 + 2 * 5


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("energies and forces")
    with pytest.raises(DataError, match="expected a SchNetPack database, cannot read"):
        check(path)
    with pytest.raises(DataError, match=r"ends in '\.db', got .*x\.json"):
        check(tmp_path / "x.json")


def test_an_empty_database(database) -> None:
    with pytest.raises(DataError, match="empty"):
        check(database([]))


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"_property_unit_dict": {}}, "expected units"),
        ({"_distance_unit": None}, "expected units"),
        ({"_distance_unit": "parsec"}, "unit of distance"),
        ({"_property_unit_dict": {"energy": "eV", "forces": "Hartree"}}, "unit of forces"),
        ({"_property_unit_dict": {"energy": None, "forces": "eV/Ang"}}, "unit of energy"),
        ({"_property_unit_dict": {"U0": "eV", "forces": "eV/Ang"}}, "property 'energy'.*has U0"),
    ],
)
def test_units_must_be_there_and_known(database, metadata, match) -> None:
    with pytest.raises(DataError, match=match):
        check(database(**metadata))


def test_forces_may_be_left_out_only_when_said(database) -> None:
    path = database(drop="forces")
    with pytest.raises(DataError, match="expected the property 'forces'"):
        check(path)
    assert len(check_database(path, "energy", None)) == 20


def test_labels_of_every_frame(database) -> None:
    path = database()
    with connect(path, use_lock_file=False) as db:
        db.write(frames_of(1)[0], data={"energy": np.array([1.0])})
    with pytest.raises(DataError, match="frame id 21 has energy;"):
        check(path)


def test_frames_without_any_label(database) -> None:
    path = database()
    with connect(path, use_lock_file=False) as db:
        db.write(frames_of(1)[0])
    with pytest.raises(DataError, match="frame id 21 has no labels;"):
        check(path)


def test_molecules_of_every_size_without_forces(database) -> None:
    names = ["CH4", "C6H6", "H", "H2O"]
    frames = frames_of(12, names)
    table = check_database(database(frames, drop="forces"), "energy", None)
    expected = [np.bincount(atoms.numbers, minlength=100) for atoms in frames]
    np.testing.assert_array_equal(table.counts, expected)
    frames[9].positions[3] = frames[9].positions[8] + 0.1
    with pytest.raises(DataError, match=r"got 0\.173 Å in 1 frames: ids 10"):
        check_database(database(frames, drop="forces"), "energy", None)
    frames = [*frames_of(12, names), frames_of(1, ["CH3CH2OH"])[0]]
    energies = [*[-1.0] * 12, np.nan]
    with pytest.raises(DataError, match="1 frames: ids 13"):
        check_database(database(frames, energies=energies, drop="forces"), "energy", None)


def test_shapes(database) -> None:
    forces = [np.zeros((9, 3))] * 19 + [np.zeros((8, 3))]
    with pytest.raises(DataError, match=r"shape \(9, 3\) for frame id 20, got \(8, 3\)"):
        check(database(forces=forces))


@pytest.mark.parametrize("where", ["energies", "forces", "positions"])
def test_not_finite(database, where: str) -> None:
    frames = frames_of(20)
    labels = {"energies": np.zeros(20), "forces": np.zeros((20, 9, 3))}
    if where == "positions":
        frames[12].positions[3, 1] = np.nan
    else:
        labels[where].reshape(20, -1)[12, 0] = np.inf
    with pytest.raises(DataError, match="1 frames: ids 13"):
        check(database(frames, **labels))


def test_deleted_rows(database) -> None:
    path = database()
    with connect(path, use_lock_file=False) as db:
        del db[3]
    with pytest.raises(DataError, match="id 4 at place 3"):
        check(path)


def test_atoms_on_top_of_each_other(database) -> None:
    frames = frames_of(20)
    frames[4].positions[1] = frames[4].positions[0] + [0.0, 0.1, 0.2]
    with pytest.raises(DataError, match=r"0\.224 Å in 1 frames: ids 5"):
        check(database(frames))


def test_nanometres_stored_as_angstrom(database) -> None:
    frames = frames_of(20)
    for atoms in frames:
        atoms.positions *= 0.1
    with pytest.raises(DataError, match=r"20 frames.*nm"):
        check(database(frames))


def test_nanometres_stored_as_nanometres(database) -> None:
    frames = frames_of(20)
    for atoms in frames:
        atoms.positions *= 0.1
    assert len(check(database(frames, _distance_unit="nm"))) == 20


def test_bohr_stored_as_angstrom_is_suspected(database, caplog) -> None:
    frames = frames_of(20)
    for atoms in frames:
        atoms.positions /= 0.529177
    check(database(frames))
    assert "Bohr" in caplog.text


def test_forces_of_impossible_size(database) -> None:
    forces = list(np.random.default_rng(0).normal(size=(20, 9, 3)) * 1000)  # meV/Å as eV/Å
    with pytest.raises(DataError, match=r"meV/Å: median 1\.\d+"):
        check(database(forces=forces))
    forces = list(np.zeros((20, 9, 3)))
    forces[7][2, 1] = 2e3
    with pytest.raises(DataError, match="largest of 2e\\+03 eV/Å \\(frame id 8\\)"):
        check(database(forces=forces))


def test_forces_of_impossible_size_in_stated_units(database) -> None:
    forces = list(np.random.default_rng(0).normal(size=(20, 9, 3)) * 30)
    units = {"energy": "Hartree", "forces": "Hartree/Bohr"}
    with pytest.raises(DataError, match="expected forces of order 1"):
        check(database(forces=forces, _property_unit_dict=units))


def test_kilocalories_stored_as_electronvolts_are_suspected(database, caplog) -> None:
    forces = list(np.random.default_rng(0).normal(size=(20, 9, 3)) * 23)
    with caplog.at_level(logging.WARNING):
        check(database(forces=forces))
    assert "kcal/mol/Ang: median 1." in caplog.text


def test_shortest_distance_through_a_skewed_cell() -> None:
    cell = np.array([[4.0, 0.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 9.0]])
    first = np.array([0.1, 0.0, 0.0])
    second = first + cell[0] - 2 * cell[1] + [0.0, 0.15, 0.2]
    positions = np.array([[first, second, [2.0, 2.0, 2.0]]])
    periodic = np.ones((1, 3), dtype=bool)
    assert shortest_distances(positions, cell[None], periodic) == pytest.approx([0.25])
    slab = np.array([[True, False, True]])
    assert shortest_distances(positions, cell[None], slab)[0] > 2
    assert np.isinf(shortest_distances(positions[:, :1], cell[None], periodic))


def test_shortest_distance_of_large_frames_agrees_with_ase() -> None:
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, 12, size=(3, 60, 3))
    cells = np.broadcast_to(np.eye(3) * 12.0, (3, 3, 3))
    found = shortest_distances(positions, cells, np.ones((3, 3), dtype=bool))
    for r, d in zip(positions, found, strict=True):
        all_d = Atoms("H60", r, cell=[12] * 3, pbc=True).get_all_distances(mic=True)
        assert d == pytest.approx(all_d[np.triu_indices(60, 1)].min())
