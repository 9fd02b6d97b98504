r"""How well predicted standard deviations describe errors, and the factor that makes them do so.

An error :math:`e` with predicted standard deviation :math:`\sigma` is taken as a draw from
:math:`\mathcal N(0, s^2\sigma^2)`; :math:`s` is fitted to labels that trained nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import norm, spearmanr

from schnetpack_tpainn.errors import EnsembleError

__all__ = [
    "METHODS",
    "Spread",
    "calibration_curve",
    "fit_factor",
    "miscalibration_area",
    "rank_correlation",
]

LEVELS = np.linspace(0, 1, 201)
MIN_STD = 1e-9  # eV or eV/Å: below the rounding of what is predicted
WIDEST = 1e3  # the factor is looked for within this factor of the median of |error / std|


@dataclass(frozen=True)
class Spread:
    """Errors of an ensemble's mean beside the spread of its members.

    Attributes:
        error: prediction minus label, (K,).
        std: standard deviation over the members, (K,), in the unit of the errors.
    """

    error: np.ndarray
    std: np.ndarray

    def scaled(self, factor: float) -> "Spread":
        """The same with another standard deviation.

        Args:
            factor: what it is multiplied with.

        Returns:
            The same errors.
        """
        return Spread(self.error, factor * self.std)

    @property
    def z(self) -> np.ndarray:
        """Errors in units of their standard deviation, (K,)."""
        return self.error / np.maximum(self.std, MIN_STD)


def fit_factor(spread: Spread, method: str) -> float:
    r"""Factor :math:`s` on the standard deviations.

    ``nll``, the largest likelihood, is :math:`s^2 = \langle e^2 / \sigma^2 \rangle`. ``crps``
    minimises the mean continuous ranked probability score (Gneiting and Raftery, J. Am. Stat.
    Assoc. 102, 359, 2007, Eq. 21),

    .. math::
       s\sigma \Big[ z (2\Phi(z) - 1) + 2\varphi(z) - \pi^{-1/2} \Big], \qquad
       z = \frac{e}{s\sigma} ,

    which few members need: where they agree by chance, :math:`e^2/\sigma^2` has no bounds.

    Args:
        spread: errors on labels that trained nothing.
        method: ``crps`` or ``nll``.

    Returns:
        The factor.

    Raises:
        EnsembleError: there is no error to fit to, one is not finite, or the members agree in
            all of them.
    """
    if not len(spread.error):
        raise EnsembleError("expected errors to calibrate on, got none; raise data.num_val")
    if not (np.isfinite(spread.error).all() and np.isfinite(spread.std).all()):
        raise EnsembleError(
            "expected finite predictions, got NaN or infinity; a member's training has failed: "
            "lower globals.lr"
        )
    if (spread.std <= MIN_STD).all():
        raise EnsembleError(
            "expected members that differ, got members that all predict the same; draw labels for "
            "each (ensemble.resampling=tpainn_bootstrap)"
        )
    return METHODS[method](spread)


def _nll(spread: Spread) -> float:
    return float(np.sqrt(np.mean(spread.z**2)))


def _crps(spread: Spread) -> float:
    def score(log_factor: float) -> float:
        std = np.maximum(np.exp(log_factor) * spread.std, MIN_STD)
        z = spread.error / std
        return float(np.mean(std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - np.pi**-0.5)))

    start = np.log(max(np.median(np.abs(spread.z)), MIN_STD))  # not far from the minimum
    bounds = (start - np.log(WIDEST), start + np.log(WIDEST))
    return float(np.exp(minimize_scalar(score, bounds=bounds, method="bounded").x))


METHODS: dict[str, Callable[[Spread], float]] = {"crps": _crps, "nll": _nll}


def calibration_curve(spread: Spread) -> tuple[np.ndarray, np.ndarray]:
    r"""Share of the errors within the central interval of each probability.

    Args:
        spread: the errors.

    Returns:
        Expected shares :math:`p`, (201,), and observed ones, likewise: where
        :math:`|z| \le \Phi^{-1}((1+p)/2)`.
    """
    within = np.sort(2 * norm.cdf(np.abs(spread.z)) - 1)  # smallest p whose interval has it
    return LEVELS, np.searchsorted(within, LEVELS, side="right") / len(within)


def miscalibration_area(spread: Spread) -> float:
    """Area between the calibration curve and the diagonal.

    As defined by Kuleshov, Fenner and Ermon (arXiv:1807.00263) and by Tran et al. (Mach. Learn.:
    Sci. Technol. 1, 025006, 2020), here for central intervals.

    Args:
        spread: the errors.

    Returns:
        0 for perfect calibration, 0.5 at most.
    """
    expected, observed = calibration_curve(spread)
    return float(np.trapezoid(np.abs(observed - expected), expected))


def rank_correlation(spread: Spread) -> float | None:
    """Spearman's rank correlation of absolute errors with standard deviations; no factor moves it.

    Args:
        spread: the errors.

    Returns:
        -1 to 1; None where either does not vary.
    """
    found = np.abs(spread.error)
    if np.ptp(found) == 0 or np.ptp(spread.std) == 0:
        return None
    return float(spearmanr(found, spread.std).statistic)
