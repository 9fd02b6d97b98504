"""Increments added to frames and removed from labels: by hand, and without any leak."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from modules import module

from schnetpack_tpainn.data import IncrementedData
from schnetpack_tpainn.data.displacement import sample_molecules
from schnetpack_tpainn.data.increments import features, linear_baseline
from schnetpack_tpainn.data.offsets import element_values
from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.store import labelled, write_database
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.errors import DataError, LabelError

MMFF = {"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField"}
SMILES = ("CCO", "CC", "CO", "COC", "C1CC1", "CCC", "CC=O", "C=C", "CCCO", "CF")
EVERY = range(len(SMILES))
TRAIN = (8, 1, 0, 2, 3, 4)
FREE = {"H": -13.0, "C": -1000.0, "O": -2000.0, "F": -2700.0}
ENERGIES = np.array([features(s)["composition:C"] - 0.1 * len(s) - 3.0 for s in SMILES])


def free_energy(atoms: Atoms) -> float:
    return sum(FREE[symbol] for symbol in atoms.symbols)


def write_labels(path: Path, energies: np.ndarray = ENERGIES, smiles=SMILES) -> Path:
    frames = []
    for text, energy in zip(smiles, energies, strict=True):
        atoms = embed_smiles(text)[::-1]
        frames.append(labelled(atoms, energy + free_energy(atoms), None, smiles=text))
    return write_database(path, frames, {}, {"energy": element_values(FREE)})


def write_frames(path: Path, which=EVERY, n_displaced=1, shift_ev=0.0) -> Path:
    numbered = [(k, embed_smiles(SMILES[k])) for k in which]
    frames, failed = sample_molecules(numbered, MMFF, n_displaced, [0.03], 0.0, 50.0, 0)
    assert not failed
    for frame in frames:
        frame.calc.results["energy"] += shift_ev * frame.info["molecule"]
    return write_database(path, frames, {})


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    np.savez(tmp_path / "split.npz", train_idx=TRAIN, val_idx=[5], test_idx=[6, 7])
    return {
        "labels": str(write_labels(tmp_path / "labels.db")),
        "split_file": str(tmp_path / "split.npz"),
        "frames": str(write_frames(tmp_path / "frames.db")),
    }


def made(path: Path, **settings: Any) -> tuple[list[Any], dict[str, Any]]:
    with connect(IncrementedData(**settings).make(path)) as db:
        return list(db.select()), db.metadata


def rows_of(path: str) -> list[Any]:
    with connect(path) as db:
        return list(db.select())


def energies(rows: list[Any]) -> np.ndarray:
    return np.array([row.data["energy"][0] for row in rows])


def predicted(
    train: tuple[int, ...], targets: np.ndarray, scheme: str, bound: bool = True
) -> np.ndarray:
    """Increments' sums; without a base all atoms are bound, each by the labels' mean."""
    counts = [features(smiles, scheme) for smiles in SMILES]
    n_atoms = np.array([len(embed_smiles(smiles)) for smiles in SMILES])
    labels = list(train)
    shift = np.mean(targets[labels] / n_atoms[labels]) * n_atoms * bound
    rest = targets - shift
    return shift + linear_baseline([counts[i] for i in train], rest[labels], counts)


def rest_of(rows: list[Any]) -> np.ndarray:
    return np.array([row.data["energy"][0] for row in rows if row.displaced == 0])


@pytest.mark.parametrize("scheme", ["composition", "bonds", "groups"])
def test_a_teacher_has_the_energies_of_its_molecules_and_the_forces_of_its_frames(
    tmp_path: Path, files: dict[str, str], scheme: str
) -> None:
    rows, metadata = made(tmp_path / "teacher.db", scheme=scheme, **files)
    before = rows_of(files["frames"])
    rest = rest_of(before)
    sums = predicted(TRAIN, ENERGIES, scheme)
    free = [free_energy(row.toatoms()) for row in before]
    molecules = [row.molecule for row in before]
    expected = energies(before) - rest[molecules] + sums[molecules] + free
    np.testing.assert_allclose(energies(rows), expected, atol=1e-7)
    for row, old in zip(rows, before, strict=True):
        np.testing.assert_array_equal(row.data["forces"], old.data["forces"])
        assert row.key_value_pairs == old.key_value_pairs
    assert metadata["labels_used"] == list(TRAIN)
    assert metadata["scheme"] == scheme
    assert metadata["loo_mae_ev"] > 0
    assert metadata["atomrefs"]["energy"][6] == -1000.0


def test_a_base_is_corrected(tmp_path: Path, files: dict[str, str]) -> None:
    before = rows_of(files["frames"])
    rest, molecules = rest_of(before), [row.molecule for row in before]
    rows, _ = made(tmp_path / "absolute.db", base="frames", scheme="bonds", **files)
    sums = predicted(TRAIN, ENERGIES - rest, "bonds", bound=False)
    free = [free_energy(row.toatoms()) for row in before]
    np.testing.assert_allclose(energies(rows), energies(before) + sums[molecules] + free, atol=1e-7)
    other = write_frames(tmp_path / "other.db", n_displaced=0, shift_ev=0.3)
    rows, _ = made(tmp_path / "mixed.db", base=str(other), scheme="bonds", **files)
    better = rest + 0.3 * np.arange(len(rest))
    sums = predicted(TRAIN, ENERGIES - better, "bonds", bound=False)
    expected = energies(before) + (better - rest + sums)[molecules] + free
    np.testing.assert_allclose(energies(rows), expected, atol=1e-7)


def test_a_calculator_labels_what_the_base_does_not_have(
    tmp_path: Path, files: dict[str, str]
) -> None:
    few = str(write_frames(tmp_path / "few.db", [0, 5, 9]))
    settings = files | {"frames": few, "base": "frames"}
    with pytest.raises(DataError, match=r"lacks 5 of 6, first 8; .* data.source.calculator"):
        made(tmp_path / "a.db", **settings)
    rows, _ = made(tmp_path / "b.db", calculator=MMFF, n_workers=1, **settings)
    whole, _ = made(tmp_path / "c.db", **files | {"base": "frames"})
    kept = [row for row in whole if row.molecule in (0, 5, 9)]
    np.testing.assert_allclose(energies(rows), energies(kept), atol=1e-6)
    with pytest.raises(LabelError, match="no base energy of row 0: SMILES 'C'"):
        made(tmp_path / "d.db", calculator={**MMFF, "smiles": "C"}, n_workers=1, **settings)


def test_labels_less_their_increments(tmp_path: Path, files: dict[str, str]) -> None:
    rows, metadata = made(tmp_path / "a.db", mode="remove", scheme="bonds", **files)
    np.testing.assert_allclose(
        energies(rows), ENERGIES - predicted(TRAIN, ENERGIES, "bonds"), atol=1e-7
    )
    assert metadata["atomrefs"] == {}
    assert metadata["_property_unit_dict"] == {"energy": "eV"}
    rest = rest_of(rows_of(files["frames"]))
    rows, _ = made(tmp_path / "b.db", mode="remove", scheme="bonds", base="frames", **files)
    sums = predicted(TRAIN, ENERGIES - rest, "bonds", bound=False)
    np.testing.assert_allclose(energies(rows), ENERGIES - sums, atol=1e-7)


def test_only_training_labels_are_used(tmp_path: Path, files: dict[str, str]) -> None:
    def run(name: str, changed: int | None, mode: str, n_train: int | None = None):
        labels = ENERGIES.copy()
        if changed is not None:
            labels[changed] += 50.0
        path = write_labels(tmp_path / f"labels-{name}.db", labels)
        settings = files | {"labels": str(path), "mode": mode, "n_train": n_train}
        rows, metadata = made(tmp_path / f"{name}.db", **settings)
        return energies(rows), metadata

    before, metadata = run("a", None, "add")
    same, also = run("b", 6, "add")  # a test label
    np.testing.assert_array_equal(before, same)
    assert also == metadata
    other, _ = run("c", 3, "add")  # a training label
    assert np.abs(other - before).max() > 1.0
    few, four = run("d", 3, "add", n_train=4)  # which these four are not
    assert four["labels_used"] == list(TRAIN[:4])
    np.testing.assert_array_equal(few, run("e", None, "add", n_train=4)[0])
    assert not np.allclose(few, before)
    removed, _ = run("f", None, "remove")
    changed, _ = run("g", 6, "remove")
    np.testing.assert_allclose(changed - removed, 50.0 * (np.arange(10) == 6), atol=1e-9)


def test_elements_without_a_label_are_told(
    tmp_path: Path, files: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made(tmp_path / "a.db", **files)
    assert "no training molecule has F: energies of the frames that do (F: 2)" in caplog.text


def test_a_data_module_makes_it(tmp_path: Path, files: dict[str, str]) -> None:
    path = tmp_path / "a.db"
    module(path, source=IncrementedData(**files)).prepare_data()
    module(path, source=IncrementedData(**files)).prepare_data()
    with pytest.raises(DataError, match="other settings"):
        module(path, source=IncrementedData(**files, n_train=3)).prepare_data()
    with pytest.raises(DataError, match="n_frames = 20"):
        module(tmp_path / "b.db", source=IncrementedData(**files), num_train=18).prepare_data()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "subtract"}, "mode add or remove"),
        ({"scheme": "benson"}, "scheme out of"),
        ({"frames": None}, "database of frames"),
        ({"frames": None, "mode": "remove", "base": "frames"}, "database of frames"),
        ({"base": "absent.db"}, "absent.db does not exist"),
        ({"calculator": MMFF}, "base other than none"),
        ({"calculator": RDKitForceField(), "base": "frames"}, "_recursive_: false"),
        ({"n_train": 7}, "n_train from 1 to the 6"),
        ({"n_train": 0}, "n_train from 1 to the 6"),
        ({"labels": "absent.db"}, "absent.db does not exist"),
    ],
)
def test_settings_that_do_not_fit(files: dict[str, str], wrong, message: str) -> None:
    with pytest.raises(DataError, match=message):
        IncrementedData(**files | wrong)


def test_files_that_do_not_fit(tmp_path: Path, files: dict[str, str]) -> None:
    np.savez(tmp_path / "long.npz", train_idx=[0, 12])
    with pytest.raises(DataError, match=r"names row 12, .* has 10"):
        IncrementedData(**files | {"split_file": str(tmp_path / "long.npz")})
    np.savez(tmp_path / "none.npz", test_idx=[0])
    with pytest.raises(DataError, match="npz file with train_idx"):
        IncrementedData(**files | {"split_file": str(tmp_path / "none.npz")})
    swapped = write_labels(tmp_path / "swapped.db", smiles=("CC", "CCO", *SMILES[2:]))
    with pytest.raises(DataError, match=r"molecule 1 of the base to be row 1 .*C2H6O.* got C2H6;"):
        made(tmp_path / "a.db", **files | {"labels": str(swapped), "base": "frames"})
    lying = [labelled(embed_smiles("CC"), 0.0, None, smiles="CO")]
    lying_path = write_database(tmp_path / "lying.db", lying, {})
    np.savez(tmp_path / "first.npz", train_idx=[0])
    first = {"labels": str(lying_path), "split_file": str(tmp_path / "first.npz")}
    with pytest.raises(DataError, match="SMILES string of C2H6, got 'CO'"):
        made(tmp_path / "a.db", **files | first)


def test_frames_without_undistorted_ones(tmp_path: Path, files: dict[str, str]) -> None:
    frame = labelled(embed_smiles("CC"), 1.0, np.zeros((8, 3)), smiles="CC", molecule=4)
    frames = write_database(tmp_path / "frames2.db", [frame], {})
    with pytest.raises(DataError, match=r"undistorted frame .* got none of molecule 4"):
        made(tmp_path / "a.db", **files | {"frames": str(frames)})
    rows, _ = made(
        tmp_path / "b.db",
        **files | {"frames": str(frames), "base": "frames", "calculator": MMFF, "n_workers": 1},
    )
    assert len(rows) == 1
