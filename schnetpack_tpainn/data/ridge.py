"""Ridge regression whose strength leaves out whole groups of rows, in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

__all__ = ["RidgeFit", "beyond_chance", "fit_ridge"]

STRENGTHS = (np.inf, *np.logspace(-11, 3, 29))  # per row
CONFIDENCE = 0.95


@dataclass(frozen=True)
class RidgeFit:
    """A ridge regression and what it predicts for rows that it has not seen.

    Attributes:
        coefficients: of the columns, shape (P,).
        strength: of the ridge, per row; infinite if nothing predicts better than no column.
        rank: number of independent columns.
        left_out: residual of each row, predicted without its fold, shape (R,).
        left_out_before: the same without any column.
    """

    coefficients: np.ndarray
    strength: float
    rank: int
    left_out: np.ndarray
    left_out_before: np.ndarray


def fit_ridge(
    x: np.ndarray,
    y: np.ndarray,
    free: np.ndarray,
    folds: Sequence[np.ndarray],
    strengths: Sequence[float] = STRENGTHS,
) -> RidgeFit:
    r"""Least squares with a penalty whose strength is chosen by cross-validation.

    .. math:: \min_{c, b} \; |y - X c - B b|^2 + R \lambda |c|^2

    A ridge is a linear smoother, :math:`\hat y = H y`, so that the residuals of rows k that the
    fit has not seen follow from those it has seen, :math:`(1 - H_{kk})^{-1} (y - \hat y)_k`, and
    one singular value decomposition serves all folds and strengths (Hastie, Tibshirani and
    Friedman, The Elements of Statistical Learning, 2nd ed., section 7.10). The strength with the
    least mean square is taken; an infinite one, without a column, is among the choices.

    Args:
        x: columns :math:`X` that are penalised alike, shape (R, P).
        y: values, shape (R,).
        free: columns :math:`B` that are not penalised: orthonormal, each without overlap of its
            rows with another's, shape (R, B). One that a fold holds whole is fitted to it.
        folds: rows of each fold; each row is in one.
        strengths: :math:`\lambda` to choose from.

    Returns:
        The fit.
    """
    y = y - free @ (free.T @ y)
    u, s, vt = np.linalg.svd(x - free @ (free.T @ x), full_matrices=False)
    kept = s > s.max(initial=0.0) * max(x.shape) * np.finfo(float).eps
    u, s, vt = u[:, kept], s[kept], vt[kept]
    projected = u.T @ y
    before = _left_out(y, u, np.zeros(len(s)), free, folds)
    best, strength, chosen = before, np.inf, np.zeros(len(s))
    least = np.inf
    for candidate in strengths:
        share = s**2 / (s**2 + len(y) * candidate)
        found = _left_out(y - u @ (share * projected), u, share, free, folds)
        if found @ found < least:
            least, best, strength, chosen = float(found @ found), found, float(candidate), share
    return RidgeFit(vt.T @ (chosen * projected / s), strength, len(s), best, before)


def beyond_chance(before: np.ndarray, after: np.ndarray, fold: np.ndarray) -> bool:
    """Whether squares of errors are smaller, by Student's t of the folds' means at 95 %.

    Args:
        before: errors, shape (R,).
        after: errors that are hoped to be smaller, shape (R,).
        fold: fold of each row, from 0, shape (R,).

    Returns:
        True if so.
    """
    means = np.bincount(fold, before**2 - after**2) / np.bincount(fold)
    bound = student_t.ppf(CONFIDENCE, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    return bool(means.mean() > bound)


def _left_out(
    residual: np.ndarray,
    u: np.ndarray,
    share: np.ndarray,
    free: np.ndarray,
    folds: Sequence[np.ndarray],
) -> np.ndarray:
    """Residuals of rows predicted without their folds, shape (R,)."""
    out = np.empty_like(residual)
    for rows in folds:
        own, basis = u[rows], free[rows]
        basis = basis[:, (basis**2).sum(0) < 1 - 1e-9]  # the others are not determined without it
        hat = (own * share) @ own.T + basis @ basis.T
        out[rows] = np.linalg.solve(np.eye(len(rows)) - hat, residual[rows])
    return out
