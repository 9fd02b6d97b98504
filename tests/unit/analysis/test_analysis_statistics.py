"""Errors of correlated series, and densities."""

import numpy as np
import pytest
from ase.build import molecule
from handmade import made

from schnetpack_tpainn.analysis import analyse, average
from schnetpack_tpainn.analysis.settings import AnalysisSettings
from schnetpack_tpainn.analysis.statistics import block_error, blocks
from schnetpack_tpainn.data.liquid import water_box
from schnetpack_tpainn.errors import AnalysisError


def autoregressive(phi, n, seed=0):
    noise = np.random.default_rng(seed).normal(size=n)
    series = np.empty(n)
    series[0] = noise[0] / (1 - phi**2) ** 0.5
    for t in range(1, n):
        series[t] = phi * series[t - 1] + noise[t]
    return series


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9])
def test_the_error_of_an_autoregressive_series_is_the_analytical_one(phi):
    n = 20000
    found = average(5 + autoregressive(phi, n))
    exact = 1 / ((1 - phi) * n**0.5)  # of x_t = φ x_(t-1) + noise of variance 1
    assert found.error == pytest.approx(exact, rel=0.15)
    assert found.n_independent == pytest.approx(n * (1 - phi) / (1 + phi), rel=0.25)
    assert found.mean == pytest.approx(5, abs=4 * exact)
    assert found.is_trusted
    assert not average(autoregressive(0.9, 200)).is_trusted


def test_blocks_give_the_same_error():
    series = autoregressive(0.9, 20000)
    means = np.array([series[part].mean() for part in blocks(len(series), 40)])
    assert block_error(means) == pytest.approx(average(series).error, rel=0.3)
    assert sum(part.stop - part.start for part in blocks(23, 5)) == 23


@pytest.mark.parametrize(("n_frames", "n_blocks"), [(9, 5), (100, 1)])
def test_too_few_frames_or_blocks_are_refused(n_frames, n_blocks):
    with pytest.raises(AnalysisError, match="run longer or skip less"):
        blocks(n_frames, n_blocks)


def test_a_constant_series_has_no_error():
    assert average(np.full(10, 0.3)).error == 0


def test_the_density_of_a_box_is_known():
    atoms = water_box(20, 0.987)
    only = AnalysisSettings(only=["density"])
    found = analyse(made(atoms), only)
    assert found.density.mean == pytest.approx(0.987)
    assert found.density.error == 0
    lengths = 1 + 0.01 * autoregressive(0.5, 4000)
    scale = (lengths ** (-1 / 3))[:, None, None]  # of the density lengths * 0.987
    trajectory = made(atoms, atoms.positions * scale, atoms.cell.array * scale)
    density = analyse(trajectory, only).density
    assert density.mean == pytest.approx(0.987, abs=0.987 * 5 * 0.02 / 4000**0.5)
    assert density.error == pytest.approx(0.987 * 0.02 / 4000**0.5, rel=0.2)


def test_a_molecule_has_no_density():
    trajectory = made(molecule("H2O"))
    with pytest.raises(AnalysisError, match="density: expected frames that are periodic"):
        analyse(trajectory, AnalysisSettings(only=["density"]))
    found = analyse(trajectory)
    assert {"density", "rdf", "diffusion"} <= found.missing.keys()
    assert found.contacts.within_ang["H-O"] == pytest.approx(0.969, abs=0.001)
