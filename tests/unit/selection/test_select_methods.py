"""Ways to choose points, on points made by hand."""

from itertools import combinations

import numpy as np
import pytest

from schnetpack_tpainn.selection.methods import (
    at_random,
    cluster_centres,
    farthest_points,
    highest,
)

NONE = np.zeros((0, 2))
LINE = np.array([[0.0, 0.0], [1.0, 0.0], [2.5, 0.0], [7.0, 0.0], [10.0, 0.0]])


def spread(points: np.ndarray, centres: np.ndarray) -> float:
    """Largest distance from a point to its nearest centre."""
    return np.linalg.norm(points[:, None] - centres, axis=2).min(1).max()


def test_the_farthest_points_of_a_line() -> None:
    places, scores = farthest_points(LINE, 5, LINE[:1] - 0.5)
    assert places == [4, 2, 3, 1, 0]
    nearest = [np.hypot(10.5, 0.5), np.hypot(3.0, 0.5), 3.0, 1.5, np.hypot(0.5, 0.5)]
    assert scores == pytest.approx(nearest)


@pytest.mark.parametrize("n_known", [0, 3])
def test_each_farthest_point_is_that_of_a_search_through_all(n_known: int) -> None:
    rng = np.random.default_rng(0)
    points, known = rng.normal(size=(40, 3)), rng.normal(size=(n_known, 3))
    places, scores = farthest_points(points, 12, known, seed=5)
    there = [*known]
    for k, (place, score) in enumerate(zip(places, scores, strict=True)):
        if k or n_known:
            distances = [min(np.linalg.norm(p - q) for q in there) for p in points]
            assert place == int(np.argmax(distances))
            assert score == pytest.approx(max(distances))
        else:
            assert score is None
        there.append(points[place])
    assert farthest_points(points, 5, known, seed=5)[0] == places[:5]


def test_the_farthest_points_cover_at_least_half_as_well_as_the_best() -> None:
    points = np.random.default_rng(1).normal(size=(14, 2))
    places, _ = farthest_points(points, 4, NONE, seed=0)
    best = min(spread(points, points[list(chosen)]) for chosen in combinations(range(14), 4))
    assert spread(points, points[places]) <= 2 * best


def test_equal_points_are_chosen_once_each() -> None:
    places, _ = farthest_points(np.zeros((4, 2)), 4, NONE, seed=2)
    assert sorted(places) == [0, 1, 2, 3]


def blobs() -> np.ndarray:
    """Three groups of 9, 6 and 3 points; the first of each is its centre."""
    rng = np.random.default_rng(3)
    groups = []
    for centre, n in (([0, 0], 9), ([20, 0], 6), ([0, 20], 3)):
        off = rng.normal(size=(n - 1, 2))
        groups.append(np.vstack([np.zeros((1, 2)), off - off.mean(0)]) + centre)
    return np.vstack(groups)


def test_centres_of_clusters_come_largest_cluster_first() -> None:
    places, scores = cluster_centres(blobs(), 3, NONE, seed=0)
    assert places == [0, 9, 15]
    assert scores == pytest.approx([9 / 18, 6 / 18, 3 / 18])


def test_a_cluster_with_a_labelled_point_is_taken() -> None:
    places, _ = cluster_centres(blobs(), 2, np.array([[20.1, 0.1]]), seed=0)
    assert places == [0, 15]


@pytest.mark.parametrize("n", [1, 5, 18])
@pytest.mark.parametrize("n_known", [0, 4])
def test_clusters_give_as_many_points_as_asked_for(n: int, n_known: int) -> None:
    points = np.vstack([blobs()[:9], np.zeros((9, 2))])  # half of them equal: clusters go empty
    known = np.random.default_rng(4).normal(size=(n_known, 2))
    places, scores = cluster_centres(points, n, known, seed=1)
    assert len(set(places)) == len(scores) == n
    assert cluster_centres(points, n, known, seed=1) == (places, scores)


def test_the_highest_scores_come_first_and_ties_in_order() -> None:
    assert highest(np.array([1.0, 3.0, 2.0, 3.0]), 3) == ([1, 3, 2], [3.0, 3.0, 2.0])


def test_random_choices_differ_by_seed_and_nest() -> None:
    places, scores = at_random(50, 20, seed=1)
    assert len(set(places)) == 20
    assert scores == [None] * 20
    assert at_random(50, 7, seed=1)[0] == places[:7]
    assert at_random(50, 20, seed=2)[0] != places
