"""Which frames are the same, and which are none."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from pools import shaken

from schnetpack_tpainn.errors import DataError
from schnetpack_tpainn.selection.pool import bare, check_frames, find_available, originals


def moved(atoms: Atoms) -> Atoms:
    """Turned, shifted, mirrored, with its atoms in another order."""
    other = atoms[np.random.default_rng(0).permutation(len(atoms))]
    other.rotate(37, (1, 2, 3))
    other.positions *= [1, 1, -1]
    other.positions += 3.0
    return other


def test_the_same_molecule_in_another_place_and_order_is_a_repetition() -> None:
    a, b, c = shaken(3)
    assert originals([a, b, moved(a), c, moved(b), a], 1e-6).tolist() == [0, 1, 0, 3, 1, 0]


def test_a_frame_repeats_another_up_to_the_tolerance() -> None:
    a = molecule("H2O")
    near, far = a.copy(), a.copy()
    near.set_distance(0, 1, a.get_distance(0, 1) + 0.009, fix=0)
    far.set_distance(0, 1, a.get_distance(0, 1) + 0.012, fix=0)
    assert originals([a, near, far], 0.01).tolist() == [0, 0, 2]
    assert originals([a, near, far], 0.02).tolist() == [0, 0, 0]
    assert originals([a, near, far], 0.0).tolist() == [0, 1, 2]


def test_equal_distances_of_other_elements_or_other_pairs_are_no_repetition() -> None:
    ends = [[0, 0, 0], [1.1, 0, 0], [2.4, 0, 0]]
    other = [Atoms(name, ends) for name in ("OCN", "OCO", "OCS", "NCO", "CON")]
    assert originals(other, 0.01).tolist() == [0, 1, 2, 3, 4]


def test_periodic_frames() -> None:
    a = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    a.rattle(0.05, seed=0)
    wrapped = a.copy()
    wrapped.positions += [4.0, -3.0, 1.0]
    wrapped.wrap()
    alone = a.copy()
    alone.pbc = False
    larger = a.copy()
    larger.set_cell(a.cell.array * 1.02)
    assert originals([a, wrapped, alone, larger], 1e-6).tolist() == [0, 0, 2, 3]
    atoms = [Atoms("Ar", pbc=True, cell=[c] * 3) for c in (5.0, 5.005, 5.1)]
    assert originals([*atoms, Atoms("Ar"), Atoms("Ar")], 0.01).tolist() == [0, 0, 2, 3, 3]


def test_what_is_labelled_excluded_or_repeated_is_left_out() -> None:
    pool = shaken(6)
    found = find_available([*pool, pool[5]], [moved(pool[1])], [pool[2], pool[4]], 1e-6)
    assert found.index == [0, 3, 5]
    assert (found.n_labelled, found.n_excluded, found.n_repeated, found.n_pool) == (1, 2, 1, 7)
    assert str(found).startswith("3 of 7 frames to choose from (1 are labelled, 2 excluded, 1")


def test_bare_frames_have_structure_and_info_alone() -> None:
    atoms = molecule("H2O", vacuum=2.0, pbc=True)
    atoms.info = {"smiles": "O", "energy": -3.0, "array": np.zeros(3), "temperature_k": 300}
    atoms.arrays["dft_forces"] = np.ones((3, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0)
    (found,) = bare([atoms])
    assert found.info == {"smiles": "O", "temperature_k": 300}
    assert set(found.arrays) == {"numbers", "positions"}
    assert found.calc is None
    assert found == Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)


def broken(name: str) -> Atoms:
    atoms = molecule("H2O", vacuum=2.0)
    if name == "nan":
        atoms.positions[1, 2] = np.nan
    elif name == "close":
        atoms.positions[1] = atoms.positions[0] + 0.1
    elif name == "flat":
        atoms.set_cell([3.0, 3.0, 0.0])
        atoms.pbc = True
    return Atoms() if name == "empty" else atoms


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "frame 1 of the pool: expected finite positions"),
        ("close", r"got 0\.173 Å in frame 1: leave such frames out"),
        ("flat", "frame 1 of the pool: expected cell vectors that span"),
        ("empty", "frame 1 of the pool: expected a structure with atoms, got none"),
    ],
)
def test_what_is_no_structure_is_refused(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_frames([molecule("H2O"), broken(name)], "the pool")


@pytest.mark.parametrize("n_labelled", [0, 1, 2])
def test_a_known_frame_that_repeats_another_still_rules_out_its_own(n_labelled: int) -> None:
    frames = [molecule("H2O") for _ in range(4)]
    for k, atoms in enumerate(frames):
        atoms.set_distance(0, 1, atoms.get_distance(0, 1) + 0.008 * k, fix=0)
    known, pool = frames[:2], frames[2:]
    found = find_available(pool, known[:n_labelled], known[n_labelled:], 0.01)
    assert found.index == [1]
    assert found.n_labelled + found.n_excluded == 1


@pytest.mark.parametrize("key", ["total_charge", "charge"])
def test_ions_are_told_from_neutral_molecules(key: str) -> None:
    ion, neutral = molecule("H2O"), molecule("H2O")
    ion.info[key] = 1
    assert originals([neutral, ion, ion], 0.01).tolist() == [0, 1, 1]
