"""Energy offsets per element, in float64."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from schnetpack_tpainn.errors import DataError

__all__ = ["Z_MAX", "bound_atoms", "element_values", "fit_offsets", "warn_of_unlabelled"]

log = logging.getLogger(__name__)

Z_MAX = 100  # length of SchNetPack's atomref tensors


def element_values(values: Mapping[str, float]) -> list[float]:
    """SchNetPack's list of one value per atomic number.

    Args:
        values: element symbol -> value.

    Returns:
        100 values, zero for elements that are not given.
    """
    table = [0.0] * Z_MAX
    for symbol, value in values.items():
        table[atomic_numbers[symbol]] = float(value)
    return table


def fit_offsets(counts: np.ndarray, values: np.ndarray, name: str = "energy") -> np.ndarray:
    """Value per element by least squares: the w that minimises |counts w - values|.

    Where the compositions do not determine w (all frames of one composition, say), it is the
    solution of smallest norm; it still reproduces the composition's mean exactly.

    Args:
        counts: atoms of each element per frame, or their fractions, shape (M, 100).
        values: property of each frame, shape (M,).
        name: name of the property, for the log.

    Returns:
        Value per atomic number, float64, shape (100,); zero for elements that do not occur.

    Raises:
        DataError: there are no frames.
    """
    if not len(values):
        raise DataError(f"expected training frames to fit {name} offsets to, got none")
    elements = np.flatnonzero(counts.sum(0))
    composition = counts[:, elements].astype(np.float64)  # (M, elements)
    fitted, _, rank, _ = np.linalg.lstsq(composition, values.astype(np.float64), rcond=None)
    rms = float(np.sqrt(np.mean((composition @ fitted - values) ** 2)))
    names = ", ".join(chemical_symbols[z] for z in elements)
    log.info(
        "%s offsets of %d elements (%s) from %d frames: rank %d%s; rms left %.4g",
        *(name, len(elements), names, len(values), rank),
        "" if rank == len(elements) else ", not unique: smallest-norm solution",
        rms,
    )
    offsets = np.zeros(Z_MAX)
    offsets[elements] = fitted
    return offsets


def bound_atoms(counts: np.ndarray, energies: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Energies of atoms in a molecule or solid: free atoms less the mean binding energy per atom.

    A guess for an element that no label has: molecules of QM9 with fluorine are 0.7 to 4 eV
    off with it, 6 to 10 eV with the free atom.

    Args:
        counts: atoms of each element per frame, shape (M, Z).
        energies: energy of each frame in eV, shape (M,).
        atoms: energies of free atoms in eV per atomic number, shape (Z,).

    Returns:
        eV per atomic number, float64, shape (Z,).
    """
    return np.asarray(atoms + np.mean((energies - counts @ atoms) / counts.sum(1)))


def warn_of_unlabelled(counts: np.ndarray, train: Sequence[int], others: Sequence[int]) -> None:
    """Say which elements of other frames no training frame has: their offsets are a guess.

    Args:
        counts: atoms of each element in every frame, shape (M, 100).
        train: training frames.
        others: validation and test frames.
    """
    here, there = (counts[np.array(part, dtype=int)] > 0 for part in (train, others))
    missing = np.flatnonzero(there.any(0) & ~here.any(0))
    if len(missing):
        names = ", ".join(f"{chemical_symbols[z]} ({there[:, z].sum()})" for z in missing)
        log.warning(
            "no training frame has %s, of which so many validation and test frames do: the "
            "energy offset of such an element is a guess (its free atom's less the mean binding "
            "energy per atom, where the data have free atoms); label a frame with each element",
            names,
        )
