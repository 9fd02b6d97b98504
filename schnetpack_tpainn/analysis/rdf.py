"""Radial distribution functions of pairs of elements, with freud."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.cell import Cell
from ase.data import chemical_symbols
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks
from tqdm import tqdm

from schnetpack_tpainn.analysis.molecules import MolecularTrajectory
from schnetpack_tpainn.analysis.statistics import block_error, blocks, engine
from schnetpack_tpainn.errors import AnalysisError

__all__ = ["Peak", "RadialDistribution", "half_height", "radial_distributions"]

LONGEST_ANG = 10.0  # default r_max in boxes that have room for more
SMOOTH_ANG = 0.05  # width of the Gaussian with which extrema are looked for, not measured
NOISE_ANG = 0.5  # width over which the errors, of few blocks, are averaged to judge a peak
WINDOW_ANG = 0.1  # a parabola is fitted so far to both sides of a peak
PROMINENCE = 0.1  # of a peak over its surroundings; half of it for a minimum


@dataclass(frozen=True)
class Peak:
    """First peak of a radial distribution function, and the shell below the minimum behind it.

    Attributes:
        position_ang: r of the peak in Å.
        position_error_ang: standard error over blocks in Å.
        height: g at the peak.
        height_error: standard error over blocks.
        minimum_ang: r of the first minimum in Å; None where there is none below r_max.
        coordination: atoms of the second element around one of the first, up to the minimum.
        coordination_error: standard error over blocks.
    """

    position_ang: float
    position_error_ang: float
    height: float
    height_error: float
    minimum_ang: float | None = None
    coordination: float | None = None
    coordination_error: float | None = None


@dataclass(frozen=True)
class RadialDistribution:
    """Partial radial distribution function of two elements.

    Attributes:
        pair: the elements, such as ``O-H``.
        r_ang: middles of the bins in Å, shape (bins,).
        g: the function, shape (bins,).
        error: standard error over blocks, shape (bins,).
        coordination: atoms of the second element within a bin's outer edge of one of the first,
            shape (bins,).
        first: first peak; None where none stands out.
    """

    pair: str
    r_ang: np.ndarray
    g: np.ndarray
    error: np.ndarray
    coordination: np.ndarray
    first: Peak | None


def half_height(cells: np.ndarray) -> float:
    """Largest distance that every direction of every cell has room for.

    Args:
        cells: cell vectors in Å, shape (T, 3, 3).

    Returns:
        Half the smallest height of a cell in Å.
    """
    return float(0.5 / np.linalg.norm(np.linalg.inv(cells), axis=1).max())


def radial_distributions(
    system: MolecularTrajectory,
    pairs: Sequence[tuple[str, str]],
    r_max_ang: float | None = None,
    bin_ang: float = 0.02,
    intramolecular: bool = False,
    n_blocks: int = 5,
) -> list[RadialDistribution]:
    r"""Partial radial distribution functions.

    .. math:: g_{AB}(r) = \Big\langle \frac{V\, n_{AB}(r)}{P_{AB}\, 4\pi r^2\, dr} \Big\rangle

    with the number :math:`n_{AB}` of pairs in a shell of a frame and the number :math:`P_{AB}` of
    all pairs that count. So an ideal gas has 1 in a box of any size.

    Args:
        system: the trajectory.
        pairs: elements A and B of each function.
        r_max_ang: largest distance in Å; half the box, at most 10 Å, when None.
        bin_ang: width of the bins in Å.
        intramolecular: count pairs within a molecule.
        n_blocks: blocks of the trajectory for the errors.

    Returns:
        One function per pair.

    Raises:
        AnalysisError: not periodic, an element or every pair of it absent, or ``r_max_ang`` out of
            range.
    """
    trajectory = system.trajectory
    volumes = trajectory.volumes  # (T,)
    edges = _edges(half_height(trajectory.cells), r_max_ang, bin_ang)
    parts = blocks(trajectory.n_frames, n_blocks)
    apart = np.arange(len(trajectory.numbers)) if intramolecular else system.part
    groups = [tuple(_atoms(trajectory.numbers, s) for s in pair) for pair in pairs]
    counts = _counts(system, groups, apart, edges)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    found = []
    for (a, b), (left, right), n in zip(pairs, groups, counts, strict=True):
        n_pairs = int((apart[left][:, None] != apart[right]).sum())
        if not n_pairs:
            raise AnalysisError(
                f"expected pairs {a}-{b} of different molecules, got none; count those within a "
                "molecule with --intramolecular"
            )
        g = n * volumes[:, None] / (n_pairs * shells)  # (T, bins)
        n_around = np.cumsum(n, axis=1) / len(left)
        g_blocks = np.array([g[part].mean(axis=0) for part in parts])
        n_blocks_around = np.array([n_around[part].mean(axis=0) for part in parts])
        middles = (edges[1:] + edges[:-1]) / 2
        mean, error = g.mean(axis=0), block_error(g_blocks)
        first = _first_peak(middles, mean, error, g_blocks, n_blocks_around)
        found.append(
            RadialDistribution(f"{a}-{b}", middles, mean, error, n_around.mean(axis=0), first)
        )
    return found


def _edges(room_ang: float, r_max_ang: float | None, bin_ang: float) -> np.ndarray:
    if r_max_ang is not None and not 0 < r_max_ang <= room_ang * (1 + 1e-6):
        raise AnalysisError(
            f"expected r_max of at most half the smallest height of the box, {room_ang:.2f} Å, as "
            f"further pairs would be counted in some directions only, got {r_max_ang:g} Å"
        )
    # freud wants less than half the box, and rounds to float32
    reach = min(r_max_ang or LONGEST_ANG, room_ang * (1 - 1e-5))
    if not 0 < bin_ang <= reach / 10:
        raise AnalysisError(f"expected bins of at most a tenth of {reach:.2f} Å, got {bin_ang:g} Å")
    return np.arange(int(reach / bin_ang) + 1) * bin_ang


def _atoms(numbers: np.ndarray, symbol: str) -> np.ndarray:
    """Atoms of an element."""
    if symbol not in chemical_symbols[1:]:
        raise AnalysisError(f"expected a pair of elements such as O-H, got {symbol} in one")
    atoms = np.flatnonzero(numbers == chemical_symbols.index(symbol))
    if not len(atoms):
        there = sorted({chemical_symbols[z] for z in numbers})
        raise AnalysisError(f"expected pairs of the elements {there}, got one with {symbol}")
    return atoms


def _counts(
    system: MolecularTrajectory,
    groups: Sequence[tuple[np.ndarray, ...]],
    apart: np.ndarray,
    edges: np.ndarray,
) -> list[np.ndarray]:
    """Ordered pairs per frame and bin, shape (T, bins), of each pair of groups."""
    freud = engine("freud")
    trajectory, r_max = system.trajectory, float(edges[-1])
    histogram = freud.density.RDF(bins=len(edges) - 1, r_max=r_max)
    counts = [np.zeros((trajectory.n_frames, len(edges) - 1)) for _ in groups]
    for t in tqdm(range(trajectory.n_frames), "pair distances", unit="frame", disable=None):
        cell = trajectory.cells[t]
        standard = Cell(cell).standard_form()[0].array  # freud's a lies along x, b in the xy plane
        scaled = trajectory.positions[t] @ np.linalg.inv(cell)
        points = (scaled - np.round(scaled)) @ standard
        box = freud.box.Box.from_matrix(standard.T)
        for (left, right), n in zip(groups, counts, strict=True):
            search = freud.locality.AABBQuery(box, points[right])
            pairs = search.query(points[left], {"r_max": r_max}).toNeighborList()
            i, j = left[pairs.query_point_indices], right[pairs.point_indices]
            pairs.filter(apart[i] != apart[j])
            histogram.compute((box, points[right]), points[left], neighbors=pairs)
            n[t] = histogram.bin_counts
    return counts


def _first_peak(
    r: np.ndarray, g: np.ndarray, error: np.ndarray, g_blocks: np.ndarray, around: np.ndarray
) -> Peak | None:
    """First peak and first minimum; extrema are looked for in a smoothed function."""
    smooth = gaussian_filter1d(g, SMOOTH_ANG / (r[1] - r[0]), mode="nearest")
    peaks = find_peaks(smooth, prominence=PROMINENCE)[0]
    noise = gaussian_filter1d(error, NOISE_ANG / (r[1] - r[0]), mode="nearest")
    peaks = peaks[smooth[peaks] > 1 + 5 * noise[peaks]]
    if not len(peaks):
        return None
    top = int(peaks[0])
    position, height = _vertex(r, g, top)
    single = np.array([_vertex(r, block, top) for block in g_blocks])  # (blocks, 2)
    errors = block_error(single)
    peak = (position, float(errors[0]), height, float(errors[1]))
    minima = find_peaks(-smooth[top:], prominence=PROMINENCE / 2)[0]
    if not len(minima):
        return Peak(*peak)
    low = top + int(minima[0])
    shell = around[:, low]
    return Peak(*peak, float(r[low]), float(shell.mean()), float(block_error(shell)))


def _vertex(r: np.ndarray, g: np.ndarray, top: int) -> tuple[float, float]:
    """Position and height of a peak by a parabola through the points around it."""
    window = np.flatnonzero(np.abs(r - r[top]) <= WINDOW_ANG + 1e-9)
    if len(window) > 3:
        x = r[window] - r[top]
        curvature, slope, level = np.polyfit(x, g[window], 2)
        if curvature < 0 and abs(slope / (2 * curvature)) <= WINDOW_ANG:
            return float(r[top] - slope / (2 * curvature)), float(level - slope**2 / 4 / curvature)
    highest = window[np.argmax(g[window])]
    return float(r[highest]), float(g[highest])
