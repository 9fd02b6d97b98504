"""Calibration against what is known in closed form."""

import numpy as np
import pytest
from scipy.stats import norm

from schnetpack_tpainn.ensemble.calibration import (
    METHODS,
    Spread,
    calibration_curve,
    fit_factor,
    miscalibration_area,
    rank_correlation,
)
from schnetpack_tpainn.errors import EnsembleError


def gaussian(ratio: float, n: int = 40_000) -> Spread:
    """Gaussian errors of differing size, their deviation predicted `ratio` times too large."""
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.2, 2.0, n)
    return Spread(rng.normal(size=n) * sigma, ratio * sigma)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0, 2.0, 5.0])
def test_the_area_of_gaussian_errors_is_that_by_hand(ratio: float) -> None:
    # the curve is P(|y| < |x| / ratio), y and x normal: its area is 2 arctan(1 / ratio) / pi
    expected = abs(2 / np.pi * np.arctan(1 / ratio) - 0.5)
    assert miscalibration_area(gaussian(ratio)) == pytest.approx(expected, abs=0.004)


def test_the_extremes_of_the_area() -> None:
    one = np.ones(50)
    assert miscalibration_area(Spread(0 * one, one)) == pytest.approx(0.5)
    assert miscalibration_area(Spread(1e6 * one, one)) == pytest.approx(0.5, abs=0.01)
    exact = norm.ppf((1 + (np.arange(1000) + 0.5) / 1000) / 2)  # every quantile once
    assert miscalibration_area(Spread(exact, np.ones(1000))) < 0.001


def test_the_curve_counts_errors_within_intervals() -> None:
    spread = Spread(np.array([0.1, -0.6, 1.2, -3.0]), np.array([1.0, 1.0, 1.0, 1.0]))
    levels, observed = calibration_curve(spread)
    by_level = dict(zip(levels.round(3), observed, strict=True))
    assert by_level[0.05] == 0.0  # |z| < 0.063
    assert by_level[0.25] == 0.25  # 0.319
    assert by_level[0.5] == 0.5  # 0.674
    assert by_level[0.8] == 0.75  # 1.28
    assert by_level[1.0] == 1.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ratio", [0.05, 1.0, 30.0])
def test_the_factor_undoes_a_wrong_scale(method: str, ratio: float) -> None:
    spread = gaussian(ratio)
    factor = fit_factor(spread, method)
    assert factor == pytest.approx(1 / ratio, rel=0.02)
    assert miscalibration_area(spread.scaled(factor)) < 0.005
    assert np.mean(np.abs(spread.scaled(factor).z) <= 1) == pytest.approx(0.683, abs=0.01)


def test_the_likelihood_has_a_closed_form_and_the_score_does_not_heed_an_accident() -> None:
    spread = gaussian(0.5, 200)
    expected = np.sqrt(np.mean(spread.error**2 / spread.std**2))
    assert fit_factor(spread, "nll") == pytest.approx(expected)
    accident = spread.std.copy()
    accident[7] *= 1e-5  # members that agree by chance
    spoiled = Spread(spread.error, accident)
    assert fit_factor(spoiled, "nll") > 100 * expected
    assert fit_factor(spoiled, "crps") == pytest.approx(fit_factor(spread, "crps"), rel=0.05)


def test_what_cannot_be_calibrated_is_refused() -> None:
    one = np.ones(4)
    with pytest.raises(EnsembleError, match="calibrate on, got none"):
        fit_factor(Spread(one[:0], one[:0]), "crps")
    with pytest.raises(EnsembleError, match="finite predictions, got NaN"):
        fit_factor(Spread(np.array([1.0, np.nan]), one[:2]), "crps")
    with pytest.raises(EnsembleError, match=r"all predict the same.*tpainn_bootstrap"):
        fit_factor(Spread(one, 0 * one), "crps")


def test_rank_correlation_is_that_of_sizes() -> None:
    spread = Spread(np.array([0.1, -0.2, 0.3]), np.array([1.0, 2.0, 5.0]))
    assert rank_correlation(spread) == pytest.approx(1.0)
    assert rank_correlation(Spread(spread.error, -spread.std + 6)) == pytest.approx(-1.0)
    assert rank_correlation(Spread(spread.error, np.ones(3))) is None
