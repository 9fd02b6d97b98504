"""Sampling a liquid: the states asked for, labels, resuming, blow-ups, other liquids."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.db import connect

from schnetpack_tpainn.data import OpenMMSampler
from schnetpack_tpainn.data.check import check_database
from schnetpack_tpainn.data.liquid import box_length, density, water_box, waters
from schnetpack_tpainn.data.openmm import OpenMMForceField
from schnetpack_tpainn.data.openmm_dynamics import sample_liquid
from schnetpack_tpainn.data.openmm_system import MODELS
from schnetpack_tpainn.data.store import FrameStore
from schnetpack_tpainn.errors import DataError, LabelError

pytest.importorskip("openmm")
PDB = """\
CRYST1   10.000   10.000   10.000  90.00  90.00  90.00 P 1           1
HETATM    1  O   HOH A   1       1.000   1.000   1.000  1.00  0.00           O
HETATM    2  H1  HOH A   1       1.757   1.586   1.000  1.00  0.00           H
HETATM    3  H2  HOH A   1       0.243   1.586   1.000  1.00  0.00           H
HETATM    4  O   HOH A   2       5.000   5.000   9.900  1.00  0.00           O
HETATM    5  H1  HOH A   2       5.757   5.586   9.900  1.00  0.00           H
HETATM    6  H2  HOH A   2       4.243   5.586   9.900  1.00  0.00           H
END
"""


def sampler(**settings) -> OpenMMSampler:
    defaults = {
        "model": "spcfw",
        "n_molecules": 16,
        "n_frames": 5,
        "temperatures_k": [300],
        "densities_g_per_cm3": [0.8, 1.0],
        "pressures_bar": [1000.0],
        "interval_fs": 5.0,
        "equilibration_fs": 5.0,
        "melting_fs": 5.0,
        "cutoff_ang": 3.5,
        "platform": "Reference",
        "n_workers": 1,
    }
    return OpenMMSampler(**defaults | settings)


def sampled(temperature_k=300.0, seed=1, n_frames=3, model="tip3p", **settings) -> list[Atoms]:
    dynamics = {"interval_fs": 10.0, "timestep_fs": 0.5, "friction_per_fs": 0.1}
    dynamics |= {"equilibration_fs": 20.0, "melting_fs": 0.0} | settings
    engine = {"model": model, "topology": None, "cutoff_ang": 3.5}
    start = water_box(16, 1.0, 1)
    return sample_liquid(start, engine, dynamics, temperature_k, None, n_frames, seed)


def test_start_boxes() -> None:
    for n in (1, 8, 27, 40):
        atoms = water_box(n, 0.9, seed=3)
        assert density(atoms) == pytest.approx(0.9)
        assert np.allclose(waters(n).whole(atoms), atoms.positions)
        centres = atoms.positions[::3]
        assert len(np.unique(centres.round(6), axis=0)) == n
    assert box_length(64 * 18.015, 0.997) == pytest.approx(12.43, abs=0.01)  # 0.997 g/cm³
    assert not np.allclose(water_box(8, 1.0, 0).positions, water_box(8, 1.0, 1).positions)


def test_a_data_set_and_its_resumption(tmp_path: Path) -> None:
    path = sampler().make(tmp_path / "x.db")
    check_database(path, "energy", "forces")
    with connect(path) as db:
        rows, metadata = list(db.select()), db.metadata
    assert [row.key_value_pairs.get("pressure_bar") for row in rows] == [None] * 4 + [1000.0]
    np.testing.assert_allclose([row.density_g_per_cm3 for row in rows[:4]], [0.8, 0.8, 1.0, 1.0])
    assert metadata["force_field"]["cutoff_ang"] == 3.5
    assert metadata["_property_unit_dict"]["stress"] == "eV/Ang/Ang/Ang"
    assert metadata["versions"]["openmm"]
    for row in rows:  # whole molecules, with the calculator's labels
        atoms = row.toatoms()
        assert np.abs(waters(16).whole(atoms) - atoms.positions).max() < 1e-9
        atoms.calc = OpenMMForceField("spcfw", cutoff_ang=3.5, platform="Reference")
        assert atoms.get_potential_energy() == pytest.approx(row.data["energy"][0], abs=1e-9)
        np.testing.assert_allclose(row.data["forces"], atoms.get_forces(), atol=1e-9)
        np.testing.assert_allclose(row.data["stress"], [atoms.get_stress(voigt=False)], atol=1e-9)
    again = sampler()
    store = FrameStore(tmp_path / "y.db", again.settings)
    name, arguments = list(again.trajectories().items())[1]
    store.add(name, sample_liquid(*arguments))
    store._lock.release()  # as of a process that was killed
    with connect(again.make(tmp_path / "y.db")) as db:
        for row, other in zip(rows, db.select(), strict=True):
            np.testing.assert_array_equal(row.positions, other.positions)
            np.testing.assert_array_equal(row.data["stress"], other.data["stress"])


def test_trajectories_are_independent_and_do_not_depend_on_each_other() -> None:
    work = sampler(n_trajectories=2).trajectories()
    assert [args[-2] for args in work.values()] == [1, 1, 1, 1, 1]  # of six, five have a frame
    more = sampler(n_trajectories=2, n_frames=30).trajectories()
    assert [a[-1] for a in work.values()] == [a[-1] for a in more.values()][:5]
    assert len({a[-1] for a in more.values()}) == 6
    free = sampler(n_molecules=64, cutoff_ang=None, densities_g_per_cm3=[0.85, 1.15])
    cutoffs = {a[1]["cutoff_ang"] for a in free.trajectories().values()}
    assert cutoffs == {5.5}  # one, which fits into the densest box
    for pressures, cutoff in (([], 6.0), ([1.0], 5.5)):  # a box under a pressure may shrink
        states = {"densities_g_per_cm3": [1.0], "pressures_bar": pressures}
        free = sampler(n_molecules=64, cutoff_ang=None, **states).trajectories()
        assert {a[1]["cutoff_ang"] for a in free.values()} == {cutoff}


def test_seeds() -> None:
    first, again, other = sampled(), sampled(), sampled(seed=2)
    np.testing.assert_array_equal(first[2].positions, again[2].positions)
    assert not np.allclose(first[2].positions, other[2].positions)


def test_the_temperature_is_the_one_asked_for() -> None:
    frames = sampled(450.0, n_frames=60, equilibration_fs=200.0)
    arms = [(a.positions.reshape(-1, 3, 3)[:, 1:] - a.positions[::3, None]) for a in frames]
    lengths = np.linalg.norm(arms, axis=-1)
    stiffness = 462750.4 * units.kJ / units.mol / 100  # of flexible TIP3P's bonds, eV/Å²
    assert lengths.var() == pytest.approx(units.kB * 450.0 / stiffness, rel=0.15)


def test_dynamics_that_blow_up() -> None:
    with pytest.raises(LabelError, match=r"H32O16 at 300 K, 1\.000 g/cm³.*shorten timestep_fs"):
        sampled(timestep_fs=30.0, interval_fs=3000.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_frames": 0},
        {"n_molecules": -1},
        {"temperatures_k": []},
        {"temperatures_k": [0]},
        {"densities_g_per_cm3": [-1.0]},
        {"densities_g_per_cm3": [], "pressures_bar": []},
    ],
)
def test_numbers_out_of_range(wrong) -> None:
    with pytest.raises(DataError, match="expected"):
        sampler(**wrong)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for wrong in ({"cutoff_ang": 6.0}, {"model": "tip4pew.xml"}, {"platform": "TPU"}):
        with pytest.raises(LabelError):
            sampler(**wrong).make(tmp_path / "x.db")
    assert not list(tmp_path.iterdir())


def test_another_liquid_by_its_topology(tmp_path: Path) -> None:
    path = tmp_path / "two.pdb"
    path.write_text(PDB)
    own = sampler(topology=str(path), densities_g_per_cm3=[0.04], pressures_bar=[], n_frames=1)
    [(start, engine, *_)] = own.trajectories().values()
    assert density(start) == pytest.approx(0.04)
    assert start.get_distance(0, 1) == pytest.approx(np.hypot(0.757, 0.586), abs=1e-3)
    with connect(own.make(tmp_path / "x.db")) as db:
        assert db.get(id=1).numbers.tolist() == [8, 1, 1, 8, 1, 1]
        assert db.metadata["topology"].startswith("two.pdb:")
    with pytest.raises(LabelError, match="expected the 6 atoms of the topology, got 48"):
        OpenMMForceField(**engine).calculate(water_box(16, 0.5))
    path.write_text(PDB.split("\n", 1)[1])
    with pytest.raises(DataError, match="CRYST1"):
        own.make(tmp_path / "y.db")
    path.write_text("no atoms")
    with pytest.raises(LabelError, match=r"two\.pdb"):
        own.make(tmp_path / "y.db")


def test_workers_get_absolute_paths(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.pdb").write_text(PDB)
    Path("own.xml").write_text(Path(MODELS["spcfw"]).read_text())
    own = sampler(model="own.xml", topology="two.pdb", densities_g_per_cm3=[0.04], pressures_bar=[])
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    [(_, engine, *_)] = own.trajectories().values()
    assert engine["topology"] == str(tmp_path / "two.pdb")
    assert engine["model"] == [str(tmp_path / "own.xml")]
    assert sampler(model="iamoeba").model == "iamoeba"
    assert sampler(model=["tip3p.xml"]).model == ["tip3p.xml"]
