"""Closed-form baselines: linear regressions on the same labels and test frames."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase.db import connect

from schnetpack_tpainn.data.units import unit_factor
from schnetpack_tpainn.errors import StudyError

__all__ = ["SCHEMES", "baseline_errors"]

MEV = 1e3  # meV in an eV
SCHEMES = ("composition", "bonds", "groups")


def baseline_errors(
    schemes: Sequence[str],
    database: Path,
    splits: Mapping[tuple[int, int], Path],
    energy_key: str = "energy",
) -> dict[str, dict[int, dict[int, float]]]:
    """Test errors of linear regressions of the energy on counts of increments.

    Args:
        schemes: ``composition``, ``bonds`` and ``groups``, see
            :mod:`schnetpack_tpainn.data.increments`.
        database: the labels.
        splits: number of labels and seed -> file with ``train_idx`` and ``test_idx``.
        energy_key: key of the energy.

    Returns:
        Scheme -> number of labels -> seed -> MAE of the energy in meV.

    Raises:
        StudyError: a scheme is not known.
    """
    if unknown := [s for s in schemes if s not in SCHEMES]:
        raise StudyError(f"expected study.baselines among {list(SCHEMES)}, got {unknown}")
    if not schemes:
        return {}
    from schnetpack_tpainn.data.additive import free_atoms
    from schnetpack_tpainn.data.increments import features, linear_baseline
    from schnetpack_tpainn.data.offsets import Z_MAX, bound_atoms

    parts = {}
    for key, path in splits.items():
        with np.load(path) as split:
            parts[key] = (split["train_idx"].tolist(), split["test_idx"].tolist())
    atoms_ev = free_atoms(database)  # without them an element that no label has costs its energy
    molecules, elements, energies = {}, {}, {}
    with connect(str(database), use_lock_file=False) as db:
        to_ev = unit_factor(db.metadata["_property_unit_dict"][energy_key], "energy")
        for i in sorted({i for train, test in parts.values() for i in (*train, *test)}):
            row = db.get(i + 1)
            molecules[i] = row.toatoms()
            molecules[i].info = dict(row.key_value_pairs)
            elements[i] = np.bincount(row.numbers, minlength=Z_MAX)
            energies[i] = np.asarray(row.data[energy_key]).item() * to_ev
    errors: dict[str, dict[int, dict[int, float]]] = {scheme: {} for scheme in schemes}
    for scheme in schemes:
        counts = {i: features(molecule, scheme) for i, molecule in molecules.items()}
        for (n, seed), (train, test) in parts.items():
            (z, y), (z_test, y_test) = (
                (np.array([elements[i] for i in part]), np.array([energies[i] for i in part]))
                for part in (train, test)
            )
            atoms = bound_atoms(z, y, atoms_ev)
            predicted = linear_baseline(
                [counts[i] for i in train], y - z @ atoms, [counts[i] for i in test]
            )
            error = np.abs(predicted + z_test @ atoms - y_test).mean()
            errors[scheme].setdefault(n, {})[seed] = float(error) * MEV
    return errors
