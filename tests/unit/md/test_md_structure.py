import ase.io
import numpy as np
import pytest
from ase.db import connect
from ase.units import Bohr

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md import read_structure


def test_smiles_and_files(ethanol, tmp_path):
    assert read_structure("CCO") == ethanol
    other = ethanol.copy()
    other.positions += 1.0
    ase.io.write(tmp_path / "two.xyz", [ethanol, other])
    assert np.allclose(read_structure(tmp_path / "two.xyz", -1).positions, other.positions)


def test_database_rows_and_their_unit_of_length(ethanol, tmp_path):
    path = tmp_path / "data.db"
    with connect(path) as database:
        for factor in (1.0, 1.1, 1.2):
            frame = ethanol.copy()
            frame.positions *= factor / Bohr
            frame.set_cell(np.eye(3) * 20 / Bohr)
            database.write(frame, data={"energy": np.zeros(1)})
    database.metadata = {"_distance_unit": "Bohr", "_property_unit_dict": {"energy": "eV"}}
    for index, factor in ((0, 1.0), (1, 1.1), (-1, 1.2)):
        atoms = read_structure(path, index)
        np.testing.assert_allclose(atoms.positions, factor * ethanol.positions, atol=1e-8)
        np.testing.assert_allclose(atoms.cell.array, 20 * np.eye(3))
    for index in (3, -4):
        with pytest.raises(MDError, match="it has 3"):
            read_structure(path, index)


def test_missing_structure(tmp_path):
    with pytest.raises(MDError, match=r"no structure 0 in .*missing.xyz.*expected a SMILES"):
        read_structure(tmp_path / "missing.xyz")
