import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.io import read

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md import NPT, MDSettings, TPaiNNCalculator, run_md


def argon():
    return bulk("Ar", a=5.3, cubic=True) * (2, 2, 2)


@pytest.mark.parametrize("isotropic", [True, False])
def test_the_mean_pressure_is_the_one_asked_for(tmp_path, isotropic):
    ensemble = NPT(pressure_gpa=1, friction_per_fs=0.02, barostat_time_fs=100, isotropic=isotropic)
    settings = MDSettings(ensemble=ensemble, timestep_fs=4, temperature_k=60, duration_ps=2)
    calculator = LennardJones(sigma=3.4, epsilon=0.0103, rc=5.0, smooth=True)
    frames = read(run_md(settings, argon(), calculator, tmp_path / "md").trajectory, ":")
    pressures = []
    for frame in frames[15:]:
        frame.calc = calculator
        stress = frame.get_stress(voigt=False, include_ideal_gas=True)
        pressures.append(-np.trace(stress) / 3 / units.GPa)
    assert np.mean(pressures) == pytest.approx(1, abs=0.1)
    assert frames[-1].get_volume() < 0.97 * frames[0].get_volume()
    angles = frames[-1].cell.angles()
    assert np.allclose(angles, 90, atol=1e-6) is isotropic


@pytest.mark.parametrize(
    ("calculator", "periodic", "message"),
    [
        (RDKitForceField, True, "structure and a calculator with a stress"),
        (None, True, "make the calculator with stress=True"),
    ],
)
def test_what_has_no_stress_is_refused(tmp_path, water_model, water, calculator, periodic, message):
    box = water.copy()
    box.cell, box.pbc = np.eye(3) * 8, periodic
    calculator = calculator() if calculator else TPaiNNCalculator(water_model)
    with pytest.raises(MDError, match=message):
        run_md(MDSettings(ensemble=NPT()), box, calculator, tmp_path / "md")


def test_molecules_have_no_pressure(tmp_path, water_model, water):
    calculator = TPaiNNCalculator(water_model, stress=True)
    with pytest.raises(MDError, match="periodic in three directions"):
        run_md(MDSettings(ensemble=NPT()), water, calculator, tmp_path / "md")


@pytest.mark.parametrize("name", ["friction_per_fs", "barostat_time_fs"])
def test_bad_settings_are_refused(name):
    with pytest.raises(MDError, match=f"expected {name} > 0, got 0"):
        NPT(**{name: 0})
