"""Statistics of a study: means over seeds, ratios, labels saved, steps saved.

Errors scatter by factors, so means and intervals are those of their logarithms: a geometric mean
with the interval of Student's t, over seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from schnetpack_tpainn.errors import StudyError

__all__ = ["Interval", "Saved", "geometric_mean", "labels_saved", "paired_ratio", "steps_to_reach"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: geometric mean.
        low: lower end.
        high: upper end.
    """

    mean: float
    low: float
    high: float

    def plain(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Saved:
    """Labels that the reference needs for the error that another strategy has.

    Attributes:
        n_train: labels of the other strategy.
        equivalent: labels of the reference at the same error, interpolated; where the reference's
            curve does not reach that error, its nearest end.
        bound: ``exact`` within the reference's curve, ``at least`` beyond its last point, ``at
            most`` before its first.
    """

    n_train: int
    equivalent: float
    bound: str

    @property
    def factor(self) -> float:
        """Labels of the reference over those of the other."""
        return self.equivalent / self.n_train

    def plain(self) -> dict[str, float | str]:
        """For JSON."""
        return {**asdict(self), "factor": self.factor}


def geometric_mean(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    r"""Mean over seeds, :math:`\exp(\bar x \pm t\, s / \sqrt n)` with :math:`x` the logarithms.

    Args:
        values: positive values, one per seed, (n,).
        confidence: coverage of the interval.

    Returns:
        The mean and its interval.

    Raises:
        StudyError: there are fewer than two values, or one is not positive and finite.
    """
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        raise StudyError(f"expected two seeds or more for an interval, got {len(x)}")
    if not (np.isfinite(x).all() and (x > 0).all()):
        raise StudyError(f"expected positive, finite errors, got {x.tolist()}; look into the runs")
    logs = np.log(x)
    t = stats.t.ppf((1 + confidence) / 2, len(x) - 1)
    half = t * logs.std(ddof=1) / np.sqrt(len(x))
    mean = logs.mean()
    return Interval(*(float(np.exp(v)) for v in (mean, mean - half, mean + half)))


def paired_ratio(reference: Mapping[int, float], other: Mapping[int, float]) -> Interval:
    """Error of the reference over that of another strategy, pairwise on the same labels.

    Args:
        reference: seed -> error.
        other: seed -> error, of the same seeds.

    Returns:
        Geometric mean of the ratios and its interval.

    Raises:
        StudyError: the seeds differ, or are fewer than two.
    """
    if reference.keys() != other.keys():
        raise StudyError(
            f"expected the same seeds for a ratio, got {sorted(reference)} and {sorted(other)}"
        )
    return geometric_mean([reference[seed] / other[seed] for seed in reference])


def labels_saved(reference: Mapping[int, float], other: Mapping[int, float]) -> list[Saved]:
    """Labels saved at equal error, linear in the logarithms between the reference's points.

    The reference's curve is made monotonic first (errors that rise with more labels are scatter):
    each point takes the lowest error so far. Nothing is extrapolated.

    Args:
        reference: number of labels -> error.
        other: number of labels -> error.

    Returns:
        One result for every number of labels of ``other``, ascending.
    """
    n = np.array(sorted(reference), dtype=float)
    errors = np.minimum.accumulate([reference[int(k)] for k in n])
    found = []
    for n_other, error in sorted(other.items()):
        if error > errors[0]:
            found.append(Saved(n_other, float(n[0]), "at most"))
        elif error < errors[-1]:
            found.append(Saved(n_other, float(n[-1]), "at least"))
        else:
            first = np.concatenate([[True], np.diff(errors) < 0])  # fewest labels of each error
            x, y = np.log(errors[first])[::-1], np.log(n[first])[::-1]
            found.append(Saved(n_other, float(np.exp(np.interp(np.log(error), x, y))), "exact"))
    return found


def steps_to_reach(steps: Sequence[int], errors: Sequence[float], target: float) -> int | None:
    """First validated step from which a run is as good as a target.

    Args:
        steps: validated steps, (T,).
        errors: validation errors, (T,).
        target: the error to reach.

    Returns:
        The step; None where the run never gets there.
    """
    reached = np.flatnonzero(np.asarray(errors, dtype=float) <= target)
    return int(steps[reached[0]]) if len(reached) else None
