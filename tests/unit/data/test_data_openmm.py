"""OpenMM's force fields as an ASE calculator: physics, and what is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.units import kcal, mol
from scipy.spatial.transform import Rotation

from schnetpack_tpainn.data.label import compute_label
from schnetpack_tpainn.data.liquid import density, water_box
from schnetpack_tpainn.data.openmm import OpenMMForceField
from schnetpack_tpainn.data.openmm_system import MODELS
from schnetpack_tpainn.errors import LabelError

pytest.importorskip("openmm")
KCAL = kcal / mol
COULOMB = 332.0637 * KCAL  # eV Å/e²


def box(n: int = 16) -> Atoms:
    """Water whose molecules keep away from each other, bonds and angles distorted."""
    atoms = water_box(n, 0.5, seed=1)
    atoms.rattle(0.05, seed=2)
    return atoms


def field(model: str = "spcfw", **settings) -> OpenMMForceField:
    return OpenMMForceField(model, platform="Reference", **settings)


def compute_stress(atoms: Atoms, calculator: OpenMMForceField) -> np.ndarray:
    atoms.calc = calculator
    return atoms.get_stress(voigt=False)


def spcfw(atoms: Atoms) -> float:
    """Energy of a cluster by the formulae and numbers of Wu, Tepper and Voth (2006) in eV."""
    energy = 0.0
    r = atoms.positions
    for o in range(0, len(atoms), 3):
        arms = r[o + 1 : o + 3] - r[o]
        lengths = np.linalg.norm(arms, axis=1)
        angle = np.degrees(np.arccos(arms[0] @ arms[1] / lengths.prod()))
        energy += 0.5 * 1059.162 * KCAL * ((lengths - 1.012) ** 2).sum()
        energy += 0.5 * 75.90 * KCAL * np.radians(angle - 113.24) ** 2
    charges = np.where(atoms.numbers == 8, -0.82, 0.41)
    for i in range(len(atoms)):
        for j in range(i // 3 * 3 + 3, len(atoms)):
            distance = np.linalg.norm(r[i] - r[j])
            energy += COULOMB * charges[i] * charges[j] / distance
            if i % 3 == j % 3 == 0:
                x = (3.165492 / distance) ** 6
                energy += 4 * 0.1554253 * KCAL * (x * x - x)
    return energy


def test_spcfw_is_that_of_its_paper() -> None:
    cluster = box(5)
    cluster.set_pbc(False)
    labelled = compute_label(cluster, field())
    assert labelled.get_potential_energy() == pytest.approx(spcfw(cluster), abs=2e-4)


@pytest.mark.parametrize("model", MODELS)
def test_forces_and_stress_are_derivatives_of_the_energy(model: str) -> None:
    atoms = box()
    atoms.calc = field(model, cutoff_ang=4.5)
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    h = 1e-4
    for i, k in [(0, 0), (1, 2), (32, 1)]:
        energies = []
        for step in (h, -h):
            moved = atoms.copy()
            moved.positions[i, k] += step
            moved.calc = atoms.calc
            energies.append(moved.get_potential_energy())
        assert (energies[1] - energies[0]) / (2 * h) == pytest.approx(forces[i, k], abs=2e-3)
    for i, j in [(0, 0), (0, 1)]:  # symmetric strains: another way to the same stress
        energies = []
        for step in (h, -h):
            strain = np.eye(3)
            strain[i, j] += step / 2
            strain[j, i] += step / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell @ strain, scale_atoms=True)
            strained.calc = atoms.calc
            energies.append(strained.get_potential_energy())
        derivative = (energies[0] - energies[1]) / (2 * h) / atoms.get_volume()
        assert derivative == pytest.approx(stress[i, j], abs=2e-5)


@pytest.mark.parametrize("model", MODELS)
def test_the_isotropic_stress_is_the_mean_of_the_diagonal(model: str) -> None:
    atoms = box()
    turn = Rotation.random(rng=3).as_matrix()
    atoms.set_cell(atoms.cell.array @ turn.T, scale_atoms=True)
    stress = compute_stress(atoms, field(model, cutoff_ang=4.5))
    own = compute_stress(atoms, field(model, cutoff_ang=4.5, isotropic_stress=True))
    assert abs(np.trace(stress)) > 1e-4  # of a box that has a pressure
    np.testing.assert_allclose(own, np.eye(3) * np.trace(stress) / 3, atol=1e-6)


def test_a_turned_wrapped_cell_changes_nothing() -> None:
    atoms = box()
    atoms.calc = field()
    turn = Rotation.random(rng=3).as_matrix()
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ turn.T)
    turned.positions = (atoms.positions + np.arange(3)) @ turn.T
    turned.wrap()  # cuts molecules
    turned.calc = field()
    assert turned.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(turned.get_forces(), atoms.get_forces() @ turn.T, atol=2e-4)
    stress = turn @ atoms.get_stress(voigt=False) @ turn.T
    np.testing.assert_allclose(turned.get_stress(voigt=False), stress, atol=2e-5)


def test_a_skewed_cell_of_the_same_lattice_changes_nothing() -> None:
    atoms = box()
    skewed = atoms.copy()
    skewed.set_cell(np.array([[1, 0, 0], [1, 1, 0], [0, 2, 1]]) @ atoms.cell.array)
    atoms.calc, skewed.calc = field(cutoff_ang=4.5), field(cutoff_ang=4.5)
    assert density(skewed) == pytest.approx(density(atoms))
    assert skewed.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(skewed.get_stress(), atoms.get_stress(), atol=1e-7)


def test_a_label_does_not_depend_on_those_before() -> None:
    small, large = box(), water_box(16, 0.25, seed=4)
    engine = field("tip3p")
    first = compute_label(small, engine).get_potential_energy()
    compute_label(large, engine)
    compute_label(water_box(20, 0.4), engine)
    assert compute_label(small, engine).get_potential_energy() == first


def test_atoms_in_another_order() -> None:
    atoms = box()
    with pytest.raises(LabelError, match=r"order of the topology \(O, H, H, .*got H, O, H"):
        compute_label(atoms[[1, 0, 2, *range(3, 48)]], field())
    with pytest.raises(LabelError, match=r"not in the topology's order"):
        compute_label(atoms[[0, 4, 2, 3, 1, *range(5, 48)]], field())
    with pytest.raises(LabelError, match=r"expected water, three atoms a molecule, got H2O"):
        compute_label(Atoms("OH2O"), field())


def test_a_dissociated_molecule() -> None:
    atoms = box()
    atoms.positions[4] += 0.8 * (atoms.positions[4] - atoms.positions[3])
    with pytest.raises(LabelError, match=r"1 of 32 bonds.*O3-H4 1\.[67]. Å.*dissociated"):
        compute_label(atoms, field())


def test_boxes_too_small_for_the_cutoff() -> None:
    with pytest.raises(LabelError, match=r"at least twice the cutoff, 12\.12 Å, got one 9\.86 Å"):
        compute_label(box(), field(cutoff_ang=6.0))
    with pytest.raises(LabelError, match="take more molecules, or set a shorter cutoff_ang"):
        compute_label(water_box(8, 1.0), field())
    slab = box()
    slab.pbc = (True, True, False)
    with pytest.raises(LabelError, match="periodic in three directions or none"):
        compute_label(slab, field())


@pytest.mark.parametrize("model", ["tip4pew.xml", "tip5p.xml", "swm4ndp.xml"])
def test_models_with_sites_that_are_no_atoms(model: str) -> None:
    with pytest.raises(LabelError, match="cannot build a system"):
        compute_label(box(), field(model))


def changed(tmp_path: Path, *replaced: tuple[str, str]) -> str:
    """A copy of the shipped SPC/Fw with changes."""
    text = Path(MODELS["spcfw"]).read_text()
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "own.xml"
    path.write_text(text)
    return str(path)


def test_rigid_models(tmp_path: Path) -> None:
    rigid = changed(tmp_path, ('class1="OW" class2="HW" length', 'class1="OW" class2="OW" length'))
    with pytest.raises(LabelError, match=r"flexible.*32 bonds without a potential.*iamoeba"):
        compute_label(box(), field([rigid]))
    script = "<Script>sys.addConstraint(0, 1, 0.1012)</Script></ForceField>"
    constrained = changed(tmp_path, ("</ForceField>", script))
    with pytest.raises(LabelError, match=r"got 1 constraints in .*own.xml"):
        compute_label(box(), field([constrained]))


def test_charged_boxes(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"neutral box, got a charge of \+0\.3200 e"):
        compute_label(box(), field([changed(tmp_path, ('charge="-0.82"', 'charge="-0.80"'))]))


def test_engines_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabelError, match=r"platform 'TPU'.*Reference"):
        compute_label(box(), OpenMMForceField("spcfw", platform="TPU"))
    with pytest.raises(LabelError, match=r"spfcw.*expected a name of iamoeba, spcfw, tip3p"):
        compute_label(box(), field("spfcw"))
    monkeypatch.setitem(sys.modules, "openmm", None)  # what Python takes for not installed
    with pytest.raises(LabelError, match=r"schnetpack-tpainn\[water\]"):
        OpenMMForceField()
