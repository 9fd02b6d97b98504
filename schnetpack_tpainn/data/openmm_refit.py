"""An OpenMM force field's own parameters, fitted to few labels."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from scipy.optimize import least_squares
from tqdm.auto import tqdm

from schnetpack_tpainn.data.openmm import OpenMMForceField
from schnetpack_tpainn.data.openmm_parameters import Parameters
from schnetpack_tpainn.data.refit import ENERGY_WEIGHT_PER_ANG, check_settings, errors_mev
from schnetpack_tpainn.data.ridge import beyond_chance, fit_ridge
from schnetpack_tpainn.errors import DataError, LabelError
from schnetpack_tpainn.files import write_json, write_text

__all__ = ["OpenMMRefit", "refit_openmm"]

log = logging.getLogger(__name__)

WIDTH = 0.3  # of the prior on the logarithm of a factor
LARGEST = 2.0  # factor
STEP = 1e-3  # of a derivative by the logarithm of a factor
TOLERANCE = 1e-4  # of the minimum and its place
FAILED = 1e3  # residual where a force field cannot be evaluated


@dataclass(frozen=True)
class OpenMMRefit:
    """A force field with other parameters.

    Attributes:
        xml: OpenMM's force-field file.
        summary: errors in cross-validation in meV and meV/Å, whether the fit is used, and every
            parameter before and after.
    """

    xml: str
    summary: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write the force field, and ``<name>.refit.json`` with the summary beside it.

        Args:
            path: XML file.
        """
        write_json(path.with_suffix(".refit.json"), self.summary)
        write_text(path, self.xml)


def refit_openmm(
    frames: Sequence[Atoms],
    model: str | Sequence[str] = "iamoeba",
    topology: str | None = None,
    cutoff_ang: float | None = None,
    folds: int | None = None,
    platform: str = "CPU",
) -> OpenMMRefit:
    r"""Fit a force field's own parameters to labels.

    Bonds, angles, torsions, Lennard-Jones (or Halgren's) parameters and polarizabilities are
    multiplied by factors :math:`e^{p_k}`, all charges and multipoles by one, so that molecules
    keep their charges. Least squares of forces and energies, but for one constant of all labels,
    :math:`\min_p |r(p)|^2 / s^2 + |p|^2 / 0.3^2`, with the variance :math:`s^2` of the residuals at
    a first minimum: what labels do not determine stays. The fit is used if in cross-validation,
    linearised at the minimum, the squares of the forces' errors are smaller than without, by
    Student's t over the folds at 95 %; else the force field stays as it is, with a warning.

    Args:
        frames: labelled structures (Å, eV, eV/Å) of equal composition.
        model: as for :class:`~schnetpack_tpainn.data.openmm.OpenMMForceField`, one file.
        topology: PDB file for other liquids than water.
        cutoff_ang: cutoff of pair terms in Å; None: what fits into the cell.
        folds: folds of the cross-validation; at most ten when None.
        platform: OpenMM's platform.

    Returns:
        The force field.

    Raises:
        DataError: there are fewer than two labels, one without energy or forces, or several
            compositions; the force field is in several files, or has none of these parameters or
            more than 200.
        LabelError: OpenMM is not installed, or cannot compute the labels' structures.
    """
    _check_labels(frames)
    _, folds = check_settings((0,), folds, len(frames))
    problem = _Problem(frames, Parameters(model), topology, cutoff_ang, platform)
    with tqdm(desc="fitting parameters", unit=" evaluations") as progress:
        before = problem.residuals(np.zeros(problem.n))
        best, ridge = problem.solve(before, progress)
    used, errors = problem.cross_validation(before, best, ridge, folds)
    if not used:
        log.warning(
            "the refitted parameters predict labels that they have not seen no better than the "
            "force field as it is: they are not used"
        )
    factors = np.exp(best.x) if used else np.ones(problem.n)
    summary = {
        "model": model if isinstance(model, str) else list(model),
        "cutoff_ang": cutoff_ang,
        "used": used,
        "n_labels": len(frames),
        "folds": folds,
        "cross_validation_mev": errors,
        "parameters": problem.parameters.changes(factors),
    }
    return OpenMMRefit(problem.parameters.xml(factors), summary)


def _check_labels(frames: Sequence[Atoms]) -> None:
    found = sorted({atoms.get_chemical_formula() for atoms in frames})
    if len(found) > 1:
        raise DataError(
            f"expected labels of one composition, got {', '.join(found[:3])}; fit to one of them"
        )
    for k, atoms in enumerate(frames):
        results = {} if atoms.calc is None else atoms.calc.results
        if "energy" not in results or "forces" not in results:
            raise DataError(
                f"expected an energy and forces in every label, label {k} has none; label it, or "
                "leave it out"
            )


class _Problem:
    """Residuals of labels: weighted energies, then forces in eV/Å."""

    def __init__(
        self,
        frames: Sequence[Atoms],
        parameters: Parameters,
        topology: str | None,
        cutoff_ang: float | None,
        platform: str,
    ) -> None:
        self.frames, self.parameters, self.n = frames, parameters, len(parameters.names)
        self.options: dict[str, Any] = {
            "topology": topology,
            "cutoff_ang": cutoff_ang,
            "platform": platform,
        }
        self.weight = ENERGY_WEIGHT_PER_ANG / np.sqrt(len(frames[0]))
        places = np.arange(len(frames))
        self.label = np.concatenate([places, np.repeat(places, 3 * len(frames[0]))])  # of a row
        self.target = self._weighted([a.calc.results for a in frames])

    def _weighted(self, results: Sequence[Any]) -> np.ndarray:
        energies = np.array([found["energy"] for found in results])
        forces = [np.ravel(found["forces"]) for found in results]
        return np.concatenate([self.weight * (energies - energies.mean()), *forces])

    def residuals(self, p: np.ndarray) -> np.ndarray:
        """Labels less the force field, whose factors are exp(p)."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.xml"
            path.write_text(self.parameters.xml(np.exp(p)), "utf-8")
            engine = OpenMMForceField([str(path)], **self.options)
            found = []
            for atoms in self.frames:
                engine.calculate(atoms, ["energy", "forces"])
                found.append(engine.results)
        return self.target - self._weighted(found)

    def solve(self, before: np.ndarray, progress: Any) -> tuple[Any, float]:
        """The minimum, with its Jacobian, and the ridge, of the variance at a first minimum."""
        ridge, start = float((before**2).mean()) / WIDTH**2, np.zeros(self.n)

        def rows(p: np.ndarray, ridge: float) -> np.ndarray:
            progress.update()
            try:
                found = self.residuals(p)
            except LabelError:
                if not p.any():
                    raise
                found = np.full(len(before), FAILED)
            return np.concatenate([found, np.sqrt(ridge) * p])

        def slopes(p: np.ndarray, ridge: float) -> np.ndarray:
            here, moves = rows(p, ridge), STEP * np.eye(self.n)
            return np.stack([(rows(p + move, ridge) - here) / STEP for move in moves], axis=1)

        for last in (False, True):
            best = least_squares(
                rows,
                start,
                slopes,
                bounds=(-np.log(LARGEST), np.log(LARGEST)),
                x_scale="jac",
                ftol=TOLERANCE,
                xtol=TOLERANCE,
                args=(ridge,),
            )
            if not last:
                start, ridge = best.x, float((best.fun[: len(before)] ** 2).mean()) / WIDTH**2
        return best, ridge

    def cross_validation(
        self, before: np.ndarray, best: Any, ridge: float, folds: int
    ) -> tuple[bool, dict[str, Any]]:
        """Whether forces are predicted better, and the errors of labels left out."""
        n, fold = len(self.frames), self.label % folds
        after = self.left_out(best, ridge, fold)
        used = beyond_chance(before[n:], after[n:], fold[n:])
        before = self.without_own_constant(before, fold)
        return used, {"before": self.errors(before), "after": self.errors(after)}

    def left_out(self, best: Any, ridge: float, fold: np.ndarray) -> np.ndarray:
        """Residuals of labels predicted without their folds, linearised at the minimum."""
        n, rows = len(self.frames), len(self.label)
        free = np.zeros((rows, 1))
        free[:n] = 1 / np.sqrt(n)
        x, y = -best.jac[:rows], best.fun[:rows] - best.jac[:rows] @ best.x
        folds = [np.flatnonzero(fold == k) for k in range(fold.max() + 1)]
        return fit_ridge(x, y, free, folds, [ridge / rows]).left_out

    def without_own_constant(self, residuals: np.ndarray, fold: np.ndarray) -> np.ndarray:
        """Residuals whose energies' constant is that of the other folds."""
        n, out = len(self.frames), residuals.copy()
        for k in range(fold.max() + 1):
            own = fold[:n] == k
            out[:n][own] -= residuals[:n][~own].mean()
        return out

    def errors(self, residuals: np.ndarray) -> dict[str, float]:
        """Errors in meV and meV/Å."""
        n = len(self.frames)
        return errors_mev(residuals[:n] / self.weight, residuals[n:])
