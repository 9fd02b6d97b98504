import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md import ExplosionError, Limits
from schnetpack_tpainn.md.guard import Guard


def check(guard, atoms, force=1.0, energy=0.0, temperature_k=300.0, step=10):
    forces = np.zeros((len(atoms), 3))
    forces[-1, 1] = force
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    guard.check(atoms, step, temperature_k, "production")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"force": 101.0}, "the largest force is 101 eV/Å"),
        ({"force": np.nan}, "the largest force is nan"),
        ({"energy": np.inf}, "step 10 of the production"),
        ({"temperature_k": 5001.0}, "the temperature is 5001 K"),
        ({"temperature_k": np.nan}, "the temperature is nan K"),
    ],
)
def test_values_beyond_the_limits(values, message):
    water = molecule("H2O")
    guard = Guard(Limits(), water)
    check(guard, water)
    with pytest.raises(ExplosionError, match=message):
        check(guard, water, **values)


def test_close_atoms():
    water = molecule("H2O")
    guard = Guard(Limits(), water)
    water.positions[2] = water.positions[1] + [0, 0, 0.4]
    check(guard, water, step=9)  # distances are for every tenth step
    with pytest.raises(ExplosionError, match=r"two atoms are 0\.4 Å apart"):
        check(guard, water)


@pytest.mark.parametrize("periodic", [False, True])
def test_a_piece_that_flies_off(periodic):
    pair = molecule("H2O") + molecule("H2O")
    pair.positions[3:] += [3.5, 0, 0]
    if periodic:
        pair.set_cell([20.0, 20.0, 20.0])
        pair.pbc = True
        pair.positions[3:] -= [20.0, 0, 0]  # the same place
    guard = Guard(Limits(), pair)
    check(guard, pair)
    pair.positions[3:] += [3.5, 0, 0]
    with pytest.raises(ExplosionError, match="came apart into 2 pieces"):
        check(guard, pair)
    check(Guard(Limits(max_gap_ang=None), pair), pair)
    check(Guard(Limits(), pair), pair)  # apart from the start: nothing happened


def test_a_molecule_that_dissociates():
    pair = molecule("H2O") + molecule("H2O")
    pair.positions[3:] += [3.0, 0, 0]
    pair.set_cell([8.0, 8.0, 8.0])
    pair.pbc = True
    pair.positions[5] += [8.0, 0, 0]  # bonded through the cell's face
    watched = Guard(Limits(max_bond_stretch=1.5), pair)
    check(watched, pair)
    bond = pair.positions[5] - [8.0, 0, 0] - pair.positions[3]
    unwatched = Guard(Limits(), pair)
    pair.positions[5] += 0.6 * bond
    check(unwatched, pair)
    check(watched, pair, step=9)
    with pytest.raises(ExplosionError, match=r"bond O3-H5 is 1\.55 Å long, 1\.60 times"):
        check(watched, pair)


def test_limits_are_checked():
    with pytest.raises(MDError, match=r"limits\.min_distance_ang > 0, got -1"):
        Limits(min_distance_ang=-1)
    with pytest.raises(MDError, match=r"0\.1 Å apart"):
        Guard(Limits(), Atoms("H2", [[0, 0, 0], [0, 0, 0.1]]))
