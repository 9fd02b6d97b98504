"""Quantum ESPRESSO: a water molecule in a small periodic box, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.db import connect

from schnetpack_tpainn.data.espresso import QuantumEspresso
from schnetpack_tpainn.data.label import label_frames
from schnetpack_tpainn.errors import LabelError

needs_program = pytest.mark.skipif(shutil.which("pw.x") is None, reason="pw.x is not installed")
COARSE: dict[str, Any] = {"cutoff_ry": 25.0, "conv_thr_ry": 1e-8}


def water(length: float = 5.0) -> Atoms:
    positions = [[0.1, 0.0, 0.05], [0.85, 0.6, 0.0], [-0.6, 0.8, 0.1]]
    return Atoms("OHH", positions, cell=[length, length + 0.3, length + 0.5], pbc=True)


@needs_program
def test_forces_are_derivatives_of_the_energy_and_dispersion_is_in_all() -> None:
    engine = QuantumEspresso(stress=True, **COARSE)
    engine.calculate(water(), ["energy", "forces"])
    found = engine.results
    assert np.abs(found["forces"].sum(0)).max() < 0.02
    energies = []
    for step in (0.01, -0.01):
        moved = water()
        moved.positions[1, 0] += step
        engine.calculate(moved)
        energies.append(engine.results["energy"])
    assert -(energies[0] - energies[1]) / 0.02 == pytest.approx(found["forces"][1, 0], abs=0.02)
    plain = QuantumEspresso(dispersion=None, stress=True, **COARSE)
    plain.calculate(water())
    assert -0.1 < found["energy"] - plain.results["energy"] < -0.001  # eV, dispersion attracts
    assert not np.allclose(found["stress"], plain.results["stress"], atol=1e-7)


@needs_program
def test_the_stress_is_the_derivative_by_strain() -> None:
    engine = QuantumEspresso(stress=True, cutoff_ry=70.0, conv_thr_ry=1e-9)  # few Pulay terms
    engine.calculate(water())
    stress, energies = engine.results["stress"], []
    for strain in (0.002, -0.002):
        strained = water()
        strained.set_cell(strained.cell.array * (1 + strain), scale_atoms=True)
        engine.calculate(strained)
        energies.append(engine.results["energy"])
    numeric = (energies[0] - energies[1]) / 0.004 / water().get_volume()
    assert stress[:3].sum() == pytest.approx(numeric, rel=0.01)


@needs_program
def test_frames_that_fail_are_kept_apart(tmp_path: Path) -> None:
    overlapping = water()
    overlapping.positions[1] = overlapping.positions[0]
    node = {"_target_": "schnetpack_tpainn.data.espresso.QuantumEspresso", **COARSE}
    result = label_frames([water(), overlapping], node, tmp_path / "labels.db", n_workers=1)
    assert result.n_labelled == 1
    assert "atoms #" in result.failed[1]
    with connect(result.path) as db:
        level = db.metadata["level_of_theory"]
        assert db.get(1).data["forces"].shape == (3, 3)
    assert level["engine"].startswith("Quantum ESPRESSO ")
    assert level["cutoff_ry"] == 25.0
    assert len(level["pseudopotentials"]["O"]["sha256"]) == 64


@needs_program
def test_an_scf_that_does_not_converge_is_an_error() -> None:
    with pytest.raises(LabelError, match="SCF of H2O not converged after 2 iterations"):
        QuantumEspresso(max_steps=2, **COARSE).calculate(water())


@needs_program
@pytest.mark.parametrize(
    ("atoms", "settings", "message"),
    [
        (Atoms("H2O", water().positions), {}, "periodic in three directions"),
        (Atoms("Ne", cell=[5, 5, 5], pbc=True), {}, "pseudopotential of Ne"),
        (water(), {"pseudo_dir": "/nowhere"}, "pseudopotential of H in /nowhere"),
    ],
)
def test_refused_structures(atoms: Atoms, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        QuantumEspresso(**settings).calculate(atoms)


def test_a_program_that_is_absent_is_named() -> None:
    with pytest.raises(LabelError, match="apt-get install quantum-espresso"):
        QuantumEspresso(command="pw.not-there.x").calculate(water())


def test_unknown_dispersions_are_refused() -> None:
    with pytest.raises(LabelError, match="expected dispersion d3bj, d3zero or null, got 'd4'"):
        QuantumEspresso(dispersion="d4")
