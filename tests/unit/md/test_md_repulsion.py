"""The repulsion of close nuclei: the published function, its derivatives, and nothing beyond."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from schnetpack.atomistic import ZBLRepulsionEnergy

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md import ZBL


def results(atoms: Atoms, **settings: float) -> dict:
    engine = ZBL(**settings)
    engine.calculate(atoms)
    return engine.results


@pytest.mark.parametrize(("pair", "distance"), [("OH", 0.4), ("CO", 0.6), ("SI", 0.8)])
def test_the_energy_is_schnetpacks(pair: str, distance: float) -> None:
    stock = ZBLRepulsionEnergy("eV", "Ang", "zbl", trainable=False)
    atoms = Atoms(pair, [[0, 0, 0], [0, 0, distance]])
    inputs = {
        "_atomic_numbers": torch.tensor(atoms.numbers),
        "_Rij": torch.tensor([[0, 0, distance], [0, 0, -distance]]),
        "_idx_i": torch.tensor([0, 1]),
        "_idx_j": torch.tensor([1, 0]),
        "_idx_m": torch.tensor([0, 0]),
        "_n_atoms": torch.tensor([2]),
    }
    expected = stock(inputs)["zbl"].item()
    assert results(atoms, inner=5.0, outer=6.0)["energy"] == pytest.approx(expected, rel=1e-4)


def test_forces_and_stress_are_derivatives() -> None:
    rng = np.random.default_rng(0)
    cell = np.diag([2.0, 2.1, 2.2]) + rng.normal(0, 0.1, (3, 3))
    atoms = Atoms("CHONCH", rng.uniform(0, 2, (6, 3)), cell=cell, pbc=True)
    found = results(atoms)
    assert found["energy"] > 1.0
    for index, axis in [(0, 0), (2, 1), (5, 2)]:
        energies = []
        for step in (1e-5, -1e-5):
            moved = atoms.copy()
            moved.positions[index, axis] += step
            energies.append(results(moved)["energy"])
        numeric = -(energies[0] - energies[1]) / 2e-5
        assert found["forces"][index, axis] == pytest.approx(numeric, rel=1e-5, abs=1e-5)
    energies = []
    for strain in (1e-5, -1e-5):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ (np.eye(3) + strain * np.eye(3)), scale_atoms=True)
        energies.append(results(strained)["energy"])
    numeric = (energies[0] - energies[1]) / 2e-5 / atoms.get_volume()
    assert found["stress"][:3].sum() == pytest.approx(numeric, rel=1e-5)


@pytest.mark.parametrize("name", ["H2", "N2", "CO", "C2H2", "H2O", "CH3CH2OH", "HF", "F2", "SO2"])
def test_ordinary_bonds_are_left_alone(name: str) -> None:
    atoms = molecule(name)
    atoms.positions *= 0.92
    assert results(atoms)["energy"] == 0.0
    assert not results(atoms)["forces"].any()


def test_shares_out_of_range_are_refused() -> None:
    with pytest.raises(MDError, match=r"0 < inner < outer, got inner=0\.8"):
        ZBL(inner=0.8)
