"""Is a pretrained model a useful teacher for these labels? A judgement before the first step."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from schnetpack_tpainn.transfer.evaluate import MEV, Predictions
from schnetpack_tpainn.transfer.verdict import VERDICTS, findings

__all__ = ["UNJUDGED", "Diagnosis", "announce", "diagnose", "lines", "tables"]

log = logging.getLogger(__name__)

Rows = list[list[str]]

UNJUDGED = "not judged"
FAVOURABLE = "its forces point where the DFT forces point"
FOLLOWING = "its energies follow the DFT energies"
ENERGIES_ALONE = "the labels have no forces: judged by energies alone, a weaker ground"
FEW_ENERGIES = (
    "the labels have no forces, and too few energies to judge by once offsets per element are "
    "fitted: raise data.num_train"
)
TRIAL = "closeness alone is a poor guide: the real test is `tpainn-diagnose --trial`"
QUARTERS = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
TINY = 1e-12


@dataclass(frozen=True)
class Diagnosis:
    """What a pretrained model is worth on the training labels.

    Attributes:
        verdict: ``useful``, ``doubtful``, ``likely to hurt`` or ``not judged``.
        reasons: phrases that say why, and what to do.
        n_frames: labelled frames looked at.
        scale: factor that the alignment put on the model's energy.
        forces: of the model as pretrained, ``cosine`` (mean over atoms, weighted by the labelled
            force), ``correlation`` and ``slope`` (label over model) of the components, and
            ``ratio`` of the root-mean-square label to that of the model; ``mae_mev_per_ang`` of the
            aligned model, and ``zero_mae_mev_per_ang`` of zero forces. Empty on energies alone.
        energy: ``correlation`` per atom of what offsets per element leave unexplained, ``ratio`` of
            the labels' to the model's, and the degrees of ``freedom`` (None with fewer than two);
            ``mae_mev`` of the aligned model, and ``composition_mae_mev`` of offsets alone.
        by_element: element -> ``n_atoms``, ``cosine`` and ``mae_mev_per_ang``; likewise.
        by_magnitude: quarters of the atoms by labelled force ``up_to_ev_per_ang``: the same.
        coverage: see :func:`~schnetpack_tpainn.transfer.coverage.coverage`.
    """

    verdict: str
    reasons: list[str]
    n_frames: int
    scale: float
    forces: dict[str, float]
    energy: dict[str, Any]
    by_element: dict[str, dict[str, float]]
    by_magnitude: list[dict[str, float]]
    coverage: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        """The diagnosis for checkpoint and report; what rests on forces is absent without them."""
        forces = {"forces", "by_element", "by_magnitude"} if not self.forces else ()
        return {key: value for key, value in asdict(self).items() if key not in forces}


def diagnose(
    pretrained: Predictions,
    aligned: Predictions,
    scale: float,
    coverage: Mapping[str, Any],
    unfit: str | None = None,
) -> Diagnosis:
    """Judge a pretrained model by its predictions for the training labels.

    The network stands for the force field that it learned, which is not evaluated. On energies
    alone the judgement rests on what offsets per element leave of them, and says so.

    Args:
        pretrained: of the model as it was copied.
        aligned: of the same frames after the alignment.
        scale: factor that the alignment put on the model's energy.
        coverage: what :func:`~schnetpack_tpainn.transfer.coverage.coverage` found.
        unfit: why the predictions tell nothing of the teacher, where they do not.

    Returns:
        The diagnosis.
    """
    energy = _energy(pretrained, aligned)
    forces: dict[str, float] = {}
    by_element: dict[str, dict[str, float]] = {}
    by_magnitude: list[dict[str, float]] = []
    f, label, error = pretrained.forces, pretrained.forces_label, aligned.forces_error
    if f is not None and label is not None and error is not None:
        forces = _forces(f, label, error)
        for z in pretrained.numbers.unique().tolist():
            here = pretrained.numbers == z
            by_element[chemical_symbols[z]] = _group(f[here], label[here], error[here])
        by_magnitude = _quarters(f, label, error)
    unfit = unfit or _unfit(forces, energy)
    if unfit is None:
        found = findings(forces, energy, by_element, coverage)
        verdict = max((f.verdict for f in found), key=VERDICTS.index, default=VERDICTS[0])
        reasons = [f.sentence for f in found] or [FAVOURABLE if forces else FOLLOWING]
        reasons += [] if forces else [ENERGIES_ALONE]
    else:
        verdict, reasons = UNJUDGED, [unfit]
    return Diagnosis(
        verdict,
        [*reasons, TRIAL],
        len(pretrained.energy),
        scale,
        forces,
        energy,
        by_element,
        by_magnitude,
        dict(coverage),
    )


def _unfit(forces: Mapping[str, float], energy: Mapping[str, Any]) -> str | None:
    """Why the labels cannot judge a teacher, if they cannot."""
    if forces:
        zero = forces["zero_mae_mev_per_ang"] < 1.0
        return "the labelled forces are all but zero" if zero else None
    if energy["correlation"] is None:
        return FEW_ENERGIES
    same = energy["composition_mae_mev"] < 1.0
    return "offsets per element explain all but 1 meV of the labelled energies" if same else None


def _forces(f: Tensor, label: Tensor, error: Tensor) -> dict[str, float]:
    return {
        "cosine": _cosine(f, label),
        "correlation": _correlation(f.flatten(), label.flatten()),
        "slope": ((f * label).sum() / f.square().sum().clamp(min=TINY)).item(),
        "ratio": (label.norm() / f.norm().clamp(min=TINY)).item(),
        "mae_mev_per_ang": _mae_mev(error),
        "zero_mae_mev_per_ang": _mae_mev(label),
    }


def _energy(pretrained: Predictions, aligned: Predictions) -> dict[str, Any]:
    n_atoms = pretrained.n_atoms
    x = pretrained.composition / n_atoms[:, None]  # (M, zmax)
    explained = x @ torch.linalg.pinv(x)  # (M, M)
    freedom = len(x) - int(torch.linalg.matrix_rank(x))
    rest = [
        e - explained @ e for e in (pretrained.energy / n_atoms, aligned.energy_label / n_atoms)
    ]
    known = freedom >= 2
    return {
        "correlation": _correlation(*rest) if known else None,
        "ratio": (rest[1].norm() / rest[0].norm().clamp(min=TINY)).item() if known else None,
        "freedom": freedom,
        "mae_mev": _mae_mev(aligned.energy - aligned.energy_label),
        "composition_mae_mev": _mae_mev(rest[1] * n_atoms) if known else None,
    }


def _group(f: Tensor, label: Tensor, error: Tensor) -> dict[str, float]:
    """How well the forces on some atoms are met."""
    return {
        "n_atoms": len(label),
        "cosine": _cosine(f, label),
        "mae_mev_per_ang": _mae_mev(error),
    }


def _quarters(f: Tensor, label: Tensor, error: Tensor) -> list[dict[str, float]]:
    size = label.norm(dim=1)  # (N,)
    bounds = size.quantile(QUARTERS)
    quarter = torch.bucketize(size, bounds[:-1])  # (N,)
    return [
        {"up_to_ev_per_ang": bound, **_group(f[here], label[here], error[here])}
        for k, bound in enumerate(bounds.tolist())
        if (here := quarter == k).any()
    ]


def _cosine(f: Tensor, label: Tensor) -> float:
    """Mean cosine over atoms, weighted by the labelled force: tiny forces have no direction."""
    along = (f * label).sum(dim=1) / f.norm(dim=1).clamp(min=TINY)  # (N,)
    return (along.sum() / label.norm(dim=1).sum().clamp(min=TINY)).item()


def _correlation(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(), y - y.mean()
    return ((x @ y) / (x.norm() * y.norm()).clamp(min=TINY)).item()


def _mae_mev(difference: Tensor) -> float:
    return difference.abs().mean().item() * MEV


def lines(diagnosis: Mapping[str, Any]) -> list[str]:
    """A diagnosis in a few lines of text.

    Args:
        diagnosis: a :class:`Diagnosis`, plain.

    Returns:
        The verdict first.
    """
    energy, coverage = diagnosis["energy"], diagnosis["coverage"]
    energies = f"MAE {energy['mae_mev']:.1f} meV"
    if energy["correlation"] is not None:
        energies = f"correlation {energy['correlation']:.3f}, {energies} (offsets alone: "
        energies += f"{energy['composition_mae_mev']:.1f})"
    covered = f"unknown: {coverage['why']}"
    if coverage["outside"] is not None:
        shares = (f"{e} {g['outside']:.0%}" for e, g in coverage["elements"].items())
        covered = f"{coverage['outside']:.0%} of the atoms lie outside the pretraining frames "
        covered += f"({', '.join(shares)}; as a rule 5%)"
    n = diagnosis["n_frames"]
    of_forces = []
    if "forces" in diagnosis:
        forces = diagnosis["forces"]
        of_forces.append(
            f"  forces: cosine {forces['cosine']:.3f}, correlation {forces['correlation']:.3f}, "
            f"slope {forces['slope']:.3g}, MAE {forces['mae_mev_per_ang']:.0f} meV/Å (zero forces: "
            f"{forces['zero_mae_mev_per_ang']:.0f})"
        )
    return [
        f"teacher: {diagnosis['verdict']}, by {n} training label{'s' if n > 1 else ''}",
        *(f"  {reason}" for reason in diagnosis["reasons"]),
        *of_forces,
        f"  energies: {energies}",
        f"  coverage: {covered}",
    ]


def announce(diagnosis: Mapping[str, Any]) -> None:
    """Log a diagnosis, as a warning where the transfer is likely to hurt.

    Args:
        diagnosis: a :class:`Diagnosis`, plain.
    """
    level = logging.WARNING if diagnosis["verdict"] == VERDICTS[-1] else logging.INFO
    log.log(level, "\n".join(lines(diagnosis)))


def tables(diagnosis: Mapping[str, Any]) -> list[tuple[str, list[str], Rows]]:
    """The errors by element and by size of the force, for tables.

    Args:
        diagnosis: a :class:`Diagnosis`, plain.

    Returns:
        Title, headings and rows of cells for each table; none on energies alone.
    """
    if "forces" not in diagnosis:
        return []
    columns = ["atoms", "cosine", "MAE (meV/Å)"]
    covered = diagnosis["coverage"]["elements"]
    by_element = [
        [element, *_cells(group), f"{covered[element]['outside']:.0%}" if covered else "–"]
        for element, group in diagnosis["by_element"].items()
    ]
    by_magnitude = [
        [f"{group['up_to_ev_per_ang']:.2f}", *_cells(group)] for group in diagnosis["by_magnitude"]
    ]
    return [
        ("Teacher's forces by element", ["", *columns, "outside"], by_element),
        ("Teacher's forces by size", ["DFT force up to (eV/Å)", *columns], by_magnitude),
    ]


def _cells(group: Mapping[str, float]) -> list[str]:
    return [
        str(group["n_atoms"]),
        f"{group['cosine']:.3f}",
        f"{group['mae_mev_per_ang']:.1f}",
    ]
