"""Distorted structures: what is moved where, and what the force field says of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.data import vdw_radii
from ase.db import connect
from distorted import frames_of

from schnetpack_tpainn.data import shortrange
from schnetpack_tpainn.data.label import compute_label
from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.shortrange import make_short_range, short_range_frames
from schnetpack_tpainn.data.store import write_database
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.data.topology import bonds, with_smiles
from schnetpack_tpainn.errors import DataError

MMFF94 = {"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField", "force_field": "MMFF94"}
EMT = {"_target_": "ase.calculators.emt.EMT"}


def source(*frames: Atoms) -> list[Atoms]:
    for frame in frames:
        frame.info["parents_ev"] = 0.0
    return list(frames)


def made(kind: str, frames: Sequence[Atoms], n: int = 40, seed: int = 0) -> list[Atoms]:
    result = short_range_frames(frames, {kind: n}, seed)
    assert {frame.info["kind"] for frame in result} == {kind}
    return result


def test_one_bond_is_squeezed_or_stretched_and_the_others_keep_their_length() -> None:
    ethanol = embed_smiles("CCO")
    i, j = np.argwhere(np.triu(bonds(ethanol))).T
    before = ethanol.get_all_distances()[i, j]
    factors = []
    for frame in made("bonds", source(ethanol)):
        ratios = frame.get_all_distances()[i, j] / before
        changed = np.abs(ratios - 1) > 1e-6
        assert changed.sum() == 1
        factors.append(ratios[changed][0])
    squeezed = np.array(factors) < 1
    assert 0.55 <= min(factors) < 0.7
    assert 1.5 < max(factors) <= 1.8
    assert 0.4 < squeezed.mean() < 0.9
    assert not np.any((np.array(factors) > 0.95) & (np.array(factors) < 1.05))


def test_atoms_that_are_not_bonded_come_close() -> None:
    ethanol = embed_smiles("CCO")
    before = ethanol.get_all_distances()
    bonded = bonds(ethanol).astype(bool) | np.eye(9, dtype=bool)
    touching = vdw_radii[ethanol.numbers] + vdw_radii[ethanol.numbers][:, None]
    for frame in made("contacts", source(ethanol)):
        after = frame.get_all_distances()
        ratio = after / np.minimum(before + np.eye(9), touching)
        nearest = ratio[~bonded].min()
        assert 0.4 < nearest <= 0.95


def test_a_contact_across_the_cell_moves_whole_molecules() -> None:
    water = molecule("H2O")
    other = water.copy()
    other.positions += [0.0, 0.0, 4.5]  # nearer through the cell's face than inside it
    box = water + other
    box.set_cell([9.0, 9.0, 7.5])
    box.pbc = True
    inside = {(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)}
    before = box.get_all_distances(mic=True)
    between = 0
    for frame in made("contacts", source(box)):
        after = frame.get_all_distances(mic=True)
        kept = [np.isclose(before[pair], after[pair]) for pair in inside]
        if all(kept):
            between += 1
            assert (after / (before + np.eye(6)))[:3, 3:].min() <= 0.951
    assert between > 10


def test_two_molecules_approach_as_rigid_bodies() -> None:
    ethanol, water = embed_smiles("CCO"), embed_smiles("O")
    closest = []
    for frame in made("approaches", source(ethanol), 20):
        first = np.array([0, 1, 2, *range(6, 12)])  # RDKit's order of CCO.CCO
        second = np.setdiff1d(np.arange(18), first)
        assert frame.info["smiles"] == "CCO.CCO"
        for part in (first, second):
            assert np.allclose(
                frame[part].get_all_distances(), ethanol.get_all_distances(), atol=1e-6
            )
        radii = vdw_radii[frame.numbers]
        ratio = frame.get_all_distances() / (radii + radii[:, None])
        closest.append(ratio[np.ix_(first, second)].min())
    assert 0.35 <= min(closest) < 0.6
    assert 0.95 < max(closest) <= 1.2
    mixed = made("approaches", source(ethanol, water), 10)
    assert {len(frame) for frame in mixed} == {6, 12, 18}


def test_molecules_far_apart_have_the_sum_of_their_energies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only in RDKit's order of atoms does every atom get its own parameters."""
    monkeypatch.setattr(shortrange, "APPROACH", (30.0, 31.0))
    engine = RDKitForceField()
    ethanol, acid = embed_smiles("CCO"), embed_smiles("CC(=O)O")
    energy = {len(a): engine.get_potential_energy(a) for a in (ethanol, acid)}
    pairs = {18: 2 * energy[9], 17: energy[9] + energy[8], 16: 2 * energy[8]}
    for frame in made("approaches", source(ethanol, acid), 6):
        assert engine.get_potential_energy(frame) == pytest.approx(pairs[len(frame)], abs=1e-2)


def test_atoms_are_put_in_the_order_of_their_smiles() -> None:
    engine = RDKitForceField()
    aspirin = embed_smiles("CC(=O)Oc1ccccc1C(=O)O")
    expected = engine.get_potential_energy(aspirin)
    shuffled = aspirin[np.random.default_rng(0).permutation(len(aspirin))]
    shuffled.info = {}
    named = with_smiles(shuffled, ["CCO", "CC(=O)Oc1ccccc1C(=O)O"], engine)
    assert RDKitForceField(smiles=named.info["smiles"]).get_potential_energy(
        named
    ) == pytest.approx(expected, abs=1e-6)
    kept = with_smiles(aspirin, ["c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O"], engine)
    assert kept.info["smiles"] == "CC(=O)Oc1ccccc1C(=O)O"
    assert np.array_equal(kept.positions, aspirin.positions)


def database(path: Path, calculator: dict[str, Any], n: int = 6) -> Path:
    engine = RDKitForceField()
    frames = [compute_label(frame, engine) for frame in frames_of(n)]
    return write_database(path, frames, {"calculator": calculator})


def rows(path: Path) -> list[Any]:
    with connect(path, use_lock_file=False) as db:
        return list(db.select())


def test_the_force_field_labels_distorted_frames_with_their_undistorted_bonds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = database(tmp_path / "mmff.db", MMFF94)
    counts = {"bonds": 12, "contacts": 8, "approaches": 8}
    path = make_short_range(tmp_path / "new.db", stored, MMFF94, counts)
    found = rows(path)
    kept = {kind: sum(row.kind == kind for row in found) for kind in counts}
    assert 0 < kept["contacts"] < 8  # two of them are above 15 eV
    assert kept == {**counts, "contacts": kept["contacts"]}
    for row in found:
        expected = RDKitForceField(smiles=row.smiles).get_potential_energy(row.toatoms())
        assert row.data["energy"][0] == pytest.approx(expected, abs=1e-6)
    highest = max(row.data["energy"][0] - row.parents_ev for row in found)
    assert 3 < highest < 15
    time = path.stat().st_mtime_ns
    assert make_short_range(path, stored, MMFF94, counts).stat().st_mtime_ns == time
    with pytest.raises(DataError, match=r"made with other settings .*delete it"):
        make_short_range(path, stored, MMFF94, counts, seed=1)
    monkeypatch.setattr(shortrange, "RISE_EV", (-1.0, 0.5 * highest))
    fewer = rows(make_short_range(tmp_path / "lower.db", stored, MMFF94, counts))
    assert 0 < len(fewer) < len(found)
    assert max(row.data["energy"][0] - row.parents_ev for row in fewer) < 0.5 * highest


def test_any_calculator_labels_in_worker_processes(tmp_path: Path) -> None:
    stored = database(tmp_path / "emt.db", EMT)
    path = make_short_range(tmp_path / "new.db", stored, EMT, {"approaches": 2}, n_workers=1)
    for row in rows(path):
        atoms = row.toatoms()
        atoms.calc = shortrange.make_calculator(EMT)
        assert row.data["energy"][0] == pytest.approx(atoms.get_potential_energy())
        assert list(atoms.numbers[9:]) == list(atoms.numbers[:9])
    assert not (tmp_path / "new.raw.db").exists()


def test_kinds_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=r"out of bonds, contacts, approaches, got 'hot'"):
        short_range_frames(source(embed_smiles("CCO")), {"hot": 1})
    argon = Atoms("Ar2", [[0, 0, 0], [9, 0, 0]])
    assert short_range_frames(source(argon), {"bonds": 3, "contacts": 3}) == []
    assert "3 of 3 frames of kind contacts cannot be made" in caplog.text
    engine_frames = [compute_label(argon, shortrange.make_calculator({"_target_": LJ}))]
    stored = write_database(tmp_path / "argon.db", engine_frames, {})
    with pytest.raises(DataError, match=r"expected molecules, or atoms within reach"):
        make_short_range(tmp_path / "new.db", stored, {"_target_": LJ}, {"bonds": 2})


LJ = "ase.calculators.lj.LennardJones"
