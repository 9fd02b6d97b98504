"""Terms in internal coordinates, and their fit: derivatives, symmetry, known answers."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from schnetpack_tpainn.data.bondgraph import BondGraph, group_by_graph
from schnetpack_tpainn.data.correction import Correction
from schnetpack_tpainn.data.internal import InternalTerms
from schnetpack_tpainn.data.refit import Residuals, fit_correction
from schnetpack_tpainn.data.ridge import fit_ridge
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.errors import DataError

CHIRAL = "C[C@H](O)F"
RADII = (0, 1)


def distorted(smiles: str, n: int, seed: int = 0, sigma_ang: float = 0.06) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    frames = [embed_smiles(smiles, seed) for _ in range(n)]
    for atoms in frames:
        atoms.positions += rng.normal(scale=sigma_ang, size=(len(atoms), 3))
    return frames


def summed(atoms: Atoms, radii=RADII) -> dict[str, float]:
    """Terms by name."""
    terms = InternalTerms(BondGraph.of(atoms), radii)
    reference = terms.reference(
        dict.fromkeys({n for names in terms.references for n in names}, 0.3)
    )
    values = terms.values(torch.tensor(atoms.positions), reference).tolist()
    total: Counter[str] = Counter()
    for names in terms.names:
        for name, value in zip(names, values, strict=True):
            total[name] += value
    return dict(total)


def known(graph: BondGraph, seed: int = 0) -> Correction:
    """Random coefficients for a molecule."""
    rng = np.random.default_rng(seed)
    terms = InternalTerms(graph, RADII)
    names = sorted({name for level in terms.names for name in level})
    references = {"C-H": 1.08, "C-C": 1.5, "C-C-H": -0.3, "C-C-O": -0.35}
    coefficients = dict(zip(names, rng.normal(scale=0.3, size=len(names)).tolist(), strict=True))
    return Correction(RADII, coefficients, references, {graph.name: -3.0}, {})


def residuals(frames: list[Atoms], truth: Correction) -> list[Residuals]:
    found = []
    for graph, indices in group_by_graph(frames, "labels"):
        positions = np.stack([frames[k].positions for k in indices])
        found.append(Residuals(graph, indices, positions, *truth.apply(graph, positions)))
    return found


@pytest.mark.parametrize("smiles", ["CCO", CHIRAL, "CC#C", "C1CC1", "[H][H]"])
def test_gradients_are_those_of_finite_differences(smiles: str) -> None:
    atoms = distorted(smiles, 1)[0]
    terms = InternalTerms(BondGraph.of(atoms), RADII)
    reference = terms.reference({"C-C": 1.5, "C-H": 1.1, "C-C-H": -0.3})
    positions = torch.tensor(atoms.positions, requires_grad=True)
    assert terms.values(positions, reference).shape == (len(terms.names[0]),)
    assert torch.autograd.gradcheck(lambda r: terms.values(r, reference), positions, fast_mode=True)


def test_a_straight_angle_has_finite_forces() -> None:
    atoms = Atoms("C2H2", [[0, 0, 0], [1.2, 0, 0], [-1.06, 0, 0], [2.26, 0, 0]])
    positions = torch.tensor(atoms.positions, requires_grad=True)
    terms = InternalTerms(BondGraph.of(atoms), RADII)
    values = terms.values(positions, terms.reference({}))
    (gradient,) = torch.autograd.grad(values.sum(), positions)
    assert torch.isfinite(gradient).all()


def test_terms_do_not_depend_on_place_orientation_mirror_or_order() -> None:
    atoms = distorted(CHIRAL, 1)[0]
    expected = summed(atoms)
    assert any(name.startswith("chiral") and abs(v) > 0.01 for name, v in expected.items())
    moved = atoms.copy()
    moved.positions = Rotation.random(rng=1).apply(atoms.positions) + np.array([1.0, -2.0, 3.0])
    mirrored = atoms.copy()
    mirrored.positions[:, 0] *= -1
    shuffled = atoms[np.random.default_rng(0).permutation(len(atoms))]
    for other in (moved, mirrored, shuffled):
        found = summed(other)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose([found[k] for k in expected], list(expected.values()), atol=1e-9)


def test_a_left_handed_torsion_is_told_from_a_right_handed_one() -> None:
    """In a chiral molecule, turned to the left and to the right by the same angle."""
    atoms = embed_smiles(CHIRAL)
    left, right = atoms.copy(), atoms.copy()
    names = BondGraph.of(atoms).types(1)
    hydroxyl = next(i for i, name in enumerate(names) if name == "H(O)")
    for turned, angle in ((left, -60), (right, 60)):
        turned.set_dihedral(0, 1, 2, hydroxyl, angle)
    a, b = summed(left), summed(right)
    sines = [n for n in a if n.startswith("chiral1 ") and n.endswith("H(O)")]
    assert sines
    assert all(abs(a[n] - b[n]) > 0.1 for n in sines)


def test_types_are_those_of_surroundings() -> None:
    graph = BondGraph.of(embed_smiles("CCO"))
    assert Counter(graph.types(0)) == {"C": 2, "O": 1, "H": 6}
    assert Counter(graph.types(1)) == {"C(CHHH)": 1, "C(CHHO)": 1, "O(CH)": 1, "H(C)": 5, "H(O)": 1}
    assert len(set(graph.types(2))) == 6
    assert graph.name == BondGraph.of(embed_smiles("OCC")).name
    assert graph.name != BondGraph.of(embed_smiles("COC")).name


def test_a_known_correction_is_found() -> None:
    truth = known(BondGraph.of(embed_smiles("CCO")))
    fit = fit_correction(residuals(distorted("CCO", 30), truth), RADII)
    assert fit.summary["used"]
    assert fit.summary["rank"] < fit.summary["n_terms"]
    for r in residuals(distorted("CCO", 5, seed=1), truth):
        energies, forces = fit.apply(r.graph, r.positions)
        np.testing.assert_allclose(energies, r.energies_ev, atol=2e-4)
        np.testing.assert_allclose(forces, r.forces_ev_per_ang, atol=2e-3)


def test_forces_are_minus_the_energys_gradient() -> None:
    truth = known(BondGraph.of(embed_smiles("CCO")))
    fit = fit_correction(residuals(distorted("CCO", 4), truth))
    graph, start = BondGraph.of(embed_smiles("CCO")), distorted("CCO", 1, seed=2)[0].positions
    steps = 1e-4 * np.eye(start.size).reshape(-1, *start.shape)
    slope = (fit.apply(graph, start + steps)[0] - fit.apply(graph, start - steps)[0]) / 2e-4
    np.testing.assert_allclose(-slope, fit.apply(graph, start[None])[1].ravel(), atol=1e-6)


def test_molecules_share_types_and_the_others_get_constants_of_elements() -> None:
    truth = known(BondGraph.of(embed_smiles("CCO")))
    ethanol, ether, methanol = (BondGraph.of(embed_smiles(s)) for s in ("CCO", "COC", "CO"))
    truth.constants_ev[ether.name] = -2.0
    fit = fit_correction(residuals(distorted("CCO", 12) + distorted("COC", 12), truth))
    assert fit.known(ethanol)
    assert fit.known(ether)
    assert not fit.known(methanol)
    counts = Counter(methanol.numbers)
    assert fit.constant(methanol) == sum(n * fit.elements_ev[z] for z, n in counts.items())
    for r in residuals(distorted("CCO", 3, seed=3) + distorted("COC", 3, seed=3), truth):
        energies, forces = fit.apply(r.graph, r.positions)
        assert np.abs(energies - r.energies_ev).max() < 0.1
        error = np.abs(forces - r.forces_ev_per_ang).mean()
        assert error < 0.2 * np.abs(r.forces_ev_per_ang).mean()


def test_what_does_not_predict_is_not_used(caplog) -> None:
    """Every other label asks for the opposite of the rest."""
    (all_,) = residuals(distorted("CCO", 8), known(BondGraph.of(embed_smiles("CCO"))))
    sign = (-1.0) ** np.arange(8)
    energies, forces = sign * all_.energies_ev, sign[:, None, None] * all_.forces_ev_per_ang
    odd = Residuals(all_.graph, all_.indices, all_.positions, energies, forces)
    fit = fit_correction([odd])
    assert not fit.summary["used"]
    assert fit.summary["ridge"] is None
    assert "it is not used" in caplog.text
    added, change = fit.apply(all_.graph, all_.positions)
    assert not change.any()
    np.testing.assert_allclose(added, energies.mean())


def test_the_left_out_residuals_are_those_of_leaving_out() -> None:
    rng = np.random.default_rng(0)
    x, free = rng.normal(size=(24, 8)), np.zeros((24, 2))
    free[:9, 0], free[9:18, 1] = 1 / 3, 1 / 3
    y = x[:, :4].sum(1) + 5 * free[:, 0] + 0.1 * rng.normal(size=24)
    folds = [np.arange(k, 24, 4) for k in range(4)]
    fit = fit_ridge(x, y, free, folds, [0.03])
    assert fit.strength == 0.03
    for rows in folds:
        rest = np.setdiff1d(np.arange(24), rows)
        penalty = np.hstack([np.sqrt(24 * 0.03) * np.eye(8), np.zeros((8, 2))])
        stacked = np.vstack([np.hstack([x, free])[rest], penalty])
        found = np.linalg.lstsq(stacked, np.append(y[rest], np.zeros(8)), rcond=None)[0]
        expected = y[rows] - np.hstack([x, free])[rows] @ found
        np.testing.assert_allclose(fit.left_out[rows], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("n", "settings", "message"),
    [
        (4, {"folds": 5}, "folds from 2 to the number of labels, 4, got 5"),
        (4, {"folds": 1}, "got 1"),
        (1, {}, "two labels at least"),
        (4, {"radii": ()}, "radii of 0 bonds or more"),
        (4, {"radii": (-1, 0)}, "radii of 0 bonds or more"),
    ],
)
def test_what_cannot_be_fitted_is_refused(n: int, settings, message: str) -> None:
    truth = known(BondGraph.of(embed_smiles("CCO")))
    with pytest.raises(DataError, match=message):
        fit_correction(residuals(distorted("CCO", n), truth), **settings)


def test_a_correction_is_read_as_it_was_written(tmp_path: Path) -> None:
    truth = known(BondGraph.of(embed_smiles("CCO")))
    fit = fit_correction(residuals(distorted("CCO", 4), truth))
    fit.write(tmp_path / "a.json")
    assert Correction.read(tmp_path / "a.json") == fit


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 9}', '{"format": 1, "radii": [0]}', "x"])
def test_another_file_is_no_correction(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        Correction.read(tmp_path / "a.json")
