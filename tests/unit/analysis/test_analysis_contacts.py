"""Hydrogen bonds and closest approaches of geometries made by hand."""

import numpy as np
import pytest
from ase import Atoms
from handmade import made

from schnetpack_tpainn.analysis import MolecularTrajectory, analyse, find_contacts
from schnetpack_tpainn.analysis.settings import AnalysisSettings
from schnetpack_tpainn.errors import AnalysisError


def dimer(distance, degrees):
    """Two waters: a hydrogen of the first is so far off the line to the second's oxygen."""
    angle = np.radians(degrees)
    donor = [[0, 0, 0], [np.cos(angle), np.sin(angle), 0], [-0.33, -0.94, 0]]
    acceptor = [[distance, 0, 0], [distance + 0.58, 0, 0.8], [distance + 0.58, 0, -0.8]]
    return Atoms("OHHOHH", donor + acceptor)


def bonds(atoms):
    return find_contacts(MolecularTrajectory(made(atoms))).hydrogen_bonds


@pytest.mark.parametrize(
    ("distance", "degrees", "per_molecule"),
    [(2.9, 0, 1), (3.49, 0, 1), (3.51, 0, 0), (2.9, 29.5, 1), (2.9, -29.5, 1), (2.9, 30.5, 0)],
)
def test_a_dimer_has_one_bond_within_3_5_ang_and_30_degrees(distance, degrees, per_molecule):
    atoms = dimer(distance, degrees)
    assert (bonds(atoms) == per_molecule).all()
    assert (bonds(atoms[[3, 4, 5, 0, 1, 2]]) == per_molecule).all()
    atoms.set_cell(np.diag([12.0, 12, 12]))
    atoms.pbc = True
    atoms.positions += [10.5, 11.5, 0.3]
    atoms.wrap()  # the bond goes through a face of the cell, and so does a molecule
    assert (bonds(atoms) == per_molecule).all()


def ice():
    """Cubic ice with ordered protons: oxygens on a diamond lattice, two hydrogens on each."""
    a = 2.75 * 4 / 3**0.5
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * a
    directions = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5
    atoms = Atoms(cell=np.eye(3) * a, pbc=True)
    for place in fcc:
        atoms += Atoms("OHH", [place, *(place + 0.98 * directions[:2])])
        other = place + 2.75 * directions[0]
        atoms += Atoms("OHH", [other, *(other - 0.98 * directions[2:])])
    return atoms


def test_a_molecule_of_ice_has_four_bonds():
    assert (bonds(ice()) == 4).all()


def test_closest_approaches_are_those_of_the_geometry():
    atoms = dimer(2.9, 0)
    found = find_contacts(MolecularTrajectory(made(atoms)))
    assert found.between_ang["O-O"] == pytest.approx(2.9)
    assert found.between_ang["H-O"] == pytest.approx(1.9)
    assert found.within_ang["H-O"] == pytest.approx(0.988, abs=0.001)
    assert found.within_ang["O-O"] is None
    assert found.overlaps == {}
    far = find_contacts(MolecularTrajectory(made(dimer(20, 0))))
    assert set(far.between_ang.values()) == {None}


def test_overlapping_atoms_are_a_warning():
    atoms = dimer(2.9, 0)
    positions = np.repeat(atoms.positions[None], 10, axis=0)
    positions[3:5, 3:] -= [1.6, 0, 0]  # 0.3 Å from the hydrogen
    found = analyse(made(atoms, positions))
    assert found.contacts.overlaps == {"H-O": 2}
    assert found.contacts.between_ang["H-O"] == pytest.approx(0.3)
    assert any("H-O came closer than 0.6" in text for text in found.warnings)


def test_what_has_no_hydroxyl_has_no_hydrogen_bonds():
    trajectory = made(Atoms("Ar2", [[0, 0, 0], [3, 0, 0]]))
    with pytest.raises(AnalysisError, match="molecules with O-H bonds"):
        analyse(trajectory, AnalysisSettings(only=["hydrogen_bonds"]))
