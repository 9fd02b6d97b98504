import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md.neighbors import VerletList

CUTOFF = 3.0
CELLS = {
    "cubic": np.eye(3) * 8,
    "sheared": np.array([[7.0, 0, 0], [3, 6, 0], [1, -2, 8]]),
    "left-handed": np.array([[0, 7.0, 0], [6, 1, 0], [1, -2, 8]]),
    "smaller than the cutoff": np.array([[2.5, 0, 0], [0.5, 2.2, 0], [0, 0.3, 2.7]]),
}
ALL, SLAB, WIRE, NONE = (1, 1, 1), (1, 1, 0), (0, 0, 1), (0, 0, 0)


def gas(cell, pbc, n=25, seed=0):
    """Atoms in and far outside the cell."""
    rng = np.random.default_rng(seed)
    return Atoms(f"H{n}", positions=rng.uniform(-15, 20, (n, 3)), cell=cell, pbc=pbc)


def vectors(pairs):
    """i, j and the rounded r_ij, in an order of their own."""
    r = pairs.positions[pairs.idx_j] - pairs.positions[pairs.idx_i] + pairs.offsets
    rows = np.column_stack([pairs.idx_i, pairs.idx_j, r.numpy().round(6) + 0.0])
    return rows[np.lexsort(rows.T)]


def expected(atoms):
    i, j, r = neighbor_list("ijD", atoms, CUTOFF)
    rows = np.column_stack([i, j, r.round(6) + 0.0])
    return rows[np.lexsort(rows.T)]


def call(verlet, atoms):
    return verlet(atoms.positions, atoms.cell.array, atoms.pbc)


@pytest.mark.parametrize("pbc", [ALL, SLAB, WIRE, NONE])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_list_is_ases_sorted_and_symmetric(cell, pbc):
    atoms = gas(cell, pbc)
    pairs = call(VerletList(CUTOFF, 0.7), atoms)
    np.testing.assert_allclose(vectors(pairs), expected(atoms), atol=2e-6)
    assert (pairs.idx_i.diff() >= 0).all()
    forth = torch.column_stack([pairs.idx_i, pairs.idx_j, pairs.offsets]).tolist()
    back = torch.column_stack([pairs.idx_j, pairs.idx_i, -pairs.offsets]).tolist()
    assert sorted(map(tuple, forth)) == sorted(map(tuple, back))  # exactly


def test_zero_cell_vectors_in_open_directions():
    atoms = gas(np.array([[7.0, 0, 0], [3, 6, 0], [0, 0, 0]]), SLAB)
    np.testing.assert_allclose(
        vectors(call(VerletList(CUTOFF, 0.7), atoms)), expected(atoms), atol=2e-6
    )


def wander(atoms, rng):
    atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
    atoms.positions += [0.3, -0.2, 0.1]


def strain(atoms, rng):
    wander(atoms, rng)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.04, size=(3, 3))), True)


def strain_of_the_cell_alone(atoms, rng):
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.002, size=(3, 3))))


def breathe(atoms, rng):
    atoms.set_cell(atoms.cell.array * rng.choice([0.7, 0.99, 1.01, 1.3]), True)


def wrap(atoms, rng):
    wander(atoms, rng)
    atoms.wrap()


@pytest.mark.parametrize("change", [wander, strain, strain_of_the_cell_alone, breathe, wrap])
@pytest.mark.parametrize("pbc", [ALL, SLAB, WIRE, NONE])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_no_pair_is_missed_while_atoms_and_cell_move(cell, pbc, change):
    rng = np.random.default_rng(1)
    atoms, verlet = gas(cell, pbc, n=12), VerletList(CUTOFF, 0.7)
    for _ in range(20):
        np.testing.assert_allclose(vectors(call(verlet, atoms)), expected(atoms), atol=2e-6)
        change(atoms, rng)
    if change is wander:
        assert verlet.n_builds < 10
    if change in (strain, strain_of_the_cell_alone) and pbc == ALL:
        assert 1 < verlet.n_builds < 20


def test_the_bound_is_tight():
    """Two atoms that meet head on, just beyond the reach of the list."""
    atoms = Atoms("H2", positions=[[0, 0, 0], [3.7001, 0, 0]])
    verlet = VerletList(CUTOFF, 0.7)
    assert len(call(verlet, atoms).idx_i) == 0
    atoms.positions[0, 0] += 0.34
    atoms.positions[1, 0] -= 0.34
    assert len(call(verlet, atoms).idx_i) == 0
    assert verlet.n_builds == 1
    atoms.positions[0, 0] += 0.02
    atoms.positions[1, 0] -= 0.02
    assert len(call(verlet, atoms).idx_i) == 2
    assert verlet.n_builds == 2


def test_compression_alone_brings_pairs_in():
    atoms = gas(CELLS["cubic"], ALL, n=100)
    verlet = VerletList(CUTOFF, 0.7)
    n_pairs = len(call(verlet, atoms).idx_i)
    atoms.set_cell(atoms.cell.array * 0.98, scale_atoms=True)  # 0.98 * 3.7 > 3
    more = len(call(verlet, atoms).idx_i)
    assert more > n_pairs
    assert verlet.n_builds == 1
    atoms.set_cell(atoms.cell.array * 0.8, scale_atoms=True)
    np.testing.assert_allclose(vectors(call(verlet, atoms)), expected(atoms), atol=2e-6)
    assert verlet.n_builds == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.set_pbc(SLAB),
        lambda atoms: atoms.append("H"),
        lambda atoms: atoms.pop(),
    ],
    ids=["pbc", "more atoms", "fewer atoms"],
)
def test_another_system_gets_another_list(change):
    atoms, verlet = gas(CELLS["cubic"], ALL), VerletList(CUTOFF, 0.7)
    call(verlet, atoms)
    change(atoms)
    np.testing.assert_allclose(vectors(call(verlet, atoms)), expected(atoms), atol=2e-6)
    assert verlet.n_builds == 2


def test_the_list_does_not_follow_the_callers_arrays():
    atoms, verlet = gas(CELLS["cubic"], ALL), VerletList(CUTOFF, 0.7)
    call(verlet, atoms)
    atoms.positions[0] += 1.0
    atoms.cell[0, 0] += 1.0
    call(verlet, atoms)
    assert verlet.n_builds == 2


def test_far_atoms_keep_their_digits_in_float32():
    atoms = gas(CELLS["cubic"], ALL)
    atoms.positions += 8e5
    inputs = call(VerletList(CUTOFF, 0.7), atoms).as_inputs(torch.float32)
    assert inputs["_positions"].abs().max() < 9
    assert inputs["_positions"].dtype == inputs["_offsets"].dtype == torch.float32


@pytest.mark.parametrize(
    ("positions", "cell", "message"),
    [
        ([[0, 0, 0], [0, 1, 0], [0, 1, 0.001]], None, "atoms 1 and 2 at a distance of 0.001 Å"),
        ([[0, 0, 0], [8, 0, 0]], np.eye(3) * 8, "atoms 0 and 1 at a distance of 0 Å"),
    ],
    ids=["in place", "through the cell"],
)
def test_coincident_atoms_are_named(positions, cell, message):
    atoms = Atoms(f"H{len(positions)}", positions=positions, cell=cell, pbc=cell is not None)
    with pytest.raises(MDError, match=message):
        call(VerletList(CUTOFF, 0.7), atoms)
