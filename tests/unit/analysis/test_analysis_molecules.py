"""Molecules that cross the cell's faces, and that fall apart."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from handmade import made

from schnetpack_tpainn.analysis import MolecularTrajectory, unwrap
from schnetpack_tpainn.errors import AnalysisError


def test_wrapped_points_are_followed_as_if_they_had_not_been_wrapped(moving_water):
    atoms, whole, wrapped = moving_water
    cell = atoms.cell.array
    assert np.abs(wrapped - whole).max() > np.linalg.norm(cell[0]) / 2  # they did cross
    followed = unwrap(wrapped, cell, atoms.pbc)
    assert np.allclose(followed - followed[0], whole - whole[0])


def test_molecules_are_made_whole_and_their_centres_followed(moving_water):
    atoms, whole, wrapped = moving_water
    system = MolecularTrajectory(made(atoms, wrapped))
    assert {name: len(found) for name, found in system.species.items()} == {"H2O": 8}
    together = system.whole.reshape(300, 8, 3, 3)
    assert np.allclose(
        together - together[:, :, :1], whole.reshape(300, 8, 3, 3) - whole[:, ::3, None]
    )
    centres, oxygens = system.centres(), whole[:, ::3]
    assert np.allclose(centres - centres[0], oxygens - oxygens[0])
    assert system.masses == pytest.approx(18.015)


def test_only_periodic_directions_are_unwrapped():
    cell, pbc = np.eye(3) * 10, np.array([True, True, False])
    far = np.array([[[1.0, 1, 1]], [[9.0, 1, 9]]])
    assert unwrap(far, cell, pbc)[1] == pytest.approx(np.array([[-1.0, 1, 9]]))


def test_frames_too_far_apart_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(AnalysisError, match="write frames more often"):
        unwrap(rng.uniform(0, 10, (20, 30, 3)), np.eye(3) * 10, np.ones(3, dtype=bool))


def test_diffusion_in_a_cell_that_changes_is_refused(moving_water):
    atoms, _, wrapped = moving_water
    scale = np.linspace(1, 1.1, len(wrapped))[:, None, None]
    trajectory = made(atoms, wrapped * scale, atoms.cell.array * scale)
    with pytest.raises(AnalysisError, match="run NVE or NVT at the mean density"):
        MolecularTrajectory(trajectory).centres()


def test_dissociated_molecules_are_counted(moving_water):
    atoms, whole, _ = moving_water
    still = np.repeat(atoms.positions[None], 10, axis=0)
    arm = still[:, 1] - still[:, 0]
    still[4:7, 1] += 0.6 * arm[4:7]  # 1.53 Å
    still[5:, 11] += 0.6 * (still[5:, 11] - still[5:, 9])
    found = MolecularTrajectory(made(atoms, still, interval_fs=500)).dissociation()
    assert (found.n_molecules, found.n_frames, found.most, found.at_end) == (8, 6, 2, 1)
    assert found.first_ps == pytest.approx(2.0)
    intact = MolecularTrajectory(made(atoms, whole)).dissociation()
    assert (intact.n_frames, intact.most, intact.at_end, intact.first_ps) == (0, 0, 0, None)


def test_a_hydrogen_has_its_shortest_bond_alone():
    # the donated hydrogen is 1.24 Å from the other oxygen, within reach of a bond
    positions = [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [2.2, 0, 0], [2.8, 0.75, 0]]
    system = MolecularTrajectory(made(Atoms("OHHOHH", [*positions, [2.8, -0.75, 0]])))
    assert len(system.species["H2O"]) == 2


def test_a_metal_is_no_molecule():
    for atoms in (bulk("Cu", cubic=True) * (2, 2, 2), bulk("Cu", cubic=True)):
        system = MolecularTrajectory(made(atoms))
        assert system.is_network
        assert len(system.masses) == len(atoms)
        assert system.dissociation().most == 0


def test_species_are_told_apart():
    box = molecule("CH3OH", cell=[9, 9, 9], pbc=True)
    water = molecule("H2O")
    water.positions += 4
    mixed = Atoms(box + water, pbc=True)
    species = MolecularTrajectory(made(mixed)).species
    assert {name: found.tolist() for name, found in species.items()} == {"CH4O": [0], "H2O": [1]}
