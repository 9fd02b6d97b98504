import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.units import kB

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md import NVE, NVT, MDSettings, read_log, run_md
from schnetpack_tpainn.md.ensembles import draw_velocities


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (molecule("H2O"), 3),
        (molecule("CO2"), 4),
        (molecule("H2"), 1),
        (bulk("NaCl", "rocksalt", a=5.6, cubic=True), 21),
    ],
    ids=["bent", "linear", "diatomic", "crystal"],
)
def test_velocities_have_the_temperature_of_their_degrees_of_freedom(atoms, expected):
    rng, n_draws = np.random.default_rng(0), 2000
    assert NVE().degrees_of_freedom(atoms) == expected
    assert NVT().degrees_of_freedom(atoms) == 3 * len(atoms)
    temperatures = []
    for _ in range(n_draws):
        draw_velocities(atoms, 300.0, rng)
        NVE().start(atoms)
        temperatures.append(2 * atoms.get_kinetic_energy() / (expected * kB))
    np.testing.assert_allclose(atoms.get_momenta().sum(0), 0, atol=1e-10)
    if not atoms.pbc.any():
        np.testing.assert_allclose(atoms.get_angular_momentum(), 0, atol=1e-8)
    error = 300 * np.sqrt(2 / expected / n_draws)
    assert np.mean(temperatures) == pytest.approx(300, abs=4 * error)


def test_nvt_keeps_the_temperature(ethanol, tmp_path):
    settings = MDSettings(
        ensemble=NVT(friction_per_fs=0.05),
        duration_ps=2.0,
        equilibration_ps=0.2,
        log_interval=1,
    )
    result = run_md(settings, ethanol, RDKitForceField(), tmp_path / "md")
    temperature = read_log(result.log)["temperature_k"]
    blocks = temperature[: len(temperature) // 20 * 20].reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(20)
    assert error < 15
    assert temperature.mean() == pytest.approx(300, abs=4 * error)
    # canonical: the variance of T is 2 T^2 / n
    assert temperature.std() == pytest.approx(300 * np.sqrt(2 / 27), rel=0.25)
    assert result.drift is None


def test_bad_friction_is_refused():
    with pytest.raises(MDError, match="friction_per_fs > 0, got -1"):
        NVT(friction_per_fs=-1)
