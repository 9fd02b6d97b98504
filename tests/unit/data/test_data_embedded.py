"""The shipped data: layout on a tiny copy, quality on the real one."""

import json
from pathlib import Path

import numpy as np
import pytest
from distorted import frames_of
from schnetpack.data import ASEAtomsData

from schnetpack_tpainn.data import EmbeddedEthanol, EmbeddedWater, TPaiNNDataModule
from schnetpack_tpainn.data.check import check_database
from schnetpack_tpainn.data.split import PartSplit
from schnetpack_tpainn.errors import DataError

ATOMS = {"H": -13.7, "C": -1030.5, "O": -2043.6}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("pool", 6), ("test", 4)):
        frames = frames_of(n, seed=n)
        arrays |= {
            f"{part}_positions": np.array([a.positions for a in frames]),
            f"{part}_energy": -4216.0 + rng.normal(size=n),
            f"{part}_forces": rng.normal(size=(n, 9, 3)).astype(np.float32),
            f"{part}_temperature_k": np.array([300.0, 450.0, 600.0])[np.arange(n) % 3],
        }
    metadata = {"isolated_atoms_ev": ATOMS, "level_of_theory": {"xc": "wb97x-d3bj"}}
    path = tmp_path / "ethanol.npz"
    numbers = frames_of(1)[0].numbers
    np.savez_compressed(path, numbers=numbers, metadata=json.dumps(metadata), **arrays)
    return path


def test_database(archive: Path, tmp_path: Path) -> None:
    dataset = ASEAtomsData(str(EmbeddedEthanol(archive).make(tmp_path / "x.db")))
    rows = list(dataset.conn.select())
    assert [row.part for row in rows] == ["pool"] * 6 + ["test"] * 4
    assert rows[7].temperature_k == 450.0
    arrays = np.load(archive)
    assert dataset[7]["energy"].item() == arrays["test_energy"][1]
    np.testing.assert_array_equal(dataset[7]["forces"].numpy(), arrays["test_forces"][1])
    np.testing.assert_array_equal(dataset[2]["_positions"].numpy(), arrays["pool_positions"][2])
    assert dataset.metadata["level_of_theory"] == {"xc": "wb97x-d3bj"}
    stored = dataset.metadata["atomrefs"]["energy"]
    assert (len(stored), stored[1], stored[8]) == (100, ATOMS["H"], ATOMS["O"])


def test_data_module(archive: Path, tmp_path: Path) -> None:
    datamodule = TPaiNNDataModule(
        str(tmp_path / "x.db"),
        2,
        source=EmbeddedEthanol(archive),
        splitting=PartSplit(),
        num_train=3,
        num_val=2,
        split_file=None,
    )
    datamodule.prepare_data()
    datamodule.setup()
    assert sorted(datamodule.test_idx) == [6, 7, 8, 9]


def test_an_absent_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the data of EmbeddedEthanol"):
        EmbeddedEthanol(tmp_path / "x.npz")


def test_the_shipped_frames_are_sound(tmp_path: Path) -> None:
    path = EmbeddedEthanol().make(tmp_path / "x.db")
    table = check_database(path, "energy", "forces")
    assert (table.counts[:, [1, 6, 8]] == [6, 2, 1]).all()
    with np.load(EmbeddedEthanol.shipped) as arrays:
        metadata = json.loads(str(arrays["metadata"]))
        forces = np.concatenate([arrays["pool_forces"], arrays["test_forces"]])
        parts = [arrays["pool_energy"], arrays["test_energy"]]
        pool, test = arrays["pool_positions"], arrays["test_positions"]
    assert len(parts[0]) >= 300
    assert len(parts[1]) == 500
    assert metadata["level_of_theory"]["xc"] == "wb97x-d3bj"
    assert metadata["level_of_theory"]["basis"] == "def2-tzvp"
    atoms = metadata["isolated_atoms_ev"]
    binding = np.concatenate(parts) - (6 * atoms["H"] + 2 * atoms["C"] + atoms["O"])
    assert -35.1 < binding.min() < binding.max() < -32.5  # measured: -35.0 eV at rest
    assert 0.1 < binding.std() < 0.6  # 21 vibrations at 300 to 600 K
    assert abs(parts[0].mean() - parts[1].mean()) < 0.1
    assert np.sqrt((forces**2).mean()) == pytest.approx(1.2, rel=0.4)
    assert np.sqrt((forces.sum(1) ** 2).mean()) < 8e-3  # eV/Å, the integration grid's error
    assert metadata["checks"]["finite_difference_max_ev_per_ang"] < 1e-2
    assert metadata["checks"]["net_force_max_ev_per_ang"] < 3e-2
    assert len(np.unique(np.concatenate([pool, test]).reshape(-1, 27), axis=0)) == len(forces)


def test_boxes_of_water_are_periodic(tmp_path: Path) -> None:
    positions = np.random.default_rng(0).uniform(0, 9, (2, 6, 3)).astype(np.float32)
    arrays = {
        f"{part}_{name}": values
        for part in ("pool", "test", "second")
        for name, values in {
            "positions": positions,
            "edge_ang": np.array([9.4, 10.3]),
            "energy": np.array([-10.0, -11.0]),
            "forces": positions - 4,
            "temperature_k": np.array([280.0, 400.0]),
            "density_g_per_cm3": np.array([1.15, 0.85]),
        }.items()
    }
    archive = tmp_path / "water.npz"
    np.savez_compressed(archive, numbers=[8, 1, 1, 8, 1, 1], metadata="{}", **arrays)
    dataset = ASEAtomsData(str(EmbeddedWater(archive).make(tmp_path / "x.db")))
    rows = list(dataset.conn.select())
    assert [row.part for row in rows] == ["pool", "pool", "test", "test", "second", "second"]
    assert [row.density_g_per_cm3 for row in rows] == [1.15, 0.85] * 3
    assert rows[1].toatoms().cell.tolist() == np.diag([10.3] * 3).tolist()
    assert all(row.pbc.all() for row in rows)
    assert "energy" not in dataset.metadata["atomrefs"]
    first = EmbeddedWater(archive, parts=["pool", "test"]).make(tmp_path / "first.db")
    rows = list(ASEAtomsData(str(first)).conn.select())
    assert [row.part for row in rows] == ["pool", "pool", "test", "test"]
    with pytest.raises(DataError, match="expected parts of pool, test, second, got third"):
        EmbeddedWater(archive, parts=["pool", "third"])


def test_the_shipped_water_is_sound(tmp_path: Path) -> None:
    path = EmbeddedWater().make(tmp_path / "x.db")
    check_database(path, "energy", "forces")
    rows = list(ASEAtomsData(str(path)).conn.select())
    parts = [row.part for row in rows]
    assert [parts.count(part) for part in ("pool", "test", "second")] == [120, 96, 22]
    for row in rows:
        box = row.toatoms()
        assert (box.numbers.reshape(-1, 3) == [8, 1, 1]).all()
        density = box.get_masses().sum() * 1.66053907 / box.get_volume()
        assert density == pytest.approx(row.density_g_per_cm3, rel=1e-3)
        bonds = box.positions.reshape(-1, 3, 3)[:, 1:] - box.positions.reshape(-1, 3, 3)[:, :1]
        edge = box.cell.lengths()[0]
        lengths = np.linalg.norm(bonds - edge * np.round(bonds / edge), axis=2)
        assert 0.8 < lengths.min() < lengths.max() < 1.3  # hydrogens on their own oxygens
    with np.load(EmbeddedWater.shipped) as arrays:
        metadata = json.loads(str(arrays["metadata"]))
        positions, energies, forces = (
            np.concatenate([arrays[f"{part}_{name}"] for part in ("pool", "test", "second")])
            for name in ("positions", "energy", "forces")
        )
    energies /= 32
    assert len(np.unique(positions.reshape(-1, 288), axis=0)) == len(rows)
    assert metadata["level_of_theory"]["xc"] == "revpbe"
    assert metadata["level_of_theory"]["dispersion"] == "d3bj"
    assert np.sqrt((forces**2).mean()) == pytest.approx(0.92, rel=0.15)
    assert np.abs(forces.astype(float).sum(1)).max() < 1e-5  # eV/Å
    assert 0.01 < energies.std() < 0.1  # eV per molecule
    checks = metadata["checks"]
    assert checks["forces_rms_from_90_ry_ev_per_ang"] < 0.03
    assert checks["forces_rms_from_tight_scf_ev_per_ang"] < 0.005
    assert checks["finite_difference_ev_per_ang"] < 0.01
    assert abs(checks["pressure_from_90_ry_bar"]) < 300
