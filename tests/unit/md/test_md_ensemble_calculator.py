"""The ensemble's calculator is the mean of its members' calculators, and knows how they differ."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from schnetpack.interfaces import SpkEnsembleCalculator
from schnetpack.transform import MatScipyNeighborList

from schnetpack_tpainn.errors import CheckpointError, EnsembleError, MDError
from schnetpack_tpainn.md import EnsembleCalculator, TPaiNNCalculator, open_calculator
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.ensemble import Calibration, save_ensemble
from schnetpack_tpainn.transfer.formats import Pretrained
from schnetpack_tpainn.transfer.units import UNITS
from tests.fits import CUTOFF, build, model_config

FACTORS = Calibration(2.5, 4.0, "crps", 50)
OFFSETS = torch.linspace(-2e4, 1e4, 100, dtype=torch.float64)
SEEDS = (0, 1, 2)


def model(seed: int):
    made = build("tpainn", seed)
    made.postprocessors[0].set_offsets(OFFSETS)
    return made


@pytest.fixture(scope="module")
def singles(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("singles")
    for seed in SEEDS:
        torch.save(model(seed), folder / f"m{seed}")
    return [folder / f"m{seed}" for seed in SEEDS]


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory) -> Path:
    members = []
    for seed in SEEDS:
        made = model(seed)
        card = {"architecture": describe(made), "elements": [1, 6, 8], "units": UNITS}
        card |= {"model_config": model_config("tpainn")}
        members.append(Pretrained(Path("m"), network_state(made), card, {"energy": OFFSETS}))
    path = tmp_path_factory.mktemp("ensemble") / "ensemble.safetensors"
    save_ensemble(path, members, FACTORS)
    return path


def crystal() -> Atoms:
    atoms = molecule("CH3OH", vacuum=1.5)
    atoms.pbc = True
    atoms.rattle(0.05, seed=1)
    return atoms


def test_mean_and_deviation_are_those_of_the_members(ensemble, singles):
    atoms = crystal()
    arguments = {"dtype": "float64", "stress": True, "device": "cpu"}
    calculator = EnsembleCalculator(ensemble, **arguments)
    alone = [TPaiNNCalculator(path, **arguments) for path in singles]
    energies = np.array([c.get_potential_energy(atoms) for c in alone])
    forces = np.array([c.get_forces(atoms) for c in alone])
    stresses = np.array([c.get_stress(atoms) for c in alone])
    assert np.ptp(energies) > 1e-3  # the members differ
    assert calculator.get_potential_energy(atoms) == pytest.approx(energies.mean(), abs=1e-9)
    np.testing.assert_allclose(calculator.get_forces(atoms), forces.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(calculator.get_stress(atoms), stresses.mean(axis=0), atol=1e-9)
    results = calculator.results
    assert results["energy_std"] == pytest.approx(2.5 * energies.std(ddof=1), rel=1e-6)
    by_atom = np.sqrt(forces.var(axis=0, ddof=1).mean(axis=1))
    np.testing.assert_allclose(results["forces_std"], 4.0 * by_atom, rtol=1e-6)
    assert calculator.get_property("forces_std", atoms).shape == (6,)


def test_the_deviation_does_not_depend_on_how_the_molecule_lies(ensemble):
    atoms = molecule("CH3OH")
    calculator = EnsembleCalculator(ensemble, dtype="float64", device="cpu")
    before = calculator.get_property("forces_std", atoms).copy()
    atoms.rotate(70, (1, 2, 3))
    np.testing.assert_allclose(calculator.get_property("forces_std", atoms), before, rtol=1e-6)


def test_forces_are_the_gradient_of_the_mean(ensemble):
    atoms, h = crystal(), 1e-4
    atoms.calc = EnsembleCalculator(ensemble, dtype="float64", device="cpu")
    force = atoms.get_forces()[2, 1]
    energies = []
    for step in (h, -2 * h):
        atoms.positions[2, 1] += step
        energies.append(atoms.get_potential_energy())
    assert force == pytest.approx((energies[1] - energies[0]) / (2 * h), abs=1e-5)


def test_members_share_one_neighbour_list_and_one_pass_each(ensemble):
    atoms = crystal()
    atoms.calc = EnsembleCalculator(ensemble, device="cpu")
    passes = []
    for k, member in enumerate(atoms.calc.models):
        member.register_forward_hook(lambda *_, k=k: passes.append(k))
    atoms.get_forces()
    atoms.get_potential_energy()
    atoms.calc.get_property("forces_std", atoms)
    assert passes == [0, 1, 2]
    atoms.positions += 0.01
    atoms.get_forces()
    assert atoms.calc.converter.neighbor_list.n_builds == 1


def test_what_it_opens_and_how(ensemble, singles, caplog):
    atoms = molecule("CH3OH")
    for source in (ensemble, str(ensemble), ensemble.parent):
        found = open_calculator(source, device="cpu")
        assert isinstance(found, EnsembleCalculator)
        assert found.calibration == FACTORS
    assert type(open_calculator(singles[0], device="cpu")) is TPaiNNCalculator
    with caplog.at_level(logging.WARNING):
        listed = open_calculator(singles, device="cpu", dtype="float64")
    assert "never calibrated" in caplog.text
    expected = EnsembleCalculator(ensemble, device="cpu", dtype="float64")
    std = listed.get_property("energy_std", atoms)
    assert 2.5 * std == pytest.approx(expected.get_property("energy_std", atoms), rel=1e-6)
    assert listed.provenance["model_sha256"] != expected.provenance["model_sha256"]


def test_schnetpacks_ensemble_calculator_opens_the_members_and_agrees(ensemble, singles):
    atoms = molecule("CH3OH")
    theirs = SpkEnsembleCalculator(
        [str(path) for path in singles],
        MatScipyNeighborList(CUTOFF),
        energy_unit="eV",
        dtype=torch.float64,
    )
    theirs.calculate(atoms)
    ours = EnsembleCalculator(ensemble, dtype="float64", device="cpu")
    assert ours.get_potential_energy(atoms) == pytest.approx(theirs.results["energy"], abs=1e-6)
    np.testing.assert_allclose(ours.get_forces(atoms), theirs.results["forces"], atol=1e-6)


def test_members_that_do_not_belong_together_are_refused(singles, tmp_path):
    with pytest.raises(EnsembleError, match="two members or more, got 1"):
        EnsembleCalculator(singles[:1], device="cpu")

    def other(**metadata):
        made = model(5)
        made.metadata = metadata
        torch.save(made, tmp_path / "other")
        return [singles[0], tmp_path / "other"]

    with pytest.raises(EnsembleError, match="one unit of energy, got eV in member 0 and kcal/mol"):
        EnsembleCalculator(other(units={"energy": "kcal/mol"}), device="cpu")
    with pytest.raises(EnsembleError, match=r"one set of elements, got None .* and \[1, 8\]"):
        EnsembleCalculator(other(elements=[1, 8]), device="cpu")
    wide = other()
    made = torch.load(wide[1], weights_only=False)
    made.representation.cutoff = 5.0
    torch.save(made, wide[1])
    with pytest.raises(EnsembleError, match=r"one cutoff \(Å\), got 4\.0 .* and 5\.0 in member 1"):
        EnsembleCalculator(wide, device="cpu")


def test_what_is_no_ensemble_is_refused(ensemble, singles, tmp_path):
    with pytest.raises(MDError, match=r"expected an ensemble, got .*m0"):
        EnsembleCalculator(singles[0], device="cpu")
    with pytest.raises(MDError, match="expected an ensemble, got"):
        open_calculator(tmp_path)
    with pytest.raises(CheckpointError, match="holds an ensemble, expected one model"):
        TPaiNNCalculator(ensemble)
    with pytest.raises(MDError, match=r"absent: no such file"):
        EnsembleCalculator([singles[0], tmp_path / "absent"], device="cpu")
    damaged = tmp_path / "ensemble.safetensors"
    content = bytearray(ensemble.read_bytes())
    content[-4] ^= 8
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"member 2 of .* is damaged"):
        open_calculator(tmp_path)


def test_without_force_labels_the_factor_of_the_energies_holds():
    assert replace(FACTORS, forces=None).of_forces == 2.5
    assert FACTORS.of_forces == 4.0
