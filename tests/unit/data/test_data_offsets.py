"""Offsets per element: exact where determined, smallest-norm where not, float64 throughout."""

import logging

import numpy as np
import pytest

from schnetpack_tpainn.data.offsets import (
    bound_atoms,
    element_values,
    fit_offsets,
    warn_of_unlabelled,
)
from schnetpack_tpainn.errors import DataError


def counts_of(*compositions: dict[int, int]) -> np.ndarray:
    counts = np.zeros((len(compositions), 100), dtype=int)
    for row, composition in zip(counts, compositions, strict=True):
        for z, n in composition.items():
            row[z] = n
    return counts


def test_determined_offsets_are_found(caplog) -> None:
    counts = counts_of({1: 2, 8: 1}, {1: 4, 6: 1}, {1: 6, 6: 2, 8: 1}, {1: 4, 6: 1, 8: 1})
    truth = np.zeros(100)
    truth[[1, 6, 8]] = -13.6, -1030.1, -2043.7
    with caplog.at_level(logging.INFO):
        found = fit_offsets(counts, counts @ truth)
    np.testing.assert_allclose(found, truth, rtol=1e-12, atol=1e-9)
    assert "3 elements (H, C, O)" in caplog.text
    assert "rank 3;" in caplog.text


def test_one_composition_is_singular_and_loses_nothing(caplog) -> None:
    counts = counts_of(*[{1: 128, 8: 64}] * 250)
    energies = -29944.0 + np.random.default_rng(0).normal(scale=0.65, size=250)
    with caplog.at_level(logging.INFO):
        offsets = fit_offsets(counts, energies)
    assert "rank 1, not unique" in caplog.text
    left = energies - counts @ offsets
    np.testing.assert_allclose(left, energies - energies.mean(), rtol=0, atol=29944 * 1e-12)
    assert offsets[1] / offsets[8] == pytest.approx(2)  # smallest norm: along the composition


def test_water_clusters_are_singular_in_two_elements() -> None:
    counts = counts_of(*[{1: 2 * n, 8: n} for n in (1, 2, 5, 9)])
    energies = -2080.5 * np.array([1, 2, 5, 9])
    np.testing.assert_allclose(counts @ fit_offsets(counts, energies), energies, rtol=1e-12)


def test_no_frames() -> None:
    with pytest.raises(DataError, match="got none"):
        fit_offsets(np.zeros((0, 100)), np.zeros(0))


def test_element_values() -> None:
    table = element_values({"H": -13.6, "O": -2043.7})
    assert len(table) == 100
    assert (table[1], table[8], table[6]) == (-13.6, -2043.7, 0.0)


def test_bound_atoms_are_free_ones_less_the_binding_energy_per_atom() -> None:
    counts = counts_of({1: 4, 6: 1}, {1: 2, 8: 1})
    atoms = np.zeros(100)
    atoms[[1, 6, 8, 9]] = -13.6, -1030.0, -2043.0, -2715.0
    energies = counts @ atoms - np.array([17.5, 9.9])  # 3.5 and 3.3 eV per atom
    bound = bound_atoms(counts, energies, atoms)
    np.testing.assert_allclose((bound - atoms)[[1, 6, 8, 9]], -3.4)


def test_an_element_without_a_training_frame_is_named(caplog) -> None:
    counts = counts_of({1: 4, 6: 1}, {1: 3, 6: 1, 9: 1}, {1: 2, 6: 1, 9: 2}, {1: 2, 8: 1})
    warn_of_unlabelled(counts, [0, 1, 3], [2])
    assert not caplog.records
    warn_of_unlabelled(counts, [0], [1, 2, 3])
    assert "no training frame has O (1), F (2)" in caplog.text
