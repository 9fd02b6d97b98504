"""The frames of a pool to label next."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from schnetpack_tpainn.errors import SelectionError
from schnetpack_tpainn.md.potential import Potential
from schnetpack_tpainn.selection.evaluate import (
    REDUCTIONS,
    disagreement,
    embed,
    find_models,
    open_models,
)
from schnetpack_tpainn.selection.methods import (
    Choice,
    at_random,
    cluster_centres,
    farthest_points,
    highest,
)
from schnetpack_tpainn.selection.pool import Available, bare, check_frames, find_available

__all__ = ["METHODS", "Selection", "SelectionSettings", "select"]

# method -> fewest and most models
METHODS: dict[str, tuple[int, int | None]] = {
    "committee": (2, None),
    "farthest": (1, 1),
    "kmeans": (1, 1),
    "random": (0, None),
}


@dataclass(frozen=True)
class SelectionSettings:
    """What decides a choice beside pool and models.

    Attributes:
        n: frames to choose.
        method: ``committee``, ``farthest``, ``kmeans`` or ``random``.
        seed: of what is random: the first frame of ``farthest`` where nothing is labelled, the
            first centres of ``kmeans``, all of ``random``.
        reduce: ``max`` or ``mean`` over the atoms of a frame, for ``committee``.
        tolerance_ang: frames whose distances differ by less, in Å, are the same.
        batch_size: frames that go through a model at a time.
        device: ``cpu``, ``cuda`` ..., or ``auto``.

    Raises:
        SelectionError: one of them is not as said here.
    """

    n: int
    method: str = "kmeans"
    seed: int = 0
    reduce: str = "max"
    tolerance_ang: float = 0.01
    batch_size: int = 32
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SelectionError(f"expected a method of {', '.join(METHODS)}, got {self.method!r}")
        if self.reduce not in REDUCTIONS:
            raise SelectionError(f"expected to reduce by max or mean, got {self.reduce!r}")
        if self.n < 1 or self.batch_size < 1:
            raise SelectionError(
                f"expected one frame or more to choose, and at a time, got {self.n} and "
                f"{self.batch_size}"
            )
        if not 0 <= self.tolerance_ang < np.inf:
            raise SelectionError(f"expected a tolerance of 0 Å or more, got {self.tolerance_ang}")

    def check_models(self, n_models: int) -> None:
        """Refuse a number of models that the method cannot use.

        Args:
            n_models: how many there are.

        Raises:
            SelectionError: too few, or too many.
        """
        least, most = METHODS[self.method]
        if n_models < least or (most is not None and n_models > most):
            wanted = "two models or more" if most is None else f"{least} model"
            what = "whose forces it compares" if most is None else "in whose features it measures"
            raise SelectionError(
                f"expected {wanted} for method {self.method}, {what}, got {n_models}; give "
                f"trained models with --model, or choose another method"
            )


@dataclass(frozen=True)
class Selection:
    """Frames in the order of choice.

    Attributes:
        frames: the frames, without labels; their ``info`` has ``pool_index``, ``selection_method``
            and, where there is one, ``selection_score``.
        index: their places in the pool, from 0.
        scores: eV/Å (``committee``), distance to the nearest frame that is labelled or chosen
            before (``farthest``), share of the pool in the cluster (``kmeans``), None.
        available: what they were chosen from.
        points: available and labelled frames in the space of the representation, shape
            (M + K, D), where the method looks at them there.
    """

    frames: list[Atoms]
    index: list[int]
    scores: list[float | None]
    available: Available
    points: np.ndarray | None = None


def select(
    pool: Sequence[Atoms],
    settings: SelectionSettings,
    models: Sequence[str | Path] = (),
    labelled: Sequence[Atoms] = (),
    excluded: Sequence[Atoms] = (),
) -> Selection:
    """Choose the frames of a pool to label next.

    Labels are not read: neither those that frames of the pool may carry, nor any others. Frames
    that are labelled, excluded or repeated are left out.

    Args:
        pool: structures (Å).
        settings: how many, and by what.
        models: paths, see :func:`~schnetpack_tpainn.selection.evaluate.find_models`.
        labelled: structures that have labels already; ``farthest`` and ``kmeans`` keep away from
            them.
        excluded: structures never to choose, such as test frames.

    Returns:
        As many frames as asked for.

    Raises:
        SelectionError: the pool has not as many, or the number of models is not the method's.
        DataError: a frame is no structure.
        MDError: a model cannot be opened, or does not know an element.
    """
    sources = find_models(models) if METHODS[settings.method][0] else []
    settings.check_models(len(sources))
    for frames, what in ((pool, "the pool"), (labelled, "the labelled frames")):
        check_frames(frames, what)
    pool, labelled = bare(pool), bare(labelled)
    available = find_available(pool, labelled, excluded, settings.tolerance_ang)
    if settings.n > len(available.index):
        raise SelectionError(
            f"expected {settings.n} frames, got {available}; ask for fewer, or give a larger pool"
        )
    potentials = open_models(sources, settings.device)
    candidates = [pool[i] for i in available.index]
    numbers = {z for atoms in (*candidates, *labelled) for z in atoms.numbers.tolist()}
    for potential in potentials:
        potential.check_elements(numbers)
    (places, scores), points = _choose(candidates, labelled, settings, potentials)
    index = [available.index[place] for place in places]
    chosen = [
        _noted(pool[i], i, settings.method, score) for i, score in zip(index, scores, strict=True)
    ]
    return Selection(chosen, index, scores, available, points)


def _choose(
    candidates: list[Atoms],
    labelled: list[Atoms],
    settings: SelectionSettings,
    potentials: Sequence[Potential],
) -> tuple[Choice, np.ndarray | None]:
    n, seed = settings.n, settings.seed
    if settings.method == "random":
        return at_random(len(candidates), n, seed), None
    if settings.method == "committee":
        scores = disagreement(potentials, candidates, settings.reduce, settings.batch_size)
        return highest(scores, n), None
    points = embed(potentials[0], [*candidates, *labelled], settings.batch_size)
    own, known = np.split(points, [len(candidates)])
    method = {"farthest": farthest_points, "kmeans": cluster_centres}[settings.method]
    return method(own, n, known, seed), points


def _noted(atoms: Atoms, index: int, method: str, score: float | None) -> Atoms:
    frame = atoms.copy()
    frame.info.pop("selection_score", None)  # of an earlier selection
    frame.info |= {"pool_index": index, "selection_method": method}
    if score is not None:
        frame.info["selection_score"] = score
    return frame
