"""Batches through torch-sim give what the ASE calculator gives for each system."""

import sys

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet
from ase.stress import voigt_6_to_full_3x3_stress
from test_md_periodic import TRICLINIC, crystal, potential

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md import TPaiNNCalculator

ts = pytest.importorskip("torch_sim")
from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from schnetpack_tpainn.md.torchsim import TPaiNNModel  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "best_model"
    torch.save(potential(), path)
    return path


def crystals():
    left_handed = crystal(TRICLINIC[[1, 0, 2]])
    outside = crystal() * (2, 1, 1)
    outside.positions += 9.0
    small = crystal(TRICLINIC * 0.55)
    boxed = molecule("CH3CH2OH", cell=np.eye(3) * 12, pbc=True)
    return [crystal(), left_handed, small, boxed, outside, Atoms("O", cell=np.eye(3) * 9, pbc=True)]


def molecules():
    return [molecule(name) for name in ("CH3CH2OH", "H2O", "O", "C6H6", "H2")]


def slabs():
    return [crystal(pbc=(1, 1, 0)), crystal(TRICLINIC * 0.7, pbc=(1, 1, 0))]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("systems", [crystals, molecules, slabs])
def test_a_batch_gives_what_the_calculator_gives(path, systems, dtype, tolerance):
    batch = systems()
    found = TPaiNNModel(path, device="cpu", dtype=dtype, stress=True)(
        ts.initialize_state(batch, CPU, torch.float64)
    )
    assert found["energy"].dtype == torch.float64
    calculator = TPaiNNCalculator(path, device="cpu", dtype=dtype, stress=True)
    forces = np.concatenate([calculator.get_forces(atoms) for atoms in batch])
    energies = [calculator.get_potential_energy(atoms) for atoms in batch]
    np.testing.assert_allclose(found["energy"], energies, atol=tolerance)
    np.testing.assert_allclose(found["forces"], forces, atol=tolerance)
    if systems is crystals:
        stress = [voigt_6_to_full_3x3_stress(calculator.get_stress(atoms)) for atoms in batch]
        np.testing.assert_allclose(found["stress"], stress, atol=tolerance)
    else:
        assert found["stress"].isnan().all()


@pytest.mark.parametrize("stress", [True, False])
def test_torch_sims_own_checks_pass(path, stress):
    model = TPaiNNModel(path, device="cpu", stress=stress)
    assert model.compute_stress is stress
    validate_model_outputs(model, CPU, torch.float64)


def test_the_list_is_sorted_and_symmetric(path):
    model = TPaiNNModel(path, device="cpu", dtype="float64")
    inputs = model._inputs(ts.initialize_state(crystals(), CPU, torch.float64))
    i, j, offsets = inputs["_idx_i"], inputs["_idx_j"], inputs["_offsets"]
    assert (i.diff() >= 0).all()
    assert len(i) > 100
    forth = np.column_stack([i, j, offsets.numpy().round(6) + 0.0])
    back = np.column_stack([j, i, (-offsets).numpy().round(6) + 0.0])
    np.testing.assert_allclose(forth[np.lexsort(forth.T)], back[np.lexsort(back.T)], atol=2e-6)


def test_replicas_move_as_they_do_alone(path):
    batch = [crystal(), crystal(TRICLINIC * 1.1), crystal() * (2, 1, 1)]
    rng, model = np.random.default_rng(0), TPaiNNModel(path, device="cpu", dtype="float64")
    for atoms in batch:
        atoms.set_momenta(rng.normal(scale=0.2, size=(len(atoms), 3)))
    start = ts.integrators.nve_init(ts.initialize_state(batch, CPU, torch.float64), model, kT=0.0)
    start.momenta = torch.tensor(np.concatenate([atoms.get_momenta() for atoms in batch]))
    final = ts.integrate(
        start, model, integrator=ts.Integrator.nve, n_steps=50, temperature=0, timestep=0.0005
    )
    for atoms in batch:
        atoms.calc = TPaiNNCalculator(path, device="cpu", dtype="float64")
        VelocityVerlet(atoms, 0.5 * units.fs).run(50)
    expected = np.concatenate([atoms.positions for atoms in batch])
    np.testing.assert_allclose(final.positions, expected, atol=1e-8)
    np.testing.assert_allclose(
        final.energy, [atoms.get_potential_energy() for atoms in batch], atol=1e-8
    )


def test_relaxation_lowers_energies_and_forces(path):
    model = TPaiNNModel(path, device="cpu", stress=True)
    batch = [crystal(), crystal() * (2, 1, 1)]
    start = model(ts.initialize_state(batch, CPU, torch.float64))
    final = ts.optimize(
        batch,
        model,
        optimizer=ts.Optimizer.fire,
        convergence_fn=ts.generate_force_convergence_fn(1e-2, include_cell_forces=False),
        max_steps=300,
    )
    assert (final.energy < start["energy"]).all()
    assert final.forces.norm(dim=1).max() < 1e-2 < start["forces"].norm(dim=1).max()


def test_unknown_elements_are_refused(path):
    model = TPaiNNModel(path, device="cpu")
    model.model.metadata = {"elements": [1, 6, 8], "units": {}}
    with pytest.raises(MDError, match="got Si too"):
        model(ts.initialize_state([bulk("Si")], CPU, torch.float64))


def test_models_are_taken_as_they_are_and_left_so():
    given = potential()
    model = TPaiNNModel(given, device="cpu", dtype="float64", stress=True)
    assert given.representation.filter_net.weight.dtype == torch.float32
    assert "stress" not in given.model_outputs
    assert model.compute_stress


def test_without_torch_sim_the_extra_is_named(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "torch_sim"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "schnetpack_tpainn.md.torchsim")
    with pytest.raises(ImportError, match=r"pip install 'schnetpack-tpainn\[torchsim\]'"):
        import schnetpack_tpainn.md.torchsim  # noqa: F401
