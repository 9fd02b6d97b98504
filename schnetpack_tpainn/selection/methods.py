"""Ways to choose points: the farthest, centres of clusters, the highest score, at random."""

import warnings

import numpy as np
from scipy.cluster.vq import kmeans2

__all__ = ["Choice", "at_random", "cluster_centres", "farthest_points", "highest"]

ITERATIONS = 100
ROUND_OFF = 1e-6

# places in the order of choice, and the score of each where it has one
Choice = tuple[list[int], list[float | None]]


def farthest_points(points: np.ndarray, n: int, known: np.ndarray, seed: int = 0) -> Choice:
    """Choose one after the other the point farthest from those that are chosen or known.

    The traversal of Gonzalez (Theor. Comput. Sci. 38, 293, 1985): the largest distance from any
    point to the nearest chosen one is at most twice the smallest possible. The first n of a larger
    choice are the choice of n.

    Args:
        points: points to choose from, shape (M, D).
        n: how many, at most M.
        known: points that are there already, shape (K, D).
        seed: draws the first point where none is known.

    Returns:
        Places, and the distance of each to the nearest before it; none for a first point.
    """
    nearest = np.full(len(points), np.inf)
    for point in known:
        nearest = np.minimum(nearest, np.linalg.norm(points - point, axis=1))
    places: list[int] = []
    scores: list[float | None] = []
    while len(places) < n:
        if np.isinf(nearest).all():
            place, score = int(np.random.default_rng(seed).integers(len(points))), None
        else:
            place = int(nearest.argmax())
            score = float(nearest[place])
        places.append(place)
        scores.append(score)
        nearest = np.minimum(nearest, np.linalg.norm(points - points[place], axis=1))
        nearest[places] = -1.0  # never again, though others may be at distance 0
    return places, scores


def cluster_centres(points: np.ndarray, n: int, known: np.ndarray, seed: int = 0) -> Choice:
    """Choose the points nearest to the centres of clusters, the largest cluster first.

    K-means with as many clusters as there are known points and points to choose; a cluster with a
    known point is taken. Begun by k-means++ (Arthur and Vassilvitskii, 2007). Another n gives
    other clusters.

    Args:
        points: points to choose from, shape (M, D).
        n: how many, at most M.
        known: points that are there already, shape (K, D).
        seed: of the first centres.

    Returns:
        Places, and the share of the points that is in the cluster of each. Where clusters were
        left empty the farthest points make up the number, without a score.
    """
    everything = np.concatenate([points, known])
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # of points all alike
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        centres, cluster = kmeans2(
            everything,
            min(n + len(known), len(everything)),
            iter=ITERATIONS,
            minit="++",
            rng=np.random.default_rng(seed),
        )
    taken = set(cluster[len(points) :].tolist())
    groups = {
        c: np.flatnonzero(cluster[: len(points)] == c)
        for c in np.unique(cluster[: len(points)]).tolist()
        if c not in taken
    }
    best = {c: _nearest(points, own, centres[c]) for c, own in groups.items()}
    order = sorted(groups, key=lambda c: (-len(groups[c]), best[c]))[:n]
    places = [best[c] for c in order]
    scores: list[float | None] = [len(groups[c]) / len(points) for c in order]
    rest = np.setdiff1d(np.arange(len(points)), places)
    lacking = n - len(places)
    if lacking:
        there = np.concatenate([known, points[places]])
        more, _ = farthest_points(points[rest], lacking, there, seed)
        places += rest[more].tolist()
        scores += [None] * lacking
    return places, scores


def _nearest(points: np.ndarray, own: np.ndarray, centre: np.ndarray) -> int:
    """Place of the point nearest to a centre; of two alone, which are equally near, the first."""
    distance = np.linalg.norm(points[own] - centre, axis=1)
    return int(own[distance <= distance.min() + ROUND_OFF][0])


def highest(scores: np.ndarray, n: int) -> Choice:
    """Choose the points with the highest scores, earlier ones first where they are equal.

    Args:
        scores: score of each point, shape (M,).
        n: how many, at most M.

    Returns:
        Places and scores.
    """
    places = np.argsort(-scores, kind="stable")[:n]
    return places.tolist(), scores[places].tolist()


def at_random(n_points: int, n: int, seed: int = 0) -> Choice:
    """Choose at random; the first n of a larger choice are the choice of n.

    Args:
        n_points: points to choose from.
        n: how many, at most so many.
        seed: of the permutation.

    Returns:
        Places, without scores.
    """
    return np.random.default_rng(seed).permutation(n_points)[:n].tolist(), [None] * n
