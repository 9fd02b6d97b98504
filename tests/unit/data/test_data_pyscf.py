"""PySCF: forces are the gradient, dispersion is there, failures are said."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.fd import calculate_numerical_forces

from schnetpack_tpainn.data.pyscf import PySCF
from schnetpack_tpainn.errors import LabelError

pytest.importorskip("pyscf")


@pytest.mark.parametrize("xc", ["pbe-d3bj", "b3lyp"])
def test_forces_are_the_gradient(xc: str) -> None:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    atoms.calc = PySCF(xc=xc, basis="sto-3g", conv_tol=1e-11, grid_level=2, n_threads=1)
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 0.3
    numeric = calculate_numerical_forces(atoms, eps=1e-3, iatoms=[1])
    # the weights of the integration grid move with the atoms: 1e-3 eV/Å
    np.testing.assert_allclose(forces[1:2], numeric, atol=2e-3)


def test_dispersion_is_included() -> None:
    dimer = molecule("CH4") + molecule("CH4")
    dimer.positions[5:, 0] += 3.7
    base = {"basis": "sto-3g", "grid_level": 0, "n_threads": 1}
    plain = PySCF(xc="pbe", **base).get_potential_energy(dimer)
    assert -0.3 < PySCF(xc="pbe-d3bj", **base).get_potential_energy(dimer) - plain < -0.02


def test_labels_do_not_depend_on_what_came_before() -> None:
    calculator = PySCF(xc="pbe", basis="sto-3g", n_threads=1)
    first, second = molecule("H2O"), molecule("CH4")
    calculator.calculate(second, ["energy"])
    calculator.calculate(first, ["energy"])
    fresh = PySCF(xc="pbe", basis="sto-3g", n_threads=1)
    fresh.calculate(first, ["energy"])
    assert calculator.results["energy"] == pytest.approx(fresh.results["energy"], abs=1e-7)
    calculator.calculate(Atoms("He"), ["energy"])
    assert "forces" not in calculator.results


def test_no_convergence_is_an_error() -> None:
    calculator = PySCF(xc="pbe", basis="sto-3g", max_cycle=1, n_threads=1)
    with pytest.raises(LabelError, match="H2O not converged after 1 cycles"):
        calculator.calculate(molecule("H2O"), ["energy", "forces"])


def test_periodic_structures_are_refused() -> None:
    atoms = molecule("H2O", vacuum=3.0, pbc=True)
    with pytest.raises(LabelError, match="periodic"):
        PySCF().calculate(atoms, ["energy"])


def test_isolated_atoms_of_the_shipped_level() -> None:
    """Open shells with density fitting converge; energies within 0.1 Hartree of the exact ones."""
    calculator = PySCF(xc="wb97x-d3bj", basis="def2-tzvp", grid_level=1, n_threads=1)
    energies = calculator.isolated_atom_energies(["O", "H", "C", "H"])
    assert list(energies) == ["C", "H", "O"]
    hartree = {k: v / 27.211386 for k, v in energies.items()}
    assert hartree == pytest.approx({"C": -37.845, "H": -0.5, "O": -75.067}, abs=0.1)


def test_atoms_without_tabulated_spin_are_refused() -> None:
    with pytest.raises(LabelError, match="spin tabulated for U"):
        PySCF().isolated_atom_energies(["U"])


def test_level_of_theory() -> None:
    level = PySCF(xc="pbe", basis="sto-3g").level_of_theory()
    assert level["engine"].startswith("PySCF ")
    assert (level["xc"], level["basis"]) == ("pbe", "sto-3g")
