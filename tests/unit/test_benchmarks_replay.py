"""The replay benchmark's own judgement of curves, and its structures."""

import numpy as np
import pytest
from ase.data import vdw_radii

from benchmarks.replay import DISTANCES, RATIOS, SCANS, flaw, table
from schnetpack_tpainn.data.rdkit import RDKitForceField

MORSE = 5.0 * (1 - np.exp(-2.2 * (RATIOS - 1))) ** 2
WALL = 4.0 * np.exp(-3.0 * (DISTANCES - 2.0)) - 0.2 * np.exp(-((DISTANCES - 3.0) ** 2))


@pytest.mark.parametrize(
    ("name", "energies", "depth"),
    [
        ("C-H bond", MORSE, 0.0),
        ("C-H bond", np.where(RATIOS > 1.5, MORSE - 0.9, MORSE), 0.9),  # falls outwards
        ("C-H bond", np.where(RATIOS < 0.795, MORSE - 0.9, MORSE), 0.9),  # falls inwards
        ("C-H bond", MORSE - 0.3 * (RATIOS > 1.99), 0.0),  # above what is within reach
        ("O...O", WALL, 0.0),
        ("O...O", np.where(DISTANCES < 2.2, WALL - 1.5, WALL), 1.5),
        ("O...O", WALL - WALL.min() - 0.7, 0.2),  # binds too strongly
    ],
)
def test_what_no_molecule_has_is_found(name: str, energies: np.ndarray, depth: float) -> None:
    assert flaw(name, energies) == pytest.approx(
        depth, rel=0.25, abs=1e-9
    )  # the wall rises between two points


@pytest.mark.parametrize("name", SCANS)
def test_a_force_field_has_walls(name: str) -> None:
    make, grid, *_ = SCANS[name]
    engine = RDKitForceField()
    energies = np.array([engine.get_potential_energy(make(x)) for x in grid])
    zero = engine.get_potential_energy(make(SCANS[name][3]))
    assert flaw(name, energies - zero) == 0
    assert energies.max() - zero > 3


@pytest.mark.parametrize(("name", "pair"), [("O...O", (2, 5)), ("C...C", (0, 3))])
def test_two_molecules_show_each_other_the_atoms_that_approach(
    name: str, pair: tuple[int, int]
) -> None:
    near = SCANS[name][0](2.0)
    assert near.get_distance(*pair) == pytest.approx(2.0)
    distances = near.get_all_distances() / (
        vdw_radii[near.numbers] + vdw_radii[near.numbers][:, None]
    )
    between = distances[np.ix_([0, 1, 2, *range(6, 12)], [3, 4, 5, *range(12, 18)])]
    assert between.min() < 0.8


def test_the_table_names_the_deepest_flaw_and_how_many_seeds_have_one() -> None:
    curves = {scan: [{"flaw_ev": 0.0}, {"flaw_ev": 0.0}] for scan in SCANS}
    curves["O...O"] = [{"flaw_ev": 0.0}, {"flaw_ev": 0.5}]
    rows = table({"model": curves}, {"model": np.array([[10.0, 50.0], [12.0, 50.0]])}).splitlines()
    assert rows[-1] == "| model | 11.0 ± 1.0 | 50.0 ± 0.0 | none | none | 0.50 eV (1 of 2) | none |"
