"""Frames corrected towards labels: by hand, without any leak, and refused where they must be."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from modules import module

from schnetpack_tpainn.data import RefittedData
from schnetpack_tpainn.data.additive import read_labelled
from schnetpack_tpainn.data.bondgraph import BondGraph
from schnetpack_tpainn.data.correction import Correction
from schnetpack_tpainn.data.label import compute_label, make_calculator
from schnetpack_tpainn.data.offsets import element_values
from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.refitted_calculator import RefittedForceField
from schnetpack_tpainn.data.store import labelled, write_database
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.errors import DataError, LabelError

MMFF = {"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField"}
REFITTED = {
    "_target_": "schnetpack_tpainn.data.refitted_calculator.RefittedForceField",
    "calculator": MMFF,
}
GRAPH = BondGraph.of(embed_smiles("CCO"))
TRUTH = Correction(
    radii=(0,),
    coefficients={
        "bond2 C-O": 4.0,
        "bond1 C-C": -0.4,
        "angle2 C-C-O": 2.0,
        "torsion3 C-C-O-H": 0.1,
    },
    references={"C-O": 1.42, "C-C": 1.52, "C-C-O": -0.3},
    constants_ev={GRAPH.name: -4200.0},
    elements_ev={},
)
TRAIN = (7, 1, 0, 2, 3, 4)


def distorted(n: int, smiles: str = "CCO", seed: int = 0) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    frames = [embed_smiles(smiles) for _ in range(n)]
    for atoms in frames:
        atoms.positions += rng.normal(scale=0.05, size=(len(atoms), 3))
    return frames


def write_frames(path: Path, frames: list[Atoms], **metadata: Any) -> Path:
    taught = [compute_label(atoms, RDKitForceField(smiles=None)) for atoms in frames]
    return write_database(path, taught, {"calculator": MMFF} | metadata)


def dft(frames: list[Atoms], noise_ev: float = 0.0) -> list[Atoms]:
    """MMFF94 and the true correction, atoms turned around, without a SMILES string."""
    made = []
    for k, atoms in enumerate(frames):
        taught = compute_label(atoms, RDKitForceField())
        energies, forces = TRUTH.apply(BondGraph.of(atoms), atoms.positions[None])
        energy = taught.get_potential_energy() + energies[0] + k * noise_ev
        forces = (taught.get_forces() + forces[0])[::-1]
        made.append(labelled(Atoms(atoms.numbers, atoms.positions)[::-1], energy, forces))
    return made


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    np.savez(tmp_path / "split.npz", train_idx=TRAIN, val_idx=[5], test_idx=[6])
    write_database(
        tmp_path / "labels.db", dft(distorted(8)), {}, {"energy": element_values({"C": -1.0})}
    )
    return {
        "frames": str(write_frames(tmp_path / "frames.db", distorted(12, seed=1))),
        "labels": str(tmp_path / "labels.db"),
        "split_file": str(tmp_path / "split.npz"),
    }


def changed(
    files: dict[str, str], name: str, frames: list[Atoms], **metadata: Any
) -> dict[str, str]:
    """The files with another database of frames or labels."""
    path = Path(files[name]).with_name("other.db")
    return files | {name: str(write_database(path, frames, {"calculator": MMFF} | metadata))}


def test_frames_get_the_labels_energies_and_forces(tmp_path: Path, files) -> None:
    made = list(read_labelled(RefittedData(**files).make(tmp_path / "a.db")))
    expected = dft(distorted(12, seed=1))
    before = list(read_labelled(Path(files["frames"])))
    for k, frame in enumerate(made):
        np.testing.assert_allclose(frame.positions, before[k].positions)
        assert frame.info["smiles"] == "CCO"
    error = np.mean(
        [np.abs(a.get_forces() - b.get_forces()[::-1]) for a, b in zip(made, expected, strict=True)]
    )
    was = np.mean(
        [
            np.abs(a.get_forces() - b.get_forces()[::-1])
            for a, b in zip(before, expected, strict=True)
        ]
    )
    assert error < 0.15 * was
    off = [
        a.get_potential_energy() - b.get_potential_energy()
        for a, b in zip(made, expected, strict=True)
    ]
    assert np.abs(off).max() < 0.05


def test_what_was_done_is_in_the_metadata(tmp_path: Path, files) -> None:
    RefittedData(**files, n_train=5).make(tmp_path / "a.db")
    with connect(tmp_path / "a.db", use_lock_file=False) as db:
        found = db.metadata
    assert found["labels_used"] == list(TRAIN[:5])
    assert found["calculator"] == MMFF
    assert found["atomrefs"]["energy"][6] == -1.0
    refit = found["refit"]
    assert refit["used"]
    assert refit["n_labels"] == refit["folds"] == 5
    errors = refit["cross_validation_mev"]
    assert errors["after"]["forces_mae"] < errors["before"]["forces_mae"]
    assert refit["rms_change_of_frames_ev_per_ang"] > 0


def test_no_other_label_is_used(tmp_path: Path, files) -> None:
    first, given = RefittedData(**files), list(read_labelled(Path(files["labels"])))
    first.make(tmp_path / "a.db")
    for k in set(range(8)) - set(TRAIN):
        results = {"energy": 1e3, "forces": np.full((9, 3), 50.0)}
        given[k].calc = SinglePointCalculator(given[k], **results)
    other = changed(files, "labels", given)
    second = RefittedData(**other)
    second.make(tmp_path / "b.db")
    assert second.settings == first.settings
    a, b = (tmp_path / f"{name}.refit.json" for name in "ab")
    assert a.read_bytes() == b.read_bytes()
    given[TRAIN[0]].calc.results["energy"] += 0.1
    Path(other["labels"]).unlink()
    third = RefittedData(**changed(files, "labels", given))
    assert third.settings["training_labels"] != first.settings["training_labels"]


def test_a_fit_that_does_not_predict_changes_no_force(tmp_path: Path, files, caplog) -> None:
    rng = np.random.default_rng(0)
    given = [
        labelled(a, float(rng.normal()), a.get_forces() + rng.normal(size=(9, 3)))
        for a in write_and_read(tmp_path / "c.db", distorted(8))
    ]
    path = RefittedData(**changed(files, "labels", given)).make(tmp_path / "a.db")
    assert "it is not used" in caplog.text
    pairs = zip(read_labelled(path), read_labelled(Path(files["frames"])), strict=True)
    shifts = []
    for after, before in pairs:
        np.testing.assert_array_equal(after.get_forces(), before.get_forces())
        shifts.append(after.get_potential_energy() - before.get_potential_energy())
    np.testing.assert_allclose(shifts, shifts[0])
    with connect(path, use_lock_file=False) as db:
        assert db.metadata["refit"]["used"] is False


def write_and_read(path: Path, frames: list[Atoms]) -> list[Atoms]:
    return list(read_labelled(write_frames(path, frames)))


def test_a_data_module_makes_it(tmp_path: Path, files) -> None:
    module(tmp_path / "a.db", source=RefittedData(**files), num_train=6).prepare_data()
    with pytest.raises(DataError, match="other settings"):
        module(tmp_path / "a.db", source=RefittedData(**files, folds=3)).prepare_data()
    with pytest.raises(DataError, match="n_frames = 12"):
        module(tmp_path / "b.db", source=RefittedData(**files), num_train=18).prepare_data()


def test_rows_take_the_place_of_a_split(files) -> None:
    split = RefittedData(**files)
    rows = RefittedData(**files | {"split_file": None}, rows=[*split.used, split.used[0]])
    assert rows.used == sorted(split.used)


def test_a_molecule_without_labels_is_told(tmp_path: Path, files, caplog) -> None:
    frames = distorted(3, seed=1) + distorted(3, "CCCO", seed=1)
    given = files | {"frames": str(write_frames(tmp_path / "two.db", frames))}
    RefittedData(**given).make(tmp_path / "a.db")
    assert "no training label is of 1 molecules among the frames, first C3H8O" in caplog.text


def stretched(frames: list[Atoms], which: int, ends: tuple[int, int]) -> list[Atoms]:
    """One frame with a bond pulled apart, after it was labelled."""
    atoms = frames[which]
    kept = labelled(atoms, atoms.get_potential_energy(), atoms.get_forces(), **atoms.info)
    kept.set_distance(*ends, 2.6, fix=0)
    kept.calc = SinglePointCalculator(kept, **atoms.calc.results)
    return [*frames[:which], kept, *frames[which + 1 :]]


def test_bonds_that_change_between_frames_are_refused(tmp_path: Path, files) -> None:
    frames = list(read_labelled(Path(files["frames"])))
    broken = changed(files, "frames", stretched(frames, 4, (0, 3)))
    with pytest.raises(DataError, match=r"frame 4 of the classical frames with a bond broken .*0 "):
        RefittedData(**broken).make(tmp_path / "a.db")
    ether = write_and_read(tmp_path / "c.db", distorted(1, "COC"))[0][[0, 2, 1, *range(3, 9)]]
    ether.calc = SinglePointCalculator(ether, energy=0.0, forces=np.zeros((9, 3)))
    Path(broken["frames"]).unlink()
    frames[6] = labelled(ether, 0.0, np.zeros((9, 3)), smiles="CCO")
    with pytest.raises(DataError, match=r"frame 6 .* with a bond (broken|made)"):
        RefittedData(**changed(files, "frames", frames)).make(tmp_path / "a.db")
    assert not (tmp_path / "a.db").exists()


def test_labels_of_another_molecule_are_refused(tmp_path: Path, files) -> None:
    ether = changed(files, "labels", write_and_read(tmp_path / "c.db", distorted(8, "COC")))
    with pytest.raises(DataError, match="expected labels of molecules in"):
        RefittedData(**ether).make(tmp_path / "a.db")
    assert not (tmp_path / "a.db").exists()


def test_labels_without_forces_are_refused(files) -> None:
    given = [labelled(a, 0.0, None) for a in distorted(8)]
    with pytest.raises(DataError, match=r"row 7 of .* has none"):
        RefittedData(**changed(files, "labels", given))


def test_frames_of_another_force_field_are_refused(tmp_path: Path, files) -> None:
    uff = MMFF | {"force_field": "UFF"}
    with pytest.raises(DataError, match="forces of its first frame differ"):
        RefittedData(**files, calculator=uff).make(tmp_path / "a.db")
    unnamed = changed(files, "frames", list(read_labelled(Path(files["frames"]))), calculator=None)
    with pytest.raises(DataError, match="metadata name none"):
        RefittedData(**unnamed)
    assert RefittedData(**unnamed, calculator=MMFF).settings["calculator"] == MMFF


def test_periodic_frames_are_refused(tmp_path: Path, files) -> None:
    frames = list(read_labelled(Path(files["frames"])))
    given = frames[2]
    cell = Atoms(given.numbers, given.positions, cell=[9.0] * 3, pbc=True)
    frames[2] = labelled(cell, 0.0, np.zeros((9, 3)))
    with pytest.raises(DataError, match="frame 2 of the classical frames is periodic"):
        RefittedData(**changed(files, "frames", frames)).make(tmp_path / "a.db")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"folds": 7}, "number of labels, 6, got 7"),
        ({"n_train": 1}, "two labels at least"),
        ({"rows": [0, 1]}, "split_file or rows, got both"),
        ({"split_file": None}, "split_file or rows, got .* none"),
        ({"n_train": 7}, "n_train from 1 to the 6 rows"),
        ({"radii": []}, "radii of 0 bonds or more"),
        ({"frames": "absent.db"}, "absent.db does not exist"),
        ({"labels": "absent.db"}, "absent.db does not exist"),
        ({"calculator": RDKitForceField()}, "_recursive_: false"),
    ],
)
def test_bad_settings_are_refused(files, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        RefittedData(**(files | wrong))


def test_the_calculator_gives_the_frames_labels(tmp_path: Path, files, caplog) -> None:
    caplog.set_level(logging.ERROR)
    path = RefittedData(**files).make(tmp_path / "a.db")
    engine = make_calculator(REFITTED | {"file": str(tmp_path / "a.refit.json")})
    assert isinstance(engine, RefittedForceField)
    frames = list(read_labelled(path))
    for frame in frames[:3]:
        found = compute_label(frame, engine)
        assert found.get_potential_energy() == pytest.approx(frame.get_potential_energy())
        np.testing.assert_allclose(found.get_forces(), frame.get_forces(), atol=1e-9)
    with pytest.raises(LabelError, match="bond broken"):
        compute_label(stretched(frames, 0, (0, 3))[0], engine)
    with pytest.raises(LabelError, match="expected one of the labelled molecules C2H6O"):
        compute_label(distorted(1, "CO")[0], engine)
    frames[0].pbc = True
    with pytest.raises(LabelError, match="periodic"):
        compute_label(frames[0], engine)


def test_a_data_set_that_exists_keeps_its_correction(tmp_path: Path, files) -> None:
    (tmp_path / "a.db").touch()
    (tmp_path / "a.refit.json").write_text("its own")
    with pytest.raises(DataError, match="never written over"):
        RefittedData(**files).make(tmp_path / "a.db")
    assert (tmp_path / "a.refit.json").read_text() == "its own"
