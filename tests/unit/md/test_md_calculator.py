import numpy as np
import pytest
import torch
from ase.build import molecule

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md import ZBL, TPaiNNCalculator


def resaved(path, folder, change):
    """The model after a change, saved again."""
    model = torch.load(path, weights_only=False)
    change(model)
    torch.save(model, folder / "best_model")
    return folder / "best_model"


def test_energy_and_forces_take_one_pass(water_model, water):
    calculator = TPaiNNCalculator(water_model)
    passes = []
    calculator.model.register_forward_hook(lambda *_: passes.append(1))
    atoms = water.copy()
    atoms.calc = calculator
    atoms.get_potential_energy()
    atoms.get_forces()
    atoms.positions += 0.01
    atoms.get_forces()
    atoms.get_potential_energy()
    assert len(passes) == 2


def test_forces_are_the_gradient(water_model, water):
    atoms = water.copy()
    atoms.rattle(0.05, seed=1)
    atoms.calc = TPaiNNCalculator(str(water_model), dtype="float64")
    forces, h = atoms.get_forces(), 1e-4
    assert np.abs(forces).max() > 0.5
    atoms.positions[1, 0] += h
    above = atoms.get_potential_energy()
    atoms.positions[1, 0] -= 2 * h
    below = atoms.get_potential_energy()
    assert forces[1, 0] == pytest.approx((below - above) / (2 * h), abs=1e-5)


@pytest.mark.parametrize("with_cast", [True, False])
def test_energy_is_float64_with_large_offsets(water_model, water, tmp_path, with_cast):
    def change(model):
        if not with_cast:
            del model.postprocessors[0]

    model = resaved(water_model, tmp_path, change)
    bare = resaved(water_model, tmp_path, lambda m: setattr(m, "do_postprocessing", False))
    network = TPaiNNCalculator(bare).get_potential_energy(water)
    torch.save(torch.load(water_model, weights_only=False), model)
    model = resaved(water_model, tmp_path, change)
    offsets = -20420.123456789 - 2 * 13.123456789
    energy = TPaiNNCalculator(model).get_potential_energy(water)
    assert energy == pytest.approx(network + offsets, abs=1e-8)


def test_units_and_elements_come_from_the_model(water_model, water, tmp_path):
    def change(model):
        model.metadata = {"elements": [1, 8], "units": {"energy": "kcal/mol", "distance": "Ang"}}

    in_ev = TPaiNNCalculator(water_model).get_forces(water)
    in_kcal = TPaiNNCalculator(resaved(water_model, tmp_path, change))
    np.testing.assert_allclose(in_kcal.get_forces(water), in_ev * 0.0433641, rtol=1e-5)
    with pytest.raises(MDError, match=r"trained for \(H, O\), got C too"):
        in_kcal.get_potential_energy(molecule("CH4"))


def test_length_in_other_units_is_refused(water_model, tmp_path):
    def change(model):
        model.metadata = {"units": {"energy": "eV", "distance": "Bohr"}}

    with pytest.raises(MDError, match="positions in Å, got 'Bohr'"):
        TPaiNNCalculator(resaved(water_model, tmp_path, change))


def test_no_cutoff_is_refused(water_model, tmp_path):
    def change(model):
        model.representation = torch.nn.Identity()

    with pytest.raises(MDError, match="Identity of the model names no cutoff"):
        TPaiNNCalculator(resaved(water_model, tmp_path, change))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"not a pickle", "cannot be read as one"),
        ({"state_dict": {}}, "cannot be read as one .*not a Lightning checkpoint"),
        (torch.nn.Linear(1, 1), "cannot be read as one"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, message):
    path = tmp_path / "best_model"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(MDError, match=message):
        TPaiNNCalculator(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dtype", "float16", "expected dtype float32 or float64, got 'float16'"),
        ("device", "warp", "expected device auto, cpu or a GPU"),
        ("energy_key", "U0", r"expected energy_key='U0' .* got \['energy', 'forces'\]"),
        ("force_key", "F", "set force_key to one of them"),
        ("energy_unit", "parsec/h", "expected energy_unit such as eV"),
    ],
)
def test_bad_arguments_are_refused(water_model, key, value, message):
    with pytest.raises(MDError, match=message):
        TPaiNNCalculator(water_model, **{key: value})


def test_repulsion_acts_between_squeezed_atoms_alone(water_model, water):
    plain, walled = (TPaiNNCalculator(water_model, repulsion=r) for r in (False, True))
    assert walled.get_potential_energy(water) == plain.get_potential_energy(water)
    np.testing.assert_array_equal(walled.get_forces(water), plain.get_forces(water))
    squeezed = water.copy()
    squeezed.set_distance(0, 1, 0.55, fix=0)
    wall = ZBL()
    gain = walled.get_potential_energy(squeezed) - plain.get_potential_energy(squeezed)
    assert gain == pytest.approx(wall.get_potential_energy(squeezed), abs=1e-9)
    assert gain > 1.0
    np.testing.assert_allclose(
        walled.get_forces(squeezed) - plain.get_forces(squeezed), wall.get_forces(squeezed)
    )
