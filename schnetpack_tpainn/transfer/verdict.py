"""What speaks against a teacher: findings in words, each with what to do about it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ase import units

__all__ = ["VERDICTS", "Finding", "findings"]

VERDICTS = ("useful", "doubtful", "likely to hurt")
USEFUL, DOUBTFUL, HURTS = VERDICTS

FOLLOWS = 0.7  # cosine from which forces are taken to follow the labels
UNRELATED = 0.3  # cosine below which they say nothing of them
STIFFNESS = 3.0  # factor between force magnitudes that physics can explain
TOLERANCE = 1.2  # factor within which a unit is named
FEW = 10  # atoms of an element too few to judge it by
OUTSIDE = 0.5  # share of atoms outside the pretraining frames that is too much
IN_EV = {
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
    "Hartree": units.Hartree,
    "Hartree/Bohr": units.Hartree / units.Bohr,
    "Rydberg": units.Rydberg,
}


class Finding(NamedTuple):
    """Something that speaks against a teacher.

    Attributes:
        verdict: ``doubtful`` or ``likely to hurt``.
        sentence: what was found, and what to do.
    """

    verdict: str
    sentence: str


def findings(
    forces: Mapping[str, float],
    energy: Mapping[str, Any],
    by_element: Mapping[str, Mapping[str, float]],
    coverage: Mapping[str, Any],
) -> list[Finding]:
    """All that speaks against a teacher.

    The thresholds are strict on direction and lenient on size: GFN2-xTB is further from the forces
    of rMD17 ethanol than MMFF94, and the better teacher. Energies alone condemn a teacher only by
    a sign or a unit: its geometry may be worth much though its energies compare badly.

    Args:
        forces: of :class:`~schnetpack_tpainn.transfer.diagnose.Diagnosis`; empty on energies alone.
        energy: likewise.
        by_element: likewise.
        coverage: likewise.

    Returns:
        The findings; none for a teacher that is useful.
    """
    if not forces:
        return [*_energies_alone(energy), *_coverage(coverage)]
    return [
        *_direction(forces["cosine"], forces["ratio"]),
        *_size("forces", forces["cosine"], forces["ratio"]),
        *_elements(forces["cosine"], by_element),
        *_energy(forces["cosine"], energy),
        *_coverage(coverage),
    ]


def _direction(cosine: float, ratio: float) -> Iterator[Finding]:
    if cosine < -UNRELATED:
        yield Finding(
            HURTS,
            f"its forces point against the DFT forces (cosine {cosine:.2f}): one of the two has "
            "the wrong sign, as gradients stored for forces have; mend the labels, pretrain again",
        )
    # shuffled labels teach their mean, which is small and need not point nowhere
    elif cosine < UNRELATED or (cosine < FOLLOWS and ratio > STIFFNESS):
        yield Finding(
            HURTS,
            f"its forces have little to do with the DFT forces (cosine {cosine:.2f}): look for "
            "labels of other frames, another order of atoms, another unit of length, or a "
            "pretraining that learned nothing; mend them, or train with transfer=scratch",
        )
    elif cosine < FOLLOWS:
        yield Finding(
            DOUBTFUL,
            f"its forces follow the DFT forces loosely (cosine {cosine:.2f}): try a better force "
            "field, or longer pretraining",
        )


def _size(what: str, agreement: float, ratio: float) -> Iterator[Finding]:
    if abs(agreement) < UNRELATED or 1 / STIFFNESS < ratio < STIFFNESS:
        return
    # a number in the larger unit is the smaller number
    known = {u: ev for u, ev in IN_EV.items() if what == "forces" or "Bohr" not in u}
    factors = {f"the pretraining labels were in {unit}": ev for unit, ev in known.items()}
    factors |= {f"the DFT labels were in {unit}": 1 / ev for unit, ev in known.items()}
    off = {text: abs(math.log(ratio / factor)) for text, factor in factors.items()}
    near = [text for text in sorted(off, key=off.__getitem__) if off[text] < math.log(TOLERANCE)]
    if near:
        yield Finding(
            HURTS,
            f"the DFT {what} are {ratio:.3g} times its {what}, as if {' or '.join(near)} and taken "
            "for eV: a scale on the head (transfer.head=rescale) makes up for it, but mend the "
            "units and pretrain again",
        )
    else:
        yield Finding(
            DOUBTFUL,
            f"the DFT {what} are {ratio:.3g} times its {what}, and no unit explains that: check "
            "both data sets' units and geometries",
        )


def _elements(cosine: float, by_element: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    poor = [
        f"{element} ({group['cosine']:.2f})"
        for element, group in by_element.items()
        if group["n_atoms"] >= FEW and group["cosine"] < UNRELATED
    ]
    if cosine >= UNRELATED and poor:
        yield Finding(
            DOUBTFUL,
            f"forces on {', '.join(poor)} have little to do with the DFT forces there (cosine in "
            "brackets): look at how the force field treats these atoms",
        )


def _energy(cosine: float, energy: Mapping[str, Any]) -> Iterator[Finding]:
    correlation, freedom = energy["correlation"], energy["freedom"]
    if cosine < UNRELATED or correlation is None:
        return
    if correlation + 2 / freedom**0.5 < FOLLOWS:  # even with two standard errors in its favour
        yield Finding(
            DOUBTFUL,
            f"its energies do not follow the DFT energies (correlation {correlation:.2f} after "
            "offsets): check that the labels' energies and forces belong to the same frames",
        )


def _energies_alone(energy: Mapping[str, Any]) -> Iterator[Finding]:
    correlation, margin = energy["correlation"], 2 / energy["freedom"] ** 0.5
    if correlation - margin > UNRELATED:
        yield from _size("energies", correlation, energy["ratio"])
    after = f"(correlation {correlation:.2f} ± {margin:.2f} after offsets)"
    if correlation + margin < -UNRELATED:
        yield Finding(
            HURTS,
            f"its energies run against the DFT energies {after}: look for a wrong sign in either, "
            "mend the labels, pretrain again",
        )
    elif correlation < max(FOLLOWS, margin):  # few energies correlate by chance
        yield Finding(
            DOUBTFUL,
            f"its energies follow the DFT energies loosely {after}: take more labels if these are "
            "few, check that they belong to these frames, and ask whether the force field's "
            "energies compare between molecules",
        )


def _coverage(coverage: Mapping[str, Any]) -> Iterator[Finding]:
    outside = coverage["outside"]
    if outside is not None and outside > OUTSIDE:
        yield Finding(
            DOUBTFUL,
            f"{outside:.0%} of the labelled atoms lie outside the pretraining frames (5 % would "
            "inside them): pretrain on the same molecules at the same temperatures and pressures",
        )
