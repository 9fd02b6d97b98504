"""A linear correction on top of a force field, fitted to few labels in closed form."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from schnetpack_tpainn.data.bondgraph import BondGraph
from schnetpack_tpainn.data.correction import Correction
from schnetpack_tpainn.data.internal import PLAIN, InternalTerms
from schnetpack_tpainn.data.ridge import RidgeFit, beyond_chance, fit_ridge
from schnetpack_tpainn.errors import DataError

__all__ = [
    "ENERGY_WEIGHT_PER_ANG",
    "Residuals",
    "check_settings",
    "errors_mev",
    "fit_correction",
]

log = logging.getLogger(__name__)

ENERGY_WEIGHT_PER_ANG = 3.0  # 1 eV of error counts as 3 eV/Å of one force component
PLAIN_SCALE = 3.0  # terms that any force field has are penalised 9 times less than the others
FOLDS = 10  # at most, where none are asked for
CHUNK = 8  # frames whose terms are differentiated at once
ROUNDING = 1e-9  # terms so many times smaller than the largest are zero
MEV = 1e3  # meV in an eV


@dataclass(frozen=True)
class Residuals:
    """Labels less a force field, of frames of one molecule.

    Attributes:
        graph: the molecule's bonds.
        indices: places of the frames among all labels, shape (M,).
        positions: Å, shape (M, n, 3).
        energies_ev: shape (M,).
        forces_ev_per_ang: shape (M, n, 3).
    """

    graph: BondGraph
    indices: np.ndarray
    positions: np.ndarray
    energies_ev: np.ndarray
    forces_ev_per_ang: np.ndarray


def check_settings(
    radii: Sequence[int], folds: int | None, n_labels: int
) -> tuple[tuple[int, ...], int]:
    """Settings of a fit, before anything is computed.

    Args:
        radii: how many bonds away the types of atoms look.
        folds: folds of the cross-validation; at most ten when None, each label alone if there are
            fewer.
        n_labels: number of labels.

    Returns:
        Radii, ascending, and folds.

    Raises:
        DataError: there are fewer labels than folds, or than two, or ``radii`` are none.
    """
    chosen = min(n_labels, FOLDS) if folds is None else folds
    if not 2 <= chosen <= n_labels:
        raise DataError(
            f"expected folds from 2 to the number of labels, {n_labels}, got {chosen}; give two "
            "labels at least, and leave folds at null"
        )
    if not radii or min(radii) < 0:
        raise DataError(f"expected radii of 0 bonds or more, got {list(radii)}; set [0, 1]")
    return tuple(sorted(set(radii))), chosen


def fit_correction(
    residuals: Sequence[Residuals], radii: Sequence[int] = (0, 1), folds: int | None = None
) -> Correction:
    r"""Fit a correction to labels less a force field.

    Energies :math:`x \cdot c + b` and forces :math:`-\nabla x \cdot c` are fitted together by
    :func:`~schnetpack_tpainn.data.ridge.fit_ridge`, with one free constant b per molecule. Columns
    are scaled to the same mean square, those of ``PLAIN`` terms to nine times as much. The
    correction is used if in cross-validation the squares of the forces' errors are smaller than
    without, by Student's t over the folds at 95 %; else it has
    constants alone, and a warning says so.

    Args:
        residuals: the labels by molecule.
        radii: how many bonds away the types of atoms look.
        folds: folds of the cross-validation; at most ten when None, each label alone if there are
            fewer.

    Returns:
        The correction.

    Raises:
        DataError: there are fewer labels than folds, or than two, or ``radii`` are none.
    """
    n = sum(len(r.indices) for r in residuals)
    radii, chosen = check_settings(radii, folds, n)
    design = _Design(residuals, radii)
    fit = fit_ridge(design.x, design.y, design.free, design.folds(chosen))
    errors = design.errors(fit)
    used = np.isfinite(fit.strength) and design.better(fit, chosen)
    if not used:
        log.warning(
            "the refitted force field predicts labels that it has not seen no better than the "
            "force field as it is: it is not used"
        )
    coefficients = fit.coefficients / design.scale if used else 0.0 * fit.coefficients
    energies = design.energies(coefficients)
    constants: dict[str, list[float]] = {r.graph.name: [] for r in residuals}
    for r, left in zip(residuals, energies, strict=True):
        constants[r.graph.name] += left.tolist()
    means = {name: float(np.mean(left)) for name, left in constants.items()}
    return Correction(
        radii=radii,
        coefficients=dict(zip(design.names, coefficients.tolist(), strict=True)) if used else {},
        references=design.references,
        constants_ev=means,
        elements_ev=_elements({r.graph.name: r.graph for r in residuals}, means),
        summary={
            "used": bool(used),
            "n_labels": n,
            "folds": chosen,
            "n_terms": len(design.names),
            "rank": fit.rank,
            "ridge": fit.strength if used else None,
            "cross_validation_mev": errors,
            "rms_change_of_labels_ev_per_ang": design.change(coefficients),
        },
    )


def errors_mev(energies_ev: np.ndarray, forces_ev_per_ang: np.ndarray) -> dict[str, float]:
    """Mean absolute errors, and the root mean square of forces, in meV and meV/Å.

    Args:
        energies_ev: errors of energies.
        forces_ev_per_ang: errors of forces, any shape.

    Returns:
        ``energy_mae``, ``forces_mae``, ``forces_rms``.
    """
    return {
        "energy_mae": MEV * float(np.abs(energies_ev).mean()),
        "forces_mae": MEV * float(np.abs(forces_ev_per_ang).mean()),
        "forces_rms": MEV * float(np.sqrt((forces_ev_per_ang**2).mean())),
    }


def _elements(graphs: dict[str, BondGraph], constants: dict[str, float]) -> dict[int, float]:
    """Constants as sums over elements, by least squares of least norm."""
    found = sorted({z for graph in graphs.values() for z in graph.numbers})
    counts = [[graphs[name].numbers.count(z) for z in found] for name in constants]
    values = np.linalg.lstsq(np.array(counts, float), list(constants.values()), rcond=None)[0]
    return dict(zip(found, values.tolist(), strict=True))


class _Design:
    """Rows of energies and forces, columns of terms; label k has one energy and its forces."""

    def __init__(self, residuals: Sequence[Residuals], radii: Sequence[int]) -> None:
        self.residuals = residuals
        terms = [InternalTerms(r.graph, radii) for r in residuals]
        self.references = _references(residuals, terms)
        names = {name for t in terms for level in t.names for name in level}
        self.names = sorted(names)
        place = {name: k for k, name in enumerate(self.names)}
        parts = [
            _terms(r, t, self.references, place) for r, t in zip(residuals, terms, strict=True)
        ]
        self.energy_terms = [x for x, _ in parts]  # per molecule (M, P)
        forces = [f.reshape(-1, len(place)) for _, f in parts]
        rows = np.concatenate([ENERGY_WEIGHT_PER_ANG * x for x, _ in parts] + forces)
        plain = np.array([name.startswith(PLAIN) for name in self.names])
        scale = np.sqrt((np.concatenate(forces) ** 2).mean(0)) / np.where(plain, PLAIN_SCALE, 1.0)
        seen = scale > ROUNDING * scale.max(initial=0.0)
        self.scale = np.where(seen, scale, np.inf)  # (P,)
        self.x = rows / self.scale
        energies = np.concatenate([r.energies_ev for r in residuals])
        self.n = len(energies)
        self.y = np.concatenate(
            [ENERGY_WEIGHT_PER_ANG * energies, *(r.forces_ev_per_ang.ravel() for r in residuals)]
        )
        self.label = np.concatenate(
            [r.indices for r in residuals]
            + [np.repeat(r.indices, 3 * len(r.graph.numbers)) for r in residuals]
        )
        molecules = np.repeat(
            [r.graph.name for r in residuals], [len(r.indices) for r in residuals]
        )
        named = np.unique(molecules)
        self.free = np.zeros((len(self.y), len(named)))
        self.free[: self.n] = molecules[:, None] == named
        self.free /= np.sqrt(self.free.sum(0))

    def folds(self, n: int) -> list[np.ndarray]:
        """Rows of each fold: every n-th label in the order of the training rows."""
        return [np.flatnonzero(self.label % n == k) for k in range(n)]

    def energies(self, coefficients: np.ndarray) -> Iterator[np.ndarray]:
        """What the terms leave of each molecule's energies in eV."""
        for r, x in zip(self.residuals, self.energy_terms, strict=True):
            yield r.energies_ev - x @ coefficients

    def change(self, coefficients: np.ndarray) -> float:
        """Rms of the components of the terms' forces in eV/Å."""
        forces = self.x[self.n :] @ np.where(np.isinf(self.scale), 0.0, coefficients * self.scale)
        return float(np.sqrt((forces**2).mean()))

    def better(self, fit: RidgeFit, n_folds: int) -> bool:
        """Whether forces are predicted better than without a correction, beyond chance."""
        before, after = fit.left_out_before[self.n :], fit.left_out[self.n :]
        return beyond_chance(before, after, self.label[self.n :] % n_folds)

    def errors(self, fit: RidgeFit) -> dict[str, dict[str, float]]:
        """Errors of labels predicted by the others, in meV and meV/Å."""
        found = {}
        for when, left in (("before", fit.left_out_before), ("after", fit.left_out)):
            found[when] = errors_mev(left[: self.n] / ENERGY_WEIGHT_PER_ANG, left[self.n :])
        return found


def _references(residuals: Sequence[Residuals], terms: Sequence[InternalTerms]) -> dict[str, float]:
    """Mean length in Å or cosine of every type of bond and angle in the labelled frames."""
    found: dict[str, list[np.ndarray]] = {}
    for r, t in zip(residuals, terms, strict=True):
        values = t.lengths_and_cosines(torch.tensor(r.positions)).numpy()  # (M, bonds + angles)
        for names in t.references:
            for k, name in enumerate(names):
                found.setdefault(name, []).append(values[:, k])
    return {name: float(np.concatenate(values).mean()) for name, values in found.items()}


def _terms(
    r: Residuals, terms: InternalTerms, references: dict[str, float], place: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of terms by name, shape (M, P), and their forces, shape (M, n, 3, P)."""
    columns = [torch.tensor([place[n] for n in names]) for names in terms.names]
    reference = terms.reference(references)

    def summed(positions: torch.Tensor) -> torch.Tensor:
        values = terms.values(positions, reference)
        out = values.new_zeros(len(place))
        for column in columns:
            out = out.index_add(0, column, values)
        return out

    positions = torch.tensor(r.positions, dtype=torch.float64)
    energies = torch.func.vmap(summed)(positions)
    gradient = torch.func.vmap(torch.func.jacfwd(summed), chunk_size=CHUNK)(positions)
    return energies.numpy(), -gradient.permute(0, 2, 3, 1).numpy()
