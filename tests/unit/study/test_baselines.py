"""Linear baselines of a study."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from schnetpack_tpainn.data.offsets import element_values
from schnetpack_tpainn.data.store import labelled, write_database
from schnetpack_tpainn.errors import StudyError
from schnetpack_tpainn.study.baselines import baseline_errors

ATOMS = {"H": -13.0, "C": -1000.0, "N": -1500.0}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Diatomics whose energy is the sum of their atoms' and of 1 eV for each carbon."""
    frames = []
    for symbols in ("CC", "CN", "NN", "CC", "CN", "NN", "CN"):
        molecule = Atoms(symbols, [[0, 0, 0], [0, 0, 1.2]])
        smiles = {"CC": "[C]#[C]", "CN": "[C]#N", "NN": "N#N"}[symbols]
        energy = sum(ATOMS[s] + (s == "C") for s in molecule.get_chemical_symbols())
        frames.append(labelled(molecule, energy, None, smiles=smiles))
    atomrefs = {"energy": element_values(ATOMS)}
    return write_database(tmp_path / "labels.db", frames, {}, atomrefs)


def split(path: Path, train: list[int], test: list[int]) -> Path:
    np.savez(path, train_idx=train, val_idx=[], test_idx=test)
    return path


def test_what_is_additive_is_found_and_an_unseen_element_is_bound_as_the_rest(
    tmp_path: Path, database: Path
) -> None:
    splits = {
        (3, 0): split(tmp_path / "a.npz", [0, 1, 2], [3, 4, 5, 6]),
        (1, 0): split(tmp_path / "b.npz", [0], [5]),  # no nitrogen among the labels
    }
    errors = baseline_errors(["composition"], database, splits)["composition"]
    assert errors[3][0] == pytest.approx(0.0, abs=1e-6)
    assert errors[1][0] == pytest.approx(2000, rel=1e-3)  # meV; free atoms and 1 eV for each


def test_labels_of_test_frames_are_used_for_the_error_alone(tmp_path: Path, database: Path) -> None:
    one = baseline_errors(["bonds"], database, {(2, 0): split(tmp_path / "a.npz", [0, 2], [1])})
    two = baseline_errors(["bonds"], database, {(2, 0): split(tmp_path / "b.npz", [0, 2], [1, 4])})
    assert one == two  # frames 1 and 4 are alike


def test_unknown_schemes_are_refused(database: Path) -> None:
    with pytest.raises(StudyError, match=r"study\.baselines among"):
        baseline_errors(["angles"], database, {})
    assert baseline_errors([], database, {}) == {}


def test_composition_needs_no_bonds(tmp_path: Path) -> None:
    """A constant where all compositions are alike, as in a liquid."""
    frames = [labelled(Atoms("H2", [[0, 0, 0], [0, 0, 9.0]]), e, None) for e in (1.0, 3.0, 5.0)]
    path = write_database(tmp_path / "apart.db", frames, {})
    splits = {(2, 0): split(tmp_path / "a.npz", [0, 1], [2])}
    errors = baseline_errors(["composition"], path, splits)
    assert errors["composition"][2][0] == pytest.approx(3000.0, rel=1e-3)
