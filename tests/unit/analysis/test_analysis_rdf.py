"""Radial distribution functions of crystals, of an ideal gas, and as ASE has them."""

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.geometry.rdf import get_rdf
from handmade import made

from schnetpack_tpainn.analysis import (
    AnalysisSettings,
    MolecularTrajectory,
    analyse,
    radial_distributions,
)
from schnetpack_tpainn.data.liquid import water_box
from schnetpack_tpainn.errors import AnalysisError


@pytest.mark.parametrize("cubic", [True, False])  # the primitive cell is far from orthogonal
def test_a_crystal_has_its_shells_where_they_are(cubic):
    a = 5.26
    atoms = bulk("Ar", a=a, cubic=cubic) * ((4, 4, 4) if cubic else (6, 6, 6))
    (found,) = radial_distributions(MolecularTrajectory(made(atoms)), [("Ar", "Ar")])
    shells = [(a / 2**0.5, 12), (a, 6), (a * 1.5**0.5, 24)]
    around, before = 0, 0.0
    for distance, number in shells:
        inside = found.r_ang < distance + 0.05
        around += number
        assert found.coordination[inside][-1] == pytest.approx(around)
        between = (found.r_ang > before + 0.02) & (found.r_ang < distance - 0.02)
        assert (found.g[between] == 0).all()
        before = distance
    assert found.first.position_ang == pytest.approx(a / 2**0.5, abs=0.011)  # half a bin
    assert found.first.coordination == pytest.approx(12)
    assert shells[0][0] < found.first.minimum_ang < a
    assert found.error.max() < 1e-9


def test_an_ideal_gas_has_none():
    rng = np.random.default_rng(0)
    atoms = Atoms("Ar100He50", cell=np.eye(3) * 60, pbc=True)
    positions = rng.uniform(0, 60, (60, 150, 3))
    system = MolecularTrajectory(made(atoms, positions))
    pairs = [("Ar", "Ar"), ("Ar", "He"), ("He", "He")]
    for one in radial_distributions(system, pairs, r_max_ang=25, bin_ang=0.5):
        assert one.first is None
        far = one.r_ang > 5
        assert np.abs((one.g[far] - 1) / one.error[far]).mean() < 3
        weights = one.r_ang[far] ** 2
        assert np.average(one.g[far], weights=weights) == pytest.approx(1, abs=0.02)
        assert np.median(one.error[far]) < 0.1


def test_it_is_that_of_ase_and_leaves_out_molecules():
    rng = np.random.default_rng(0)
    atoms = water_box(27, 0.9)
    still = atoms.positions + rng.normal(scale=0.05, size=(10, len(atoms), 3))
    system = MolecularTrajectory(made(atoms, still))
    (all_pairs,) = radial_distributions(
        system, [("O", "H")], r_max_ang=4, bin_ang=0.1, intramolecular=True
    )
    expected = []
    for positions in still:
        atoms.positions = positions
        expected.append(get_rdf(atoms, 4.0, 40, elements=(8, 1))[0])
    assert np.allclose(all_pairs.g, np.mean(expected, axis=0), rtol=0.02, atol=1e-6)
    (between,) = radial_distributions(system, [("O", "H")], r_max_ang=4, bin_ang=0.1)
    assert all_pairs.coordination[14] == pytest.approx(2)  # up to 1.5 Å
    assert between.coordination[-1] == pytest.approx(all_pairs.coordination[-1] - 2)
    assert between.g[:11].max() == 0


def test_cells_of_any_volume_are_normalised_each_by_its_own():
    atoms = bulk("Ar", a=5.26, cubic=True) * (3, 3, 3)
    scale = np.tile(np.linspace(0.98, 1.02, 5), 5)[:, None, None]
    trajectory = made(atoms, atoms.positions * scale, atoms.cell.array * scale)
    (found,) = radial_distributions(MolecularTrajectory(trajectory), [("Ar", "Ar")], bin_ang=0.1)
    assert found.first.coordination == pytest.approx(12)
    volumes = 4 * np.pi * found.r_ang**2 * 0.1
    per_volume = np.cumsum(found.g * volumes) * 4 / 5.26**3
    shell = np.searchsorted(found.r_ang, 4.4)
    assert per_volume[shell] == pytest.approx(12 * 108 / 107, rel=0.01)


@pytest.mark.parametrize(
    ("pairs", "settings", "message"),
    [
        ([("Ar", "Kr")], {}, r"pairs of the elements \['Ar'\], got one with Kr"),
        ([("Ar", "Xx")], {}, "expected a pair of elements such as O-H"),
        ([("Ar", "Ar")], {"r_max_ang": 6.0}, "at most half the smallest height of the box, 5.26"),
        ([("Ar", "Ar")], {"bin_ang": 2.0}, "bins of at most a tenth"),
        ([("Ar", "Ar")], {"n_blocks": 6}, "got 10 frames and 6 blocks"),
    ],
)
def test_what_a_crystal_does_not_allow_is_refused(pairs, settings, message):
    system = MolecularTrajectory(made(bulk("Ar", a=5.26, cubic=True) * (2, 2, 2)))
    with pytest.raises(AnalysisError, match=message):
        radial_distributions(system, pairs, **settings)


def test_one_molecule_has_no_pairs_but_its_own():
    system = MolecularTrajectory(made(water_box(1, 0.03)))
    with pytest.raises(AnalysisError, match="count those within a molecule"):
        radial_distributions(system, [("O", "H")])
    assert "rdf" in analyse(system.trajectory).missing


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "freud", None)
    with pytest.raises(AnalysisError, match=r"schnetpack-tpainn\[analysis\]"):
        AnalysisSettings()
    assert AnalysisSettings(only=["density"]).wants("density")
