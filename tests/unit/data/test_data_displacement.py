"""Displaced molecules: what is drawn, what fails, and that energies of the source are not read."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from schnetpack_tpainn.data import DisplacementSampler, molecules
from schnetpack_tpainn.data.displacement import sample_molecules
from schnetpack_tpainn.data.offsets import element_values
from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.store import fingerprint
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.errors import DataError, LabelError

MMFF = {"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField"}


class Free(Calculator):
    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    k = 0.0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        r = self.atoms.positions - self.atoms.positions.round()
        energy = 0.5 * self.k * float((r**2).sum()) - 3.0 * len(r)
        self.results = {"energy": energy, "forces": -self.k * r}


class Lattice(Free):
    """Every atom on a spring to the nearest point with whole-numbered coordinates."""

    k = 100.0  # eV/Å²


def node(cls: type) -> dict[str, str]:
    return {"_target_": f"{__name__}.{cls.__name__}"}


def sampled(*smiles: str, calculator=MMFF, seed=0, **settings) -> tuple[list[Atoms], dict]:
    numbered = [(k, embed_smiles(s)) for k, s in enumerate(smiles)]
    return draw(numbered, calculator, seed, **settings)


def draw(numbered, calculator, seed=0, **settings) -> tuple[list[Atoms], dict]:
    defaults = {"n_displaced": 3, "sigma_ang": [0.05], "torsion_share": 0.0, "max_force": 50.0}
    return sample_molecules(numbered, calculator, **defaults | settings, seed=seed)


def test_labels_and_keys() -> None:
    frames, failed = sampled("CCO", "CO", torsion_share=0.5)
    assert not failed
    assert [f.info["molecule"] for f in frames] == [0] * 4 + [1] * 4
    assert [f.info["displaced"] for f in frames] == [0, 1, 2, 3] * 2
    np.testing.assert_array_equal(frames[0].positions, embed_smiles("CCO").positions)
    for frame in frames:
        again = RDKitForceField(smiles=frame.info["smiles"])
        assert again.get_potential_energy(frame) == pytest.approx(frame.get_potential_energy())


def test_displacements_are_as_wide_as_asked_and_keep_the_centre_of_mass() -> None:
    frames, _ = sampled("CCCCCC", calculator=node(Free), n_displaced=200, sigma_ang=[0.02, 0.1])
    start, copies = frames[0], frames[1:]
    moved = np.array([f.positions - start.positions for f in copies])
    sigma = np.array([f.info["sigma_ang"] for f in copies])
    assert set(sigma) == {0.02, 0.1}
    for width in set(sigma):
        assert moved[sigma == width].std() == pytest.approx(width, rel=0.05)
    for frame in copies:
        np.testing.assert_allclose(frame.get_center_of_mass(), start.get_center_of_mass())


def test_turns_about_bonds_keep_their_lengths() -> None:
    frames, _ = sampled(
        "CCCO", "c1ccccc1", n_displaced=40, torsion_share=0.5, sigma_ang=[1e-6], max_force=1e3
    )
    start = frames[0]
    turned = [f for f in frames[1:41] if f.info["turned"]]
    assert 10 < len(turned) < 30
    assert {f.info["turned"] for f in turned} == {3}
    bonded = start.get_all_distances() < 1.6
    for frame in turned:
        change = frame.get_all_distances() - start.get_all_distances()
        assert np.abs(change[bonded]).max() < 1e-4
    angles = [f.get_dihedral(0, 1, 2, 3) for f in turned]
    assert np.ptp(angles) > 180
    assert all(f.info["turned"] == 0 for f in frames[41:])  # benzene has no such bond


def test_large_forces_halve_the_displacement() -> None:
    grid = Atoms("He8", np.argwhere(np.ones((2, 2, 2))) * 3.0)
    frames, _ = draw([(0, grid)], node(Lattice), sigma_ang=[0.2], max_force=12.0, n_displaced=9)
    widths = {f.info["sigma_ang"] for f in frames[1:]}
    assert widths <= {0.2, 0.1, 0.05, 0.025, 0.0125}
    assert min(widths) < 0.2
    assert max(np.linalg.norm(f.get_forces(), axis=1).max() for f in frames) <= 12.0
    shifted = grid.copy()
    shifted.positions += 0.3
    frames, failed = draw([(5, shifted), (6, grid)], node(Lattice), max_force=12.0)
    assert {f.info["molecule"] for f in frames} == {6}
    assert "at most 12 eV/Å, got 52" in failed[5]


def test_frames_depend_on_seed_and_number_alone() -> None:
    both, _ = sampled("CCO", "CO")
    alone, _ = draw([(1, embed_smiles("CO"))], MMFF, n_displaced=2)
    other, _ = sampled("CCO", "CO", seed=1)
    for a, b in zip(alone, both[4:], strict=False):
        np.testing.assert_array_equal(a.positions, b.positions)
    assert not np.allclose(other[5].positions, both[5].positions)


def test_only_force_fields_fail_for_want_of_bonds() -> None:
    odd = Atoms("HeO3", [[0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0]])
    frames, failed = draw([(0, odd)], node(Free), torsion_share=1.0)
    assert len(frames) == 4
    frames, failed = draw([(0, odd)], MMFF)
    assert not frames
    assert "bonds" in failed[0]


SMILES = ("CCO", "CB(C)C", "c1ccccc1C", "CO", "CC(N)=O")  # MMFF94 does not know boron


def source(path: Path, energy: float) -> Path:
    with connect(path) as db:
        for k, smiles in enumerate(SMILES):
            atoms = embed_smiles(smiles)[::-1]
            forces = np.full((len(atoms), 3), energy)
            atoms.calc = SinglePointCalculator(atoms, energy=energy + k, forces=forces)
            data = {"energy": np.array([energy * k]), "forces": forces}
            db.write(atoms, data=data, smiles=smiles, energy_ev=energy)
    return path


def sampler(path: Path, **settings) -> DisplacementSampler:
    defaults: dict[str, Any] = {"n_displaced": 2, "n_workers": 1, "max_failed": 0.3}
    return DisplacementSampler([str(path)], MMFF, **defaults | settings)


def read(path: Path) -> tuple[list[Any], dict[str, Any]]:
    with connect(path) as db:
        return list(db.select()), db.metadata


def test_neither_energies_of_the_source_nor_an_interruption_reach_the_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(molecules, "BATCH", 2)
    whole = sampler(source(tmp_path / "a.db", 1.0))
    with caplog.at_level(logging.WARNING):
        rows, metadata = read(whole.make(tmp_path / "whole.db"))
    assert "1 of 5 molecules, first 1: MMFF94 has no parameters for C3H9B" in caplog.text
    assert list(metadata["failed"]) == ["1"]
    assert metadata["fingerprint"] == fingerprint(whole.settings)
    assert metadata["n_frames"] == len(rows) == 12
    garbage = source(tmp_path / "b.db", -7e5)
    target = tmp_path / "resumed.db"
    with pytest.raises(LabelError, match=r"at most 0 molecules to fail, got 1 of 5.*max_failed"):
        sampler(garbage, max_failed=0.0).make(target)
    with caplog.at_level(logging.INFO):
        resumed, again = read(sampler(garbage).make(target))
    assert "resuming: 1 of 3 batches" in caplog.text
    assert again["failed"] == metadata["failed"]
    assert len(resumed) == len(rows)
    for a, b in zip(rows, resumed, strict=True):
        assert a.key_value_pairs == b.key_value_pairs
        np.testing.assert_array_equal(a.positions, b.positions)
        for label in ("energy", "forces"):
            np.testing.assert_array_equal(a.data[label], b.data[label])
    assert set(rows[0].key_value_pairs) == {
        *("smiles", "molecule", "displaced", "sigma_ang", "turned")
    }


def test_a_choice_of_molecules_nests(tmp_path: Path) -> None:
    path = source(tmp_path / "a.db", 0.0)
    three, four = (sampler(path, n_molecules=n).molecules() for n in (3, 4))
    assert len(three) == 3
    assert three.keys() < four.keys() < set(range(5))
    assert all(atoms.info["smiles"] == SMILES[k] for k, atoms in four.items())
    assert three.keys() != sampler(path, n_molecules=3, seed=1).molecules().keys()


def test_free_atoms_are_those_of_the_calculator() -> None:
    ethanol = [embed_smiles("CCO")]
    assert molecules._free_atoms(RDKitForceField(), ethanol) is None
    assert molecules._free_atoms(Lattice(), ethanol) == {
        "energy": element_values({"H": -3.0, "C": -3.0, "O": -3.0})
    }


def test_fewer_frames_may_come_than_molecules_times_copies(tmp_path: Path) -> None:
    path = source(tmp_path / "a.db", 0.0)
    assert sampler(path, max_failed=0.4).settings["n_frames"] == 9
    assert sampler(path, max_failed=0.0).settings["n_frames"] == 15


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_molecules": 3}, "n_molecules from 1 to the 1"),
        ({"n_displaced": -1}, "n_displaced"),
        ({"sigma_ang": []}, "sigma_ang"),
        ({"sigma_ang": [0.0]}, "sigma_ang"),
        ({"torsion_share": 1.5}, "torsion_share"),
        ({"max_force": 0.0}, "max_force"),
        ({"max_failed": 1.0}, "max_failed"),
    ],
)
def test_numbers_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"expected .*{message}"):
        DisplacementSampler(["CCO"], MMFF, **wrong)


def test_an_instantiated_calculator_is_refused() -> None:
    with pytest.raises(DataError, match="_recursive_: false"):
        DisplacementSampler(["CCO"], RDKitForceField())
