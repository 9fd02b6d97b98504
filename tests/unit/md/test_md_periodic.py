"""The calculator where cells, skins and bad input come in."""

import math
import pickle

import numpy as np
import pytest
import schnetpack as spk
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.nose_hoover_chain import MTKNPT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.stress import voigt_6_to_full_3x3_stress
from schnetpack.interfaces import SpkCalculator
from schnetpack.transform import CastTo64, MatScipyNeighborList

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md import TPaiNNCalculator
from schnetpack_tpainn.md.memory import MemoryCheck, PeakMemory, estimated_pairs
from schnetpack_tpainn.representation import TPaiNN

CUTOFF = 3.0
TRICLINIC = np.array([[5.0, 0, 0], [1, 4.5, 0], [-1, 0.5, 5.2]])


def potential(representation=TPaiNN, stress=False):
    torch.manual_seed(0)
    features = 16
    net = representation(
        n_atom_basis=features,
        n_interactions=2,
        radial_basis=spk.nn.GaussianRBF(8, CUTOFF),
        cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
    )
    head = spk.atomistic.Atomwise(features, output_key="energy")
    head.outnet[-1].weight.data *= 10  # forces that are felt
    return spk.model.NeuralNetworkPotential(
        net,
        input_modules=[spk.atomistic.Strain()] * stress + [spk.atomistic.PairwiseDistances()],
        output_modules=[head, spk.atomistic.Forces(calc_stress=stress)],
        postprocessors=[CastTo64()],
    )


@pytest.fixture(scope="module", params=[TPaiNN, spk.representation.PaiNN], ids=["tpainn", "painn"])
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "best_model"
    torch.save(potential(request.param), path)
    return path


def crystal(cell=TRICLINIC, pbc=True):
    """Four atoms at least 1.5 Å apart."""
    places = np.array([[0.1, 0, 0], [0.5, 0.45, 0.1], [0.4, 0, 0.55], [0, 0.5, 0.5]])
    return Atoms("OH2C", positions=places @ cell, cell=cell, pbc=pbc)


def calculator(model, **settings):
    return TPaiNNCalculator(model, device="cpu", **({"dtype": "float64"} | settings))


def test_energies_and_forces_are_schnetpacks(model):
    atoms, parent = crystal() * (2, 2, 2), TPaiNNCalculator.__mro__[1]
    assert parent is SpkCalculator
    stock = SpkCalculator(
        str(model), MatScipyNeighborList(CUTOFF), energy_unit="eV", dtype=torch.float64
    )
    ours = calculator(model)
    assert ours.get_potential_energy(atoms) == pytest.approx(
        stock.get_potential_energy(atoms), rel=1e-10
    )
    np.testing.assert_allclose(ours.get_forces(atoms), stock.get_forces(atoms), atol=1e-10)
    assert ours.results["free_energy"] == ours.results["energy"]


def dynamics(kind, atoms):
    MaxwellBoltzmannDistribution(atoms, temperature_K=400, rng=np.random.default_rng(0))
    if kind == "nve":
        return VelocityVerlet(atoms, 0.5 * units.fs)
    return MTKNPT(
        atoms, 0.5 * units.fs, temperature_K=400, pressure_au=5 * units.GPa, tdamp=20 * units.fs,
        pdamp=60 * units.fs,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["nve", "npt"])
def test_the_skin_changes_nothing_along_a_trajectory(model, kind):
    atoms = crystal() * (2, 1, 1)
    atoms.calc = skinned = calculator(model, stress=True, skin_ang=0.5)
    volume, seen = atoms.get_volume(), []
    fresh = calculator(model, stress=True, skin_ang=0)
    run = dynamics(kind, atoms)
    for _ in run.irun(60):
        same = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        seen.append(atoms.get_potential_energy() - fresh.get_potential_energy(same))
        np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(same), atol=1e-9)
        np.testing.assert_allclose(atoms.get_stress(), fresh.get_stress(same), atol=1e-10)
    assert np.abs(seen).max() < 1e-9
    verlet = skinned.converter.neighbor_list
    assert 1 < verlet.n_builds < 20
    assert fresh.converter.neighbor_list.n_builds == len(seen)
    if kind == "npt":
        assert abs(atoms.get_volume() / volume - 1) > 0.01


def numerical_stress(atoms, h=1e-4):
    cell, places = atoms.cell.array.copy(), atoms.positions.copy()
    stress = np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * h
            atoms.set_cell(cell @ strain)
            atoms.set_positions(places @ strain)
            energies.append(atoms.get_potential_energy())
        stress[i, j] = (energies[0] - energies[1]) / (2 * h)
    atoms.set_cell(cell)
    atoms.set_positions(places)
    return stress / atoms.get_volume()


@pytest.mark.parametrize("trained", [False, True], ids=["added", "the model's own"])
@pytest.mark.parametrize(
    "cell", [TRICLINIC, TRICLINIC[[1, 0, 2]]], ids=["right-handed", "left-handed"]
)
def test_stress_is_the_derivative_by_strain(tmp_path, cell, trained):
    torch.save(potential(stress=trained), tmp_path / "best_model")
    atoms = crystal(cell)
    atoms.positions += 7.0  # out of the cell
    atoms.calc = calculator(tmp_path / "best_model", stress=not trained)
    stress = atoms.get_stress()
    assert stress.shape == (6,)
    assert np.abs(stress).max() > 1e-3
    np.testing.assert_allclose(
        voigt_6_to_full_3x3_stress(stress), numerical_stress(atoms), atol=1e-8
    )


def test_stress_that_is_not_there_is_refused(model, tmp_path):
    with pytest.raises(PropertyNotImplementedError, match="calculator with stress=True"):
        calculator(model).get_stress(crystal())
    with_stress = calculator(model, stress=True)
    molecule = crystal(pbc=False)
    assert np.isfinite(with_stress.get_potential_energy(molecule))
    assert "stress" not in with_stress.results
    for pbc in (False, [True, True, False]):
        with pytest.raises(PropertyNotImplementedError, match="periodic in three directions"):
            with_stress.get_stress(crystal(pbc=pbc))
    without = potential()
    without.output_modules[1] = torch.nn.Identity()
    without.model_outputs = ["energy", "forces"]
    torch.save(without, tmp_path / "best_model")
    with pytest.raises(MDError, match=r"schnetpack.atomistic.Forces, .* got \['Atomwise', 'Iden"):
        calculator(tmp_path / "best_model", stress=True)


def test_cells_smaller_than_the_cutoff_equal_their_supercells(model):
    small = crystal(TRICLINIC * 0.55)
    assert small.cell.lengths().max() < CUTOFF
    calc = calculator(model, stress=True)
    energy, forces, stress = (
        calc.get_potential_energy(small), calc.get_forces(small), calc.get_stress(small)
    )  # fmt: skip
    large = small * (3, 3, 3)
    assert calc.get_potential_energy(large) == pytest.approx(27 * energy, rel=1e-10)
    np.testing.assert_allclose(calc.get_forces(large), np.tile(forces, (27, 1)), atol=1e-9)
    np.testing.assert_allclose(calc.get_stress(large), stress, atol=1e-9)


def test_atoms_outside_the_cell_are_their_images(model):
    atoms, calc = crystal(), calculator(model, dtype="float32")
    energy, forces = calc.get_potential_energy(atoms), calc.get_forces(atoms)
    atoms.positions += [[0, 0, 0], [1e5, 0, 0], [0, -3e4, 0], [7, 7, 7]] @ atoms.cell.array
    assert calc.get_potential_energy(atoms) == pytest.approx(energy, abs=1e-6)
    np.testing.assert_allclose(calc.get_forces(atoms), forces, atol=1e-5)


def test_an_isolated_atom_feels_nothing(model):
    calc, atom = calculator(model), Atoms("O")
    assert np.isfinite(calc.get_potential_energy(atom))
    np.testing.assert_array_equal(calc.get_forces(atom), np.zeros((1, 3)))
    far = Atoms("O2", positions=[[0, 0, 0], [50, 0, 0]])
    assert calc.get_potential_energy(far) == pytest.approx(2 * calc.get_potential_energy(atom))
    np.testing.assert_array_equal(calc.get_forces(far), np.zeros((2, 3)))
    crystal_of_one = Atoms("O", cell=np.eye(3) * 20, pbc=True)
    np.testing.assert_array_equal(
        calculator(model, stress=True).get_stress(crystal_of_one), np.zeros(6)
    )


def changed(name, value):
    atoms = crystal()
    if name == "positions":
        atoms.positions[2] = value
    elif name == "cell":
        atoms.set_cell(value)
    else:
        del atoms[:]
    return atoms


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("positions", [0, np.nan, 0], r"expected finite positions, got \[0.0, nan, 0.0\] for atom"),
        ("positions", [0, np.inf, 0], "for 1 atoms in all"),
        ("positions", TRICLINIC[0] * 0.1, r"atoms 0 and 2 at a distance of .* Å"),
        ("cell", np.full((3, 3), np.nan), "expected a finite cell"),
        ("cell", np.zeros((3, 3)), "which have no volume; set the cell, or atoms.pbc = False"),
        ("cell", TRICLINIC[[0, 0, 1]], "which have no volume"),
        ("cell", TRICLINIC[[0, 1, 1]] * [[1], [1], [-2]], "which have no volume"),
        ("atoms", None, "expected a structure with atoms, got none"),
    ],
)
def test_bad_structures_are_refused(model, name, value, message):
    calc = calculator(model)
    with pytest.raises(MDError, match=message):
        calc.get_potential_energy(changed(name, value))
    assert np.isfinite(calc.get_potential_energy(crystal()))  # it is as good as before


def test_a_million_atoms_are_refused_before_anything_is_allocated(tmp_path):
    torch.manual_seed(0)
    net = spk.representation.PaiNN(128, 3, spk.nn.GaussianRBF(20, 5.0), spk.nn.CosineCutoff(5.0))
    torch.save(
        spk.model.NeuralNetworkPotential(
            net,
            [spk.atomistic.PairwiseDistances()],
            [spk.atomistic.Atomwise(128, output_key="energy"), spk.atomistic.Forces()],
        ),
        tmp_path / "best_model",
    )
    grid = np.argwhere(np.ones((100, 100, 100))) * 2.0
    atoms = Atoms(np.ones(10**6), positions=grid, cell=np.eye(3) * 200, pbc=True)
    calc = calculator(tmp_path / "best_model", dtype="float32")
    with pytest.raises(MDError, match=r"got 1,000,000 atoms with about 6..e\+07 pairs within 5 Å"):
        calc.get_potential_energy(atoms)
    assert calc.converter.neighbor_list.n_builds == 0


def test_the_estimate_of_memory_is_what_an_evaluation_takes(model):
    """Measured on small clusters, against the peak of an evaluation of 1024 atoms."""
    calc = calculator(model, dtype="float32")
    atoms = crystal(TRICLINIC * 0.8) * (8, 8, 4)
    inputs = calc.converter(atoms)
    n_pairs = len(inputs["_idx_i"])
    assert estimated_pairs(atoms, CUTOFF) == pytest.approx(n_pairs, rel=0.2)
    per_atom, per_pair = MemoryCheck(calc.potential, 0.5)._measure(atoms.numbers)
    calc.model(dict(inputs))
    with PeakMemory() as memory:
        calc.model(inputs)
    estimate = per_atom * len(atoms) + per_pair * n_pairs
    assert estimate == pytest.approx(memory.peak, rel=0.3)


def test_the_counter_of_memory_counts_what_lives():
    with PeakMemory() as memory:
        for _ in range(3):
            torch.zeros(1000).add(1).view(10, 100)  # two of 4000 bytes live at a time
    assert memory.peak == 8000


def test_energies_are_added_up_in_float64(model):
    calc, contributions = calculator(model, dtype="float32"), []
    calc.model.output_modules[0].outnet.register_forward_hook(
        lambda module, args, output: contributions.append(output)
    )
    energy = calc.get_potential_energy(crystal() * (8, 8, 8))
    assert len(contributions[0]) == 2048
    assert contributions[0].float().double().equal(contributions[0])  # of a float32 network
    assert energy == pytest.approx(math.fsum(contributions[0].flatten().tolist()), rel=1e-14)


def test_a_calculator_survives_pickling(model):
    calc = calculator(model)
    energy = calc.get_potential_energy(crystal())
    assert pickle.loads(pickle.dumps(calc)).get_potential_energy(crystal()) == energy  # noqa: S301


def test_a_negative_skin_is_refused(model):
    with pytest.raises(MDError, match="expected skin_ang >= 0, got -1"):
        calculator(model, skin_ang=-1)
