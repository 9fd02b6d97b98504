"""Closed-form baselines: linear regressions on the same labels and test frames."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase.db import connect

from schnetpack_tpainn.errors import StudyError

__all__ = ["SCHEMES", "baseline_errors"]

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
        database: the labels; energies in eV.
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
    from schnetpack_tpainn.data.increments import features, linear_baseline

    needed = set()
    parts = {}
    for key, path in splits.items():
        with np.load(path) as split:
            parts[key] = (split["train_idx"], split["test_idx"])
        needed |= {*parts[key][0].tolist(), *parts[key][1].tolist()}
    with connect(str(database), use_lock_file=False) as db:
        rows = {i: db.get(i + 1) for i in sorted(needed)}
    energies = {i: float(np.asarray(row.data[energy_key]).item()) for i, row in rows.items()}
    errors: dict[str, dict[int, dict[int, float]]] = {scheme: {} for scheme in schemes}
    for scheme in schemes:
        columns = {
            i: features(row.toatoms(add_additional_information=True), scheme)
            for i, row in rows.items()
        }
        for (n, seed), (train, test) in parts.items():
            predicted = linear_baseline(
                [columns[i] for i in train],
                [energies[i] for i in train],
                [columns[i] for i in test],
            )
            error = np.abs(predicted - [energies[i] for i in test]).mean() * 1e3
            errors[scheme].setdefault(n, {})[seed] = float(error)
    return errors
