"""RDKit's force fields: forces are the gradient, bonds are the right ones, refusals are clear."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.fd import calculate_numerical_forces
from distorted import frames_of

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.errors import LabelError


@pytest.mark.parametrize("force_field", ["MMFF94", "MMFF94s", "UFF"])
@pytest.mark.parametrize("smiles", ["CCO", "CC(=O)N"])
def test_forces_are_the_gradient(force_field: str, smiles: str) -> None:
    atoms = embed_smiles(smiles)
    atoms.positions += np.random.default_rng(0).normal(scale=0.05, size=(len(atoms), 3))
    atoms.calc = RDKitForceField(force_field)
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 0.5
    np.testing.assert_allclose(forces, calculate_numerical_forces(atoms, eps=1e-4), atol=2e-5)


def test_bonds_from_the_geometry_are_those_of_the_smiles() -> None:
    atoms = embed_smiles("CCO")
    named = RDKitForceField(smiles="CCO").get_potential_energy(atoms)
    del atoms.info["smiles"]
    assert RDKitForceField().get_potential_energy(atoms) == pytest.approx(named, abs=1e-9)


def test_isomers_get_bonds_of_their_own() -> None:
    """One calculator labels a set with isomers in the same order of elements."""
    ethanol, ether = embed_smiles("CCO"), embed_smiles("COC")
    ether = ether[[0, 2, 1, *range(3, 9)]]
    assert list(ether.numbers) == list(ethanol.numbers)
    ethanol.info, ether.info = {}, {}
    calculator = RDKitForceField()
    mixed = [calculator.get_potential_energy(a) for a in (ethanol, ether, ethanol)]
    fresh = [RDKitForceField().get_potential_energy(a) for a in (ethanol, ether)]
    np.testing.assert_allclose(mixed, [*fresh, fresh[0]], atol=1e-9)


def test_molecules_of_a_complex_interact() -> None:
    first = molecule("H2O")
    energies = []
    for distance in (2.9, 60.0):
        second = molecule("H2O")
        second.positions[:, 0] += distance
        energies.append(RDKitForceField().get_potential_energy(first + second))
    assert abs(energies[0] - energies[1]) > 0.01


def test_energies_do_not_depend_on_the_frame_before() -> None:
    frames = frames_of(3)
    calculator = RDKitForceField()
    together = [calculator.get_potential_energy(a) for a in frames]
    alone = [RDKitForceField().get_potential_energy(a) for a in reversed(frames)]
    np.testing.assert_allclose(together, alone[::-1], atol=1e-9)


@pytest.mark.parametrize(
    ("calculator", "atoms", "match"),
    [
        (RDKitForceField(), Atoms("H2O", np.eye(3), cell=[5] * 3, pbc=True), "periodic"),
        (RDKitForceField(smiles="CC"), molecule("H2O"), "order must agree"),
        (RDKitForceField(smiles="C(C"), molecule("H2O"), "cannot read"),
        (RDKitForceField(smiles="[UH3]"), Atoms("UH3", np.eye(4)[:, :3]), "no parameters"),
        (RDKitForceField(charge=5), molecule("CH3CH2OH"), "cannot perceive"),
    ],
)
def test_refusals(calculator: RDKitForceField, atoms: Atoms, match: str) -> None:
    with pytest.raises(LabelError, match=match):
        calculator.get_potential_energy(atoms)


def test_unknown_force_field() -> None:
    with pytest.raises(LabelError, match="expected force_field"):
        RDKitForceField("AMBER")
