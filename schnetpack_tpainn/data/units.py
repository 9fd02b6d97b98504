"""Conversion of stated units to Å, eV and eV/Å, with the dimension checked."""

from schnetpack_tpainn.errors import DataError

__all__ = ["unit_factor"]

LENGTHS = ("Ang", "Angstrom", "Bohr", "nm")
EXAMPLES = {
    "distance": "Ang, Bohr or nm",
    "energy": "eV, Hartree, Ry, kcal/mol or kJ/mol",
    "forces": "eV/Ang, Hartree/Bohr, kcal/mol/Ang or kJ/mol/nm",
}


def unit_factor(unit: str, kind: str) -> float:
    """Factor from a unit to Å, eV or eV/Å.

    Args:
        unit: unit in the notation of SchNetPack, made of the names of ``ase.units``.
        kind: ``distance``, ``energy`` or ``forces``.

    Returns:
        The factor to multiply values by.

    Raises:
        DataError: the unit is not known or is of another kind.
    """
    from schnetpack.units import convert_units  # it imports torch, which workers do not need

    parts = [part.strip() for part in str(unit).split("/")]
    is_length = [part in LENGTHS for part in parts]
    wanted = {
        "distance": [True],
        "energy": [False] * len(parts),
        "forces": [False] * (len(parts) - 1) + [True],
    }
    fits = is_length == wanted[kind] and (kind != "forces" or len(parts) > 1) and all(parts)
    target = {"distance": "Ang", "energy": "eV", "forces": "eV/Ang"}[kind]
    try:
        return float(convert_units(unit if fits else None, target))
    except (AttributeError, TypeError, Warning) as error:
        raise DataError(
            f"expected a unit of {kind} such as {EXAMPLES[kind]}, got {unit!r}"
        ) from error
