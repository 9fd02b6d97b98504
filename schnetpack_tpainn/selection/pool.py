"""Frames to choose from: structures alone, in order, each of them once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from scipy.spatial import cKDTree

from schnetpack_tpainn.data.check import CLOSEST_ANG, nearest_images, shortest_distances
from schnetpack_tpainn.data.store import key_values
from schnetpack_tpainn.errors import DataError, MDError
from schnetpack_tpainn.md.converter import check_structure

__all__ = ["Available", "bare", "check_frames", "find_available", "originals"]


def bare(frames: Sequence[Atoms]) -> list[Atoms]:
    """Structures without what was ever computed for them.

    Args:
        frames: structures, with labels or without.

    Returns:
        Copies (Å) whose ``info`` has the numbers and strings that a database keeps; ``energy``
        and the like are not among them.
    """
    return [
        Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc, info=key_values(a.info))
        for a in frames
    ]


def check_frames(frames: Sequence[Atoms], what: str) -> None:
    """Refuse frames that are no structures, or that no label is worth computing for.

    Args:
        frames: the frames (Å).
        what: what they are, for the message.

    Raises:
        DataError: a frame has no atoms, NaN, a cell without volume, or atoms closer than 0.3 Å,
            which training would refuse.
    """
    for i, atoms in enumerate(frames):
        try:
            check_structure(atoms.positions, atoms.cell.array, atoms.pbc)
        except MDError as error:
            raise DataError(f"frame {i} of {what}: {error}") from error
        arrays = (x[None] for x in (atoms.positions, atoms.cell.array, atoms.pbc))
        closest = shortest_distances(*arrays)[0]
        if closest < CLOSEST_ANG:
            raise DataError(
                f"expected atoms at least {CLOSEST_ANG} Å apart in {what}, got {closest:.3g} Å in "
                f"frame {i}: leave such frames out, and check the unit of length if all are so"
            )


def _kind(atoms: Atoms) -> tuple[Any, ...]:
    """What two frames must share for their distances to be comparable."""
    charge = atoms.info.get("total_charge", atoms.info.get("charge", 0))
    return atoms.get_chemical_formula("hill"), tuple(atoms.pbc.tolist()), charge


def _distances(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distances by pair of elements (P,), and a few of them; in Å.

    Lengths of the periodic cell vectors and of their sums stand at the end of both. The few are,
    for each pair, the shortest, the second, the fourth and so on: short ones differ most.
    """
    i, j = np.triu_indices(len(atoms), 1)
    vectors = atoms.positions[i] - atoms.positions[j]  # (P, 3)
    if atoms.pbc.any():
        vectors = nearest_images(vectors[None], atoms.cell.array[None], atoms.pbc[None])[0]
    lengths = np.linalg.norm(vectors, axis=1)
    first, second = np.sort([atoms.numbers[i], atoms.numbers[j]], axis=0)
    pair = 1000 * first + second
    order = np.lexsort((lengths, pair))
    lengths = lengths[order]
    _, start, size = np.unique(pair[order], return_index=True, return_counts=True)
    few = [
        s + 2**k - 1 for s, n in zip(start, size, strict=True) for k in range(int(n).bit_length())
    ]
    a, b, c = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    cell = np.linalg.norm([a, b, c, a + b, b + c, c + a], axis=1)
    return np.concatenate([lengths, cell]), np.concatenate([lengths[np.array(few, int)], cell])


def originals(frames: Sequence[Atoms], tolerance_ang: float, n_known: int = 0) -> np.ndarray:
    """For every frame the first one that it repeats.

    Two frames are the same if they have the same composition and charge (``info["total_charge"]``,
    else ``info["charge"]``, else 0) and, sorted within each pair of elements, the same distances.
    That holds whatever the order of the atoms, and for mirror images: their energies are equal and
    their forces mirrored.

    Args:
        frames: the frames.
        tolerance_ang: largest difference of two distances that counts as none, in Å.
        n_known: frames at the beginning that others can repeat though they repeat one themselves;
            any other frame that is a repetition has none of its own.

    Returns:
        Places in ``frames``, shape (M,): a frame's own if no earlier frame is the same.
    """
    found = np.arange(len(frames))
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for place, atoms in enumerate(frames):
        kinds.setdefault(_kind(atoms), []).append(place)
    for places in kinds.values():
        tree = cKDTree([_distances(frames[p])[1] for p in places])
        for k, place in enumerate(places):
            if found[place] != place and place >= n_known:
                continue
            near = tree.query_ball_point(tree.data[k], tolerance_ang, p=np.inf)
            later = [places[m] for m in near if m > k and found[places[m]] == places[m]]
            own = _distances(frames[place])[0] if later else None
            for other in later:
                if np.abs(_distances(frames[other])[0] - own).max() <= tolerance_ang:
                    found[other] = place
    return found


@dataclass(frozen=True)
class Available:
    """Frames of a pool that may be chosen.

    Attributes:
        index: their places in the pool, ascending.
        n_pool: frames of the pool.
        n_labelled: of those, frames that are labelled already.
        n_excluded: frames that are excluded.
        n_repeated: frames that repeat an earlier frame of the pool.
    """

    index: list[int]
    n_pool: int
    n_labelled: int
    n_excluded: int
    n_repeated: int

    def __str__(self) -> str:
        return (
            f"{len(self.index)} of {self.n_pool} frames to choose from ({self.n_labelled} are "
            f"labelled, {self.n_excluded} excluded, {self.n_repeated} repeat another)"
        )


def find_available(
    pool: Sequence[Atoms],
    labelled: Sequence[Atoms],
    excluded: Sequence[Atoms],
    tolerance_ang: float,
) -> Available:
    """Leave out frames that are labelled, excluded, or there twice.

    Args:
        pool: the pool.
        labelled: structures that have labels.
        excluded: structures never to choose, such as test frames.
        tolerance_ang: see :func:`originals`.

    Returns:
        The frames left.
    """
    n_labelled, n_known = len(labelled), len(labelled) + len(excluded)
    first = originals([*labelled, *excluded, *pool], tolerance_ang, n_known)[n_known:]
    own = first == np.arange(n_known, n_known + len(pool))
    return Available(
        index=np.flatnonzero(own).tolist(),
        n_pool=len(pool),
        n_labelled=int((first < n_labelled).sum()),
        n_excluded=int(((first >= n_labelled) & (first < n_known)).sum()),
        n_repeated=int(((first >= n_known) & ~own).sum()),
    )
