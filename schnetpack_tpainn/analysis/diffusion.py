"""Self-diffusion from mean squared displacements, with kinisi."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from ase.units import _k as boltzmann  # J/K

from schnetpack_tpainn.analysis.statistics import engine
from schnetpack_tpainn.errors import AnalysisError

__all__ = [
    "FiniteSize",
    "SelfDiffusion",
    "finite_size",
    "self_diffusion",
    "yeh_hummer_correction",
]

XI = 2.837297  # of a cubic box
N_EARLY, N_FITTED = 12, 20  # time lags before and in the fit
UNIT = 1e-8  # m²/s in Å²/ps
WATER_MPA_S = 0.89  # at 298 K, experiment


@dataclass(frozen=True)
class SelfDiffusion:
    """Self-diffusion coefficient.

    Attributes:
        n_particles: particles that were followed.
        d_m2_per_s: coefficient in m²/s, mean of the posterior.
        error_m2_per_s: its standard deviation in m²/s.
        interval_m2_per_s: 95 % credible interval in m²/s.
        fit_from_ps: shortest time lag of the fit in ps.
        intercept_ang2: mean squared displacement that the fit has at lag 0, in Å².
        lag_ps: time lags in ps, up to half the trajectory, shape (lags,).
        msd_ang2: mean squared displacements in Å², shape (lags,).
        msd_error_ang2: their standard errors in Å², shape (lags,).
    """

    n_particles: int
    d_m2_per_s: float
    error_m2_per_s: float
    interval_m2_per_s: tuple[float, float]
    fit_from_ps: float
    intercept_ang2: float
    lag_ps: np.ndarray
    msd_ang2: np.ndarray
    msd_error_ang2: np.ndarray

    @property
    def fitted_ang2(self) -> np.ndarray:
        """The fit at all lags in Å², shape (lags,)."""
        return np.asarray(self.intercept_ang2 + 6 / UNIT * self.d_m2_per_s * self.lag_ps)

    @property
    def misfit(self) -> float:
        """Largest distance of a fitted displacement from the fit, in standard errors."""
        fitted = self.lag_ps >= self.fit_from_ps * (1 - 1e-9)
        away = np.abs(self.msd_ang2 - self.fitted_ang2) / self.msd_error_ang2
        return float(away[fitted].max())


@dataclass(frozen=True)
class FiniteSize:
    """Yeh-Hummer correction of the self-diffusion coefficients.

    Attributes:
        correction_m2_per_s: what the box takes, in m²/s; the same for every species.
        viscosity_mpa_s: viscosity that was used, in mPa s.
        temperature_k: temperature that was used, in K.
        length_ang: edge of the cubic box in Å.
        source: where the viscosity is from.
    """

    correction_m2_per_s: float
    viscosity_mpa_s: float
    temperature_k: float
    length_ang: float
    source: str


def self_diffusion(
    positions: np.ndarray, interval_fs: float, fit_from_ps: float = 2.0, seed: int = 0
) -> SelfDiffusion:
    r"""Self-diffusion coefficient :math:`D` from :math:`\langle r^2 \rangle = 6 D t + c`.

    kinisi samples slope and intercept given the mean squared displacements and the covariance that
    a random walk gives them (McCluskey, Coles, Morgan, J. Chem. Theory Comput. 21, 79, 2025), which
    a plain fit does not know. Lags end at half the trajectory: longer ones have few independent
    samples, and for liquids their covariance draws the line away from the displacements.

    Args:
        positions: continuous positions in Å, shape (T, K, 3); see
            :func:`~schnetpack_tpainn.analysis.unwrap`.
        interval_fs: time between frames in fs.
        fit_from_ps: shortest time lag of the fit in ps, where diffusion has begun.
        seed: seed of the sampling.

    Returns:
        The coefficient and what it was fitted to.

    Raises:
        AnalysisError: the trajectory is shorter than five times ``fit_from_ps``, or kinisi is not
            installed.
    """
    n_steps = len(positions) - 1
    start = max(1, int(np.ceil(1000 * fit_from_ps / interval_fs - 1e-9)))
    if not fit_from_ps > 0 or n_steps < 5 * start:
        raise AnalysisError(
            f"expected a trajectory at least five times as long as the lag from which is fitted "
            f"({fit_from_ps:g} ps), got {n_steps * interval_fs / 1000:g} ps; run longer, or lower "
            "--fit-from-ps if diffusion begins earlier"
        )
    early = np.geomspace(1, start, N_EARLY).round()
    fitted = np.linspace(start, n_steps // 2, N_FITTED).round()
    lags = np.unique(np.concatenate([early, fitted, [n_steps]])).astype(int)
    squares, slopes, intercepts = _sample(positions, lags, interval_fs / 1000, start, seed)
    samples = UNIT * slopes / 6
    low, high = np.percentile(samples, [2.5, 97.5])
    return SelfDiffusion(
        n_particles=positions.shape[1],
        d_m2_per_s=float(samples.mean()),
        error_m2_per_s=float(samples.std(ddof=1)),
        interval_m2_per_s=(float(low), float(high)),
        fit_from_ps=start * interval_fs / 1000,
        intercept_ang2=float(np.mean(intercepts)),
        lag_ps=squares.coords["time interval"].values,
        msd_ang2=squares.values,
        msd_error_ang2=squares.variances**0.5,
    )


def _sample(
    positions: np.ndarray, lags: np.ndarray, step_ps: float, start: int, seed: int
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Mean squared displacements (Å², a data array), samples of slope (Å²/ps), of intercept (Å²).

    kinisi's own parsers would wrap the positions and follow them once more. It takes the longest
    lag for the length of the trajectory; that one is dropped before the fit.
    """
    displacement, diffusion = engine("kinisi.displacement"), engine("kinisi.diffusion")
    sc = engine("scipp")
    index = sc.array(dims=["time interval"], values=lags)
    parsed = SimpleNamespace(
        displacements=sc.array(
            dims=["obs", "particle", "dimension"],
            values=positions[1:] - positions[:1],
            unit="angstrom",
        ),
        dt_index=index,
        dt=index * sc.scalar(step_ps, unit="ps"),
        dimensionality=3 * sc.units.dimensionless,
    )
    found = displacement.calculate_msd(parsed, progress=False)
    squares = found["da"]["time interval", : len(lags) - 1].copy()
    fit = diffusion.Diffusion(sc.DataGroup({**found, "da": squares}))
    outside = np.random.get_state()
    try:
        fit.bayesian_regression(
            start_dt=sc.scalar((start - 0.5) * step_ps, unit="ps"),
            progress=False,
            random_state=np.random.RandomState(seed),
        )
    finally:
        np.random.set_state(outside)
    return squares, fit.gradient.values, fit.intercept.values


def yeh_hummer_correction(temperature_k: float, length_ang: float, viscosity_mpa_s: float) -> float:
    r"""What a finite periodic box takes from the self-diffusion coefficient.

    .. math:: D_0 - D_\mathrm{PBC} = \frac{2.837297\, k_B T}{6 \pi \eta L}

    Yeh and Hummer, J. Phys. Chem. B 108, 15873 (2004); for a cubic box.

    Args:
        temperature_k: temperature :math:`T` in K.
        length_ang: edge :math:`L` of the box in Å.
        viscosity_mpa_s: shear viscosity :math:`\eta` of the liquid in mPa s.

    Returns:
        The correction in m²/s.

    Raises:
        AnalysisError: a value is not positive.
    """
    for name, value in (
        ("temperature", temperature_k),
        ("box length", length_ang),
        ("viscosity", viscosity_mpa_s),
    ):
        if not 0 < value < np.inf:
            raise AnalysisError(f"expected a {name} above 0, got {value}")
    drag = 6 * np.pi * (viscosity_mpa_s * 1e-3) * (length_ang * 1e-10)  # kg/s
    return float(XI * boltzmann * temperature_k / drag)


def finite_size(
    cell: np.ndarray, temperature_k: float, viscosity_mpa_s: float | None, is_water: bool
) -> FiniteSize:
    """Finite-size correction of a box.

    Args:
        cell: cell vectors in Å, shape (3, 3).
        temperature_k: temperature in K.
        viscosity_mpa_s: shear viscosity in mPa s; for water that of experiment at 298 K when None.
        is_water: whether the liquid is water.

    Returns:
        The correction and what it was made with.

    Raises:
        AnalysisError: the box is not cubic, or there is no viscosity.
    """
    length = float(np.linalg.norm(cell[0]))
    if not np.allclose(cell @ cell.T / length**2, np.eye(3), atol=1e-4):
        raise AnalysisError(f"expected a cubic box, for which {XI} holds, got another")
    source = "as given"
    if viscosity_mpa_s is None:
        if not is_water:
            raise AnalysisError(
                "expected the viscosity of the liquid, which is not water; give --viscosity-mpa-s"
            )
        viscosity_mpa_s, source = WATER_MPA_S, "experiment, water at 298 K"
    correction = yeh_hummer_correction(temperature_k, length, viscosity_mpa_s)
    return FiniteSize(correction, viscosity_mpa_s, temperature_k, length, source)
