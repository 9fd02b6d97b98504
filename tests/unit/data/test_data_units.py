"""Stated units are converted, and refused when they are of another kind."""

import pytest
from ase import units

from schnetpack_tpainn.data.units import unit_factor
from schnetpack_tpainn.errors import DataError


@pytest.mark.parametrize(
    ("unit", "kind", "factor"),
    [
        ("Ang", "distance", 1.0),
        ("Bohr", "distance", units.Bohr),
        ("nm", "distance", 10.0),
        ("eV", "energy", 1.0),
        ("Hartree", "energy", units.Hartree),
        ("kcal/mol", "energy", units.kcal / units.mol),
        ("kJ / mol", "energy", units.kJ / units.mol),
        ("Hartree/Bohr", "forces", units.Hartree / units.Bohr),
        ("kcal/mol/Ang", "forces", units.kcal / units.mol),
        ("kJ/mol/nm", "forces", units.kJ / units.mol / 10),
    ],
)
def test_factors(unit: str, kind: str, factor: float) -> None:
    assert unit_factor(unit, kind) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("unit", "kind"),
    [
        ("Hartree", "forces"),  # Hartree/Bohr was meant: a factor of 1.9
        ("eV", "distance"),
        ("Ang", "energy"),
        ("eV/Ang", "energy"),
        ("A", "distance"),  # Ampere to ASE
        ("furlong", "distance"),
        ("eV/", "energy"),
        ("", "energy"),
        (None, "energy"),
    ],
)
def test_wrong_kinds_are_refused(unit: str, kind: str) -> None:
    with pytest.raises(DataError, match="expected a unit of"):
        unit_factor(unit, kind)
