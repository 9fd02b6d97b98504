"""Diffusion of random walks whose coefficient is known."""

import numpy as np
import pytest

from schnetpack_tpainn.analysis import finite_size, self_diffusion, yeh_hummer_correction
from schnetpack_tpainn.errors import AnalysisError

INTERVAL_FS = 100.0


def walk(d_m2_per_s, n_frames, n_particles, seed):
    """Positions of free particles: each step has the variance 2 D dt in each direction."""
    variance = 2 * d_m2_per_s * 1e20 * INTERVAL_FS * 1e-15
    steps = np.random.default_rng(seed).normal(size=(n_frames, n_particles, 3))
    return np.cumsum(steps * variance**0.5, axis=0)


def test_the_coefficient_of_a_random_walk_is_found_within_its_uncertainty():
    exact = 2.3e-9
    found = [
        self_diffusion(walk(exact, 400, 40, seed), INTERVAL_FS, fit_from_ps=1.0)
        for seed in range(4)
    ]
    z = [(one.d_m2_per_s - exact) / one.error_m2_per_s for one in found]
    assert np.abs(z).max() < 3
    spread = np.mean([one.error_m2_per_s for one in found])
    # of displacements over 1 ps, 40 * 39.9 are independent, in three directions, each square of
    # relative variance 2; the intercept takes something, too
    of_1_ps = exact * (2 / (3 * 40 * 39.9)) ** 0.5
    assert of_1_ps < spread < 3 * of_1_ps
    for one in found:
        low, high = one.interval_m2_per_s
        assert low < one.d_m2_per_s < high
        assert high - low == pytest.approx(3.92 * one.error_m2_per_s, rel=0.2)
        assert one.n_particles == 40
        assert one.lag_ps[0] == pytest.approx(0.1)
        assert one.lag_ps[-1] == pytest.approx(19.9)
        assert one.misfit < 3
        expected = 6 * exact * 1e8 * one.lag_ps[:10]
        assert np.allclose(one.msd_ang2[:10], expected, rtol=0.1)


def test_motion_with_a_memory_diffuses_as_langevin_says():
    rng, steps_fs, memory_fs, speed = np.random.default_rng(5), 10.0, 100.0, 3e-3  # Å/fs
    keep = np.exp(-steps_fs / memory_fs)
    velocity = rng.normal(scale=speed, size=(64, 3))
    positions = [np.zeros((64, 3))]
    for _ in range(1000):
        positions.append(positions[-1] + velocity * steps_fs)
        noise = rng.normal(scale=speed, size=(64, 3))
        velocity = keep * velocity + (1 - keep**2) ** 0.5 * noise
    # Green and Kubo, for these steps: 0.9e-8 m²/s
    exact = speed**2 * steps_fs * (0.5 + keep / (1 - keep)) * 1e-5
    found = self_diffusion(np.array(positions), steps_fs, fit_from_ps=0.5)
    assert found.d_m2_per_s == pytest.approx(exact, abs=3 * found.error_m2_per_s)
    assert found.error_m2_per_s < 0.15 * exact
    assert found.misfit < 3
    # without the beginning, where displacements grow faster, the line passes below the origin
    assert found.intercept_ang2 < 0


def test_it_does_not_depend_on_or_change_other_random_numbers():
    positions = walk(1e-9, 100, 10, 0)
    np.random.seed(3)
    first = self_diffusion(positions, INTERVAL_FS, 0.5).d_m2_per_s
    after = np.random.random()
    np.random.seed(3)
    assert np.random.random() == after
    assert self_diffusion(positions, INTERVAL_FS, 0.5).d_m2_per_s == first


@pytest.mark.parametrize("fit_from_ps", [2.0, 0.0])
def test_a_trajectory_too_short_for_the_fit_is_refused(fit_from_ps):
    with pytest.raises(AnalysisError, match="five times as long as the lag"):
        self_diffusion(walk(1e-9, 90, 4, 0), INTERVAL_FS, fit_from_ps)


def test_the_finite_size_correction_is_that_of_yeh_and_hummer():
    # by hand: 2.837297 * 1.380649e-23 * 298.15 / (6 * 3.14159265 * 0.89e-3 * 12.42e-10)
    by_hand = 5.6054e-10
    assert yeh_hummer_correction(298.15, 12.42, 0.89) == pytest.approx(by_hand, rel=1e-4)
    size = finite_size(np.eye(3) * 12.42, 298.15, None, is_water=True)
    assert size.correction_m2_per_s == pytest.approx(by_hand, rel=1e-4)
    assert size.viscosity_mpa_s == 0.89
    assert size.source == "experiment, water at 298 K"


def test_the_correction_is_refused_where_it_does_not_hold():
    with pytest.raises(AnalysisError, match="cubic box"):
        finite_size(np.diag([10.0, 10, 11]), 300, 0.89, is_water=True)
    with pytest.raises(AnalysisError, match="cubic box"):
        finite_size(np.array([[10.0, 0, 0], [5, 75**0.5, 0], [0, 0, 10]]), 300, 1, is_water=True)
    with pytest.raises(AnalysisError, match="give --viscosity-mpa-s"):
        finite_size(np.eye(3) * 12, 300, None, is_water=False)
    with pytest.raises(AnalysisError, match="expected a viscosity above 0"):
        yeh_hummer_correction(300, 12, 0)
