"""Nosé-Hoover chains on argon: temperature, pressure, and runs that are cut short."""

import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.io import read
from hydra.utils import instantiate
from matscipy.calculators.pair_potential import LennardJonesCut, PairPotential
from omegaconf import OmegaConf

from hydra_plugins.schnetpack_tpainn.searchpath import config_dir
from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.md import MTKNPT, NVT, Limits, MDSettings, NoseHooverNVT, read_log, run_md

SIGMA, EPSILON, CUTOFF = 3.4, 0.0103, 2.5  # Å, eV, sigma
RARE = Limits(interval=1000)  # checks of the distances
QUIET = {"trajectory_interval": 20, "restart_interval": 1000}


def lennard_jones(cutoff=CUTOFF, kind=PairPotential):
    return kind({(18, 18): LennardJonesCut(EPSILON, SIGMA, cutoff * SIGMA)})


def argon(reduced_density, n=3):
    return bulk("Ar", a=SIGMA * (4 / reduced_density) ** (1 / 3), cubic=True) * (n, n, n)


@pytest.fixture
def melt(tmp_path):
    """Argon without the order of the crystal, to which 108 atoms would go back."""
    hot = MDSettings(
        ensemble=NVT(0.005), timestep_fs=10, temperature_k=300, duration_ps=3, limits=RARE, **QUIET
    )
    return read(run_md(hot, argon(0.78), lennard_jones(), tmp_path / "hot").trajectory, "-1")


def test_npt_finds_the_density_of_the_lennard_jones_fluid(tmp_path, melt):
    """State point of NIST's benchmark, https://mmlapps.nist.gov/srs/LJ_PURE/mc.htm.

    T* = 0.85, ρ* = 0.820: p* = 0.5535 with the tail correction, which a cutoff leaves out.
    """
    density = 0.820
    tail = 16 / 3 * np.pi * density**2 * (2 / 3 * CUTOFF**-9 - CUTOFF**-3)
    pressure = (0.55355 - tail) * EPSILON / SIGMA**3 / units.GPa
    settings = MDSettings(
        ensemble=MTKNPT(pressure, thermostat_time_fs=200, barostat_time_fs=400),
        timestep_fs=10,
        temperature_k=0.85 * EPSILON / units.kB,
        equilibration_ps=4,
        duration_ps=20,
        log_interval=10,
        limits=RARE,
        **QUIET,
    )
    result = run_md(settings, melt, lennard_jones(), tmp_path / "md")
    volumes = np.array([frame.get_volume() for frame in read(result.trajectory, "20:")])
    found = 108 * SIGMA**3 / volumes
    blocks = found[: len(found) // 5 * 5].reshape(5, -1).mean(axis=1)
    assert blocks.std(ddof=1) / 5**0.5 < 0.01 * density
    assert found.mean() == pytest.approx(density, rel=0.015)
    temperature = read_log(result.log)["temperature_k"][40:]
    assert temperature.mean() == pytest.approx(settings.temperature_k, rel=0.03)


def test_nvt_keeps_the_temperature_of_the_degrees_of_freedom_there_are(tmp_path):
    settings = MDSettings(
        ensemble=NoseHooverNVT(),
        timestep_fs=5,
        temperature_k=90,
        equilibration_ps=2,
        duration_ps=15,
        log_interval=2,
        **QUIET,
    )
    result = run_md(settings, argon(0.95, n=2), lennard_jones(1.6), tmp_path / "md")
    temperature = read_log(result.log)["temperature_k"]
    # 3N instead of 3N-3 would be 3 % off
    assert temperature.mean() == pytest.approx(90, rel=0.01)
    assert temperature.std() == pytest.approx(90 * np.sqrt(2 / 93), rel=0.25)  # canonical
    for frame in read(result.trajectory, "::20"):
        assert np.abs(frame.get_momenta().sum(axis=0)).max() < 1e-8


class Stops(PairPotential):
    """Argon that is cut short, as by a kill, at one of the evaluations."""

    left = 10**9

    def calculate(self, *arguments, **more):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        super().calculate(*arguments, **more)


@pytest.mark.parametrize("ensemble", [NoseHooverNVT(chain_length=2), MTKNPT(barostat_time_fs=80)])
def test_a_run_cut_short_goes_on_as_if_unbroken(tmp_path, ensemble):
    settings = MDSettings(
        ensemble=ensemble,
        timestep_fs=5,
        temperature_k=90,
        duration_ps=0.4,
        trajectory_interval=3,
        log_interval=1,
        restart_interval=23,
    )

    def run(name, evaluations):
        calculator = lennard_jones(1.5, Stops)
        calculator.left = evaluations
        return run_md(settings, argon(0.9, n=2), calculator, tmp_path / name)

    for evaluations in (30, 40):
        with pytest.raises(KeyboardInterrupt):
            run("cut", evaluations)
    resumed, unbroken = run("cut", 10**9), run("whole", 10**9)
    assert resumed.log.read_bytes() == unbroken.log.read_bytes()
    for a, b in zip(read(resumed.trajectory, ":"), read(unbroken.trajectory, ":"), strict=True):
        assert np.array_equal(a.positions, b.positions)
        assert np.array_equal(a.cell.array, b.cell.array)
        assert np.array_equal(a.get_momenta(), b.get_momenta())
    assert resumed.drift is None
    cells = [frame.cell[0, 0] for frame in read(resumed.trajectory, ":")]
    assert (len(set(cells)) > 1) is ensemble.needs_stress


def test_molecules_do_not_turn_and_have_no_pressure(tmp_path):
    water = molecule("H2O")
    assert NoseHooverNVT().degrees_of_freedom(water) == 3
    settings = MDSettings(ensemble=NoseHooverNVT(), duration_ps=0.02)
    frames = read(run_md(settings, water, RDKitForceField(), tmp_path / "md").trajectory, ":")
    assert np.abs(frames[-1].get_angular_momentum()).max() < 1e-6
    slab = argon(0.9)
    slab.pbc = [True, True, False]
    for atoms, calculator in ((water, RDKitForceField()), (slab, lennard_jones())):
        with pytest.raises(MDError, match="periodic in three directions"):
            run_md(MDSettings(ensemble=MTKNPT()), atoms, calculator, tmp_path / "npt")


@pytest.mark.parametrize(
    ("name", "expected"), [("tpainn_nvt_nhc", NoseHooverNVT()), ("tpainn_npt_mtk", MTKNPT())]
)
def test_the_configs_are_the_defaults(name, expected):
    assert (
        instantiate(OmegaConf.load(config_dir() / "md" / "ensemble" / f"{name}.yaml")) == expected
    )


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (NoseHooverNVT, "thermostat_time_fs"),
        (MTKNPT, "thermostat_time_fs"),
        (MTKNPT, "barostat_time_fs"),
        (NoseHooverNVT, "chain_length"),
    ],
)
def test_bad_settings_are_refused(kind, name):
    with pytest.raises(MDError, match=f"expected {name} >=? ?[01], got 0"):
        kind(**{name: 0})
