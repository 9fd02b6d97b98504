"""Bonds and the order of atoms, from SMILES strings and from geometries."""

import numpy as np
import pytest
from ase import Atoms
from rdkit import Chem

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.data.topology import bonds, rotors, smiles_of, with_smiles

CAGE = "CN1C2CC1C2(N)C#N"  # strained: no bonds can be perceived with too long a reach


def shuffled(smiles: str, seed: int) -> Atoms:
    atoms = embed_smiles(smiles)
    return atoms[np.random.default_rng(seed).permutation(len(atoms))]


def energy(atoms: Atoms) -> float:
    return RDKitForceField().get_potential_energy(atoms)


@pytest.mark.parametrize("smiles", ["CCO", CAGE, "C1=CC=C1", "C1=CN=CC=NC=C1", "C[N+](=O)[O-]"])
def test_atoms_in_any_order_are_matched_to_the_string(smiles: str, monkeypatch) -> None:
    def never(*_) -> None:
        raise AssertionError("bonds were perceived")

    monkeypatch.setattr(RDKitForceField, "_perceive", never)
    expected = energy(embed_smiles(smiles))
    for seed in range(4):
        mixed = shuffled(smiles, seed)
        mixed.info["smiles"] = smiles
        named = with_smiles(mixed, [], RDKitForceField())
        assert energy(named) == pytest.approx(expected, abs=1e-6)
        assert sorted(named.positions[:, 0]) == sorted(mixed.positions[:, 0])


def test_bonds_are_those_of_the_molecule() -> None:
    expected = Chem.GetAdjacencyMatrix(Chem.AddHs(Chem.MolFromSmiles(CAGE)))
    np.testing.assert_array_equal(bonds(embed_smiles(CAGE)), expected)


def test_a_string_of_another_molecule_is_not_taken() -> None:
    atoms = shuffled("COC", 0)
    atoms.info["smiles"] = "CCO"
    assert with_smiles(atoms, ["CC"], RDKitForceField()).info["smiles"] == "COC"


def test_the_string_of_a_structure() -> None:
    atoms = shuffled("C#N", 0)
    assert smiles_of(atoms) == "C#N"
    atoms.info = {"key_value_pairs": {"smiles": "N#C"}}  # as ASE's database gives it
    assert smiles_of(atoms) == "N#C"
    atoms.info = {"smiles": "[H]C#N"}
    assert smiles_of(atoms) == "[H]C#N"


@pytest.mark.parametrize(
    ("smiles", "n"), [("CCO", 2), ("c1ccccc1", 0), ("CC#CC", 0), ("Cc1ccccc1", 1), ("CC=CC", 2)]
)
def test_rotors(smiles: str, n: int) -> None:
    atoms = embed_smiles(smiles)
    found = rotors(atoms)
    assert len(found) == n
    for i, j, moved in found:
        assert bonds(atoms)[i, j]
        assert moved[j]
        assert not moved[i]
        crossing = bonds(atoms)[np.ix_(moved, ~moved)].sum()
        assert crossing == 1
