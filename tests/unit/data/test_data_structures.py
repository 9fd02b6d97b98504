"""Start structures from SMILES and files."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.units import Bohr
from distorted import frames_of

from schnetpack_tpainn.data.structures import (
    absolute_files,
    embed_smiles,
    identity,
    read_frames,
    read_structures,
)
from schnetpack_tpainn.errors import DataError


def test_embedding() -> None:
    atoms = embed_smiles("CCO")
    assert atoms.get_chemical_formula() == "C2H6O"
    assert atoms.info["smiles"] == "CCO"
    assert atoms.get_distance(0, 1) == pytest.approx(1.52, abs=0.03)
    np.testing.assert_array_equal(atoms.positions, embed_smiles("CCO").positions)
    assert not np.allclose(atoms.positions, embed_smiles("CCO", seed=1).positions)


def test_smiles_that_cannot_be_read() -> None:
    with pytest.raises(DataError, match="no such file, and RDKit cannot read it"):
        embed_smiles("C(C")
    with pytest.raises(DataError, match=r"frames\.xyz.*no such file"):
        read_structures(["frames.xyz"])


def test_smiles_that_cannot_be_embedded() -> None:
    with pytest.raises(DataError, match="cannot embed"):
        embed_smiles("C[C@]12C[C@@]1(C)C2")  # methyl groups on opposite sides of a small cage


def test_all_frames_of_files_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.extxyz"
    frames = frames_of(3)
    ase.io.write(path, frames)
    structures = read_structures([str(path), "O"])
    assert [len(a) for a in structures] == [9, 9, 9, 3]
    np.testing.assert_allclose(structures[1].positions, frames[1].positions, atol=1e-7)


def test_frames_of_a_database_in_another_unit_of_length(database) -> None:
    frames = frames_of(3)
    stored = [atoms.copy() for atoms in frames]
    for atoms in stored:
        atoms.positions /= Bohr
        atoms.set_cell(np.eye(3) * 20 / Bohr)
    path = database(stored, parts=["a", "b", "c"], _distance_unit="Bohr")
    for found, atoms, part in zip(read_frames(path), frames, "abc", strict=True):
        np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-8)
        np.testing.assert_allclose(found.cell.array, 20 * np.eye(3))
        assert found.info == {"part": part}
    with pytest.raises(DataError, match=r"expected a unit of distance such as Ang.*'furlong'"):
        read_structures([str(database(_distance_unit="furlong"))])


def test_unreadable_files_and_empty_lists(tmp_path: Path) -> None:
    path = tmp_path / "x.extxyz"
    path.write_text("not a structure")
    with pytest.raises(DataError, match="ASE cannot read"):
        read_structures([str(path)])
    with pytest.raises(DataError, match="empty list"):
        read_structures([])


def test_identity_follows_the_content_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.xyz"
    path.write_text("1")
    first = identity(str(path))
    path.write_text("2")
    assert first.startswith("x.xyz:")
    assert identity(str(path)) != first
    assert identity("CCO") == "CCO"


def test_a_smiles_string_may_be_longer_than_a_file_name() -> None:
    peptide = "NCC(=O)" * 40  # 280 characters
    with pytest.raises(DataError, match="RDKit cannot read it as SMILES"):
        read_structures([peptide + "?"])


def test_a_calculators_files_become_absolute(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.xml").touch()
    node = {
        "_target_": "own.xml",
        "file": "own.xml",
        "calculator": {"model": ["own.xml", "tip3p.xml"], "topology": None, "charge": 1},
    }
    assert absolute_files(node) == {
        "_target_": "own.xml",
        "file": str(tmp_path / "own.xml"),
        "calculator": {
            "model": [str(tmp_path / "own.xml"), "tip3p.xml"],
            "topology": None,
            "charge": 1,
        },
    }
