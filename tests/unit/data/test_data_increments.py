"""Increments: counts made by hand, and the fit against brute force."""

import numpy as np
import pytest

from schnetpack_tpainn.data.increments import SCHEMES, features, linear_baseline, table
from schnetpack_tpainn.data.shrinkage import WIDTHS_EV, _Strengths, fit_increments
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.errors import DataError

MOLECULES = [
    *("C", "CC", "CCC", "CCCC", "CC(C)C", "CO", "CCO", "CC(C)O", "COC", "CCOC", "C=O", "CC=O"),
    *("CC(C)=O", "CN", "CCN", "CNC", "C#N", "CC#N", "C=C", "CC=C", "C#C", "CC#C", "C1CC1", "C1CO1"),
    *("C1CCC1", "C1CCCC1", "C1CCOC1", "c1ccccc1", "Cc1ccccc1", "c1ccncc1", "CC(N)=O", "CC(=O)O"),
    *("COC(C)=O", "OCCO", "NCCO", "CC(C)(C)O", "C1CC1C", "CC1CO1", "OC1CC1", "C1CC2CC12"),
]


def only(scheme_level: str, smiles: str) -> dict[str, int]:
    counts = features(smiles)
    return {
        name.partition(":")[2]: n
        for name, n in counts.items()
        if name.partition(":")[0] == scheme_level
    }


@pytest.mark.parametrize(
    ("level", "smiles", "expected"),
    [
        ("composition", "CCO", {"C": 2, "H": 6, "O": 1}),
        ("composition", "[H][H]", {"H": 2}),
        ("bonds", "CCO", {"C-H": 5, "C-C": 1, "C-O": 1, "H-O": 1}),
        ("bonds", "c1ccncc1", {"C-H": 5, "C:C": 4, "C:N": 2}),
        ("bonds", "CC#N", {"C-H": 3, "C-C": 1, "C#N": 1}),
        ("atoms", "CC(N)=O", {"C----": 1, "C--=": 1, "N---": 1, "O=": 1}),
        ("atoms", "C[NH3+]", {"C----": 1, "N----+1": 1}),
        (
            "groups",
            "CC(N)=O",
            {"C(-C,-H,-H,-H)": 1, "C(-C,-N,=O)": 1, "N(-C,-H,-H)": 1, "O(=C)": 1},
        ),
        ("rings", "C1CC2CC12", {"3": 1, "4": 1, "3/4 share 2": 1}),
        ("rings", "CCO", {}),
        ("ring atoms", "CC1CO1", {"C----": 1, "3C----": 2, "3O--": 1}),
        ("ring groups", "C1CCCCCCC1", {"6C(-C,-C,-H,-H)": 8}),
        ("bonded pairs", "CC#N", {"C#- - C----": 1, "C#- # N#": 1}),
    ],
)
def test_counts(level: str, smiles: str, expected: dict[str, int]) -> None:
    assert only(level, smiles) == expected


def test_schemes_are_levels() -> None:
    levels = {
        scheme: {name.partition(":")[0] for name in features("CC1CO1", scheme)}
        for scheme in SCHEMES
    }
    assert levels == {
        "composition": {"composition"},
        "bonds": {"composition", "bonds"},
        "groups": {"composition", *WIDTHS_EV},
    }


def test_a_structure_counts_as_its_string() -> None:
    atoms = embed_smiles("CC(N)=O")
    assert features(atoms) == features("CC(N)=O")
    atoms.info = {}
    assert features(atoms[::-1]) == features("CC(N)=O")  # perceived


def test_what_has_no_counts() -> None:
    with pytest.raises(DataError, match="scheme out of composition, bonds, groups, got 'benson'"):
        features("C", "benson")
    with pytest.raises(DataError, match="SMILES string that RDKit can read, got 'C1CC'"):
        features("C1CC")


def test_a_table_has_the_columns_it_is_asked_for() -> None:
    counts, names = table([features("C", "bonds"), features("CO", "bonds")])
    assert names == [*("bonds:C-H", "bonds:C-O", "bonds:H-O"), *COMPOSITION]
    np.testing.assert_array_equal(counts, [[4, 0, 0, 1, 4, 0], [3, 1, 1, 1, 4, 1]])
    fewer, _ = table([features("CO", "bonds")], ["bonds:C-O", "bonds:N-O"])
    np.testing.assert_array_equal(fewer, [[1, 0]])


COMPOSITION = ("composition:C", "composition:H", "composition:O")


def planted(scheme: str = "groups", noise_ev: float = 0.05, seed: int = 0):
    """Counts and energies with increments of the expected widths."""
    rng = np.random.default_rng(seed)
    counts, names = table([features(smiles, scheme) for smiles in MOLECULES])
    levels = [name.partition(":")[0] for name in names]
    values = rng.normal(scale=[WIDTHS_EV.get(level, 5.0) for level in levels])
    return counts, counts @ values + rng.normal(scale=noise_ev, size=len(counts)), names


def test_composition_is_plain_least_squares() -> None:
    x, y, names = planted("composition")
    fit = fit_increments(x, y, names)
    np.testing.assert_allclose(fit.values, np.linalg.lstsq(x, y, rcond=None)[0])
    assert fit.rank == 4
    assert fit.widths == {}


def test_the_fit_is_the_ridge_of_its_strengths() -> None:
    x, y, names = planted()
    fit = fit_increments(x, y, names)
    penalty = [fit.noise / fit.widths.get(n.partition(":")[0], np.inf) for n in names]
    stacked = np.vstack([x, np.diag(penalty)])
    expected = np.linalg.lstsq(stacked, np.append(y, np.zeros(len(names))), rcond=None)[0]
    np.testing.assert_allclose(fit.values, expected, atol=1e-7)


def test_the_leave_one_out_error_is_that_of_leaving_one_out(monkeypatch) -> None:
    x, y, names = planted()
    fit = fit_increments(x, y, names)
    found = np.array(list(fit.widths.values())), fit.noise
    monkeypatch.setattr(_Strengths, "choose", lambda _: found)
    errors = []
    for k in range(len(y)):
        kept = np.arange(len(y)) != k
        errors.append(abs(y[k] - x[k] @ fit_increments(x[kept], y[kept], names).values))
    assert fit.loo_mae == pytest.approx(np.mean(errors), rel=1e-6)


def test_the_slope_of_the_likelihood() -> None:
    x, y, names = planted()
    basis = np.linalg.qr(x[:, [n.startswith("composition") for n in names]])[0]
    fine = np.array([not n.startswith("composition") for n in names])
    left = [a - basis @ (basis.T @ a) for a in (x[:, fine], y)]
    levels = [n.partition(":")[0] for n in names if not n.startswith("composition")]
    strengths = _Strengths(left[0], left[1], len(y) - 4, levels)
    at = np.log([*WIDTHS_EV.values(), 0.1]) + 0.3
    slope = strengths._cost(at, at * 0)[1]
    steps = 1e-5 * np.eye(len(at))
    numeric = [
        (strengths._cost(at + h, at * 0)[0] - strengths._cost(at - h, at * 0)[0]) / 2e-5
        for h in steps
    ]
    np.testing.assert_allclose(slope, numeric, rtol=1e-5, atol=1e-5)


def test_the_likelihood_is_that_of_the_labels() -> None:
    """Against the density of the labels' contrasts, which composition does not reach."""
    x, y, names = planted()
    coarse = np.array([n.startswith("composition") for n in names])
    contrasts = np.linalg.svd(x[:, coarse])[0][:, 4:]  # (N, N - 4)
    basis = np.linalg.svd(x[:, coarse])[0][:, :4]
    left = [a - basis @ (basis.T @ a) for a in (x[:, ~coarse], y)]
    levels = [n.partition(":")[0] for n in names if not n.startswith("composition")]
    strengths = _Strengths(left[0], left[1], len(y) - 4, levels)

    def direct(logs: np.ndarray) -> float:
        widths = dict(zip(WIDTHS_EV, np.exp(logs[:-1]), strict=True))
        d = np.array([widths[level] for level in levels])
        z = contrasts.T @ x[:, ~coarse] * d
        covariance = z @ z.T + np.exp(2 * logs[-1]) * np.eye(len(z))
        t = contrasts.T @ y
        return 0.5 * (t @ np.linalg.solve(covariance, t) + np.linalg.slogdet(covariance)[1])

    a = np.log([*WIDTHS_EV.values(), 0.1])
    b = a + np.linspace(-0.5, 0.5, len(a))
    difference = strengths._cost(a, a)[0] - strengths._cost(b, b)[0]
    assert difference == pytest.approx(direct(a) - direct(b))


def test_strengths_follow_the_labels() -> None:
    x, _, names = planted()
    rings = {"rings:3": 1.2, "rings:4": 1.1, "rings:5": 0.3}
    y = x @ [rings.get(name, 0.0) for name in names]
    fit = fit_increments(x, y, names)
    assert fit.widths["rings"] > WIDTHS_EV["rings"]
    assert all(w < WIDTHS_EV[level] for level, w in fit.widths.items() if level != "rings")
    assert fit.noise < 0.05
    assert dict(zip(names, fit.values, strict=True))["rings:3"] == pytest.approx(1.2, abs=0.2)


def test_increments_that_no_label_has_are_zero() -> None:
    x, y, names = planted()
    amines = np.array([features(s)["composition:N"] for s in MOLECULES]) > 0
    fit = fit_increments(x[~amines], y[~amines], names)
    nitrogen = [v for n, v in zip(names, fit.values, strict=True) if "N" in n]
    assert nitrogen
    assert not any(nitrogen)
    assert fit.rank == np.linalg.matrix_rank(x[~amines])


@pytest.mark.parametrize("n", [1, 3, 5])
def test_fewer_labels_than_elements_still_fit(n: int) -> None:
    x, y, names = planted()
    fit = fit_increments(x[-n:], y[-n:], names)
    assert np.isfinite(fit.values).all()
    np.testing.assert_allclose(x[-n:] @ fit.values, y[-n:], atol=1.0)


def test_predictions_beat_least_squares_and_see_training_labels_alone() -> None:
    x, y, names = planted(seed=1)
    counts = [features(smiles) for smiles in MOLECULES]
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:28], order[28:]
    predicted = linear_baseline([counts[i] for i in train], y[train], [counts[i] for i in test])
    plain = x[test] @ np.linalg.lstsq(x[train], y[train], rcond=None)[0]
    assert np.abs(predicted - y[test]).mean() < 0.9 * np.abs(plain - y[test]).mean()
    fit = fit_increments(x[train], y[train], names)
    np.testing.assert_allclose(predicted, x[test] @ fit.values, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "names", "message"),
    [
        (np.zeros((0, 1)), [], ["composition:C"], "at least one molecule"),
        (np.ones((2, 1)), [1.0], ["composition:C"], r"energies \(1,\)"),
        (np.ones((1, 1)), [np.nan], ["composition:C"], "finite"),
        (np.ones((1, 1)), [1.0], ["sigma:C"], "got sigma"),
    ],
)
def test_what_cannot_be_fitted(x, y, names, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_increments(x, np.array(y), names)
