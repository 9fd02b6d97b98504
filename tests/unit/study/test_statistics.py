"""Statistics of a study against numbers made by hand."""

import math

import pytest

from schnetpack_tpainn.errors import StudyError
from schnetpack_tpainn.study.statistics import (
    geometric_mean,
    labels_saved,
    paired_ratio,
    steps_to_reach,
)


def test_geometric_mean_and_interval_by_hand():
    # logarithms 1, 2, 3: mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.302653
    found = geometric_mean([math.e, math.e**2, math.e**3])
    half = 4.302653 / math.sqrt(3)
    assert found.mean == pytest.approx(math.e**2)
    assert found.low == pytest.approx(math.exp(2 - half), rel=1e-5)
    assert found.high == pytest.approx(math.exp(2 + half), rel=1e-5)


def test_interval_of_equal_values_has_no_width():
    found = geometric_mean([7.0, 7.0])
    assert (found.low, found.mean, found.high) == pytest.approx((7.0, 7.0, 7.0))


@pytest.mark.parametrize("values", [[1.0], []])
def test_interval_needs_two_seeds(values):
    with pytest.raises(StudyError, match="two seeds or more"):
        geometric_mean(values)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_errors_must_be_positive_and_finite(bad):
    with pytest.raises(StudyError, match="positive, finite"):
        geometric_mean([1.0, bad])


def test_ratio_pairs_the_seeds():
    # both seeds have the ratio 4, though the errors differ by a factor of 100
    found = paired_ratio({0: 400.0, 1: 4.0}, {1: 1.0, 0: 100.0})
    assert (found.low, found.mean, found.high) == pytest.approx((4.0, 4.0, 4.0))
    assert paired_ratio({0: 2.0, 1: 8.0}, {0: 1.0, 1: 1.0}).mean == pytest.approx(4.0)


def test_ratio_refuses_other_seeds():
    with pytest.raises(StudyError, match="same seeds"):
        paired_ratio({0: 1.0, 1: 1.0}, {0: 1.0, 2: 1.0})


def test_labels_saved_interpolates_in_logarithms():
    reference = {10: 100.0, 1000: 1.0}  # error = 1000 / labels
    found = {s.n_train: s for s in labels_saved(reference, {10: 10.0, 100: 5.0})}
    assert found[10].equivalent == pytest.approx(100.0)
    assert found[10].factor == pytest.approx(10.0)
    assert found[100].equivalent == pytest.approx(200.0)
    assert found[100].bound == "exact"


def test_labels_saved_does_not_extrapolate():
    better, worse = labels_saved({10: 100.0, 100: 50.0}, {10: 20.0, 100: 200.0})
    assert (better.bound, better.equivalent) == ("at least", 100.0)
    assert (worse.bound, worse.equivalent) == ("at most", 10.0)


def test_labels_saved_ignores_scatter_of_the_reference():
    # the rise at 100 labels is scatter: the error of 50 is first reached with 30
    (found,) = labels_saved({10: 100.0, 30: 50.0, 100: 60.0, 300: 10.0}, {10: 50.0})
    assert found.equivalent == pytest.approx(30.0)


def test_steps_to_reach():
    assert steps_to_reach([10, 20, 30], [5.0, 3.0, 1.0], 3.0) == 20
    assert steps_to_reach([10, 20], [5.0, 3.0], 1.0) is None
    assert steps_to_reach([10, 20], [math.nan, 1.0], 2.0) == 20
