"""The table of filters is as accurate as asked for; what cannot be tabulated is refused."""

import pytest
import schnetpack.nn as snn
import torch

from schnetpack_tpainn.nn.kernels.table import START, tabulate

CUTOFF = 5.0
BASES = {
    "gaussian": lambda: snn.GaussianRBF(20, CUTOFF),
    "few gaussians": lambda: snn.GaussianRBF(5, CUTOFF),
    "bessel": lambda: snn.BesselRBF(8, CUTOFF),
}
CUTOFFS = {
    "cosine": lambda: snn.CosineCutoff(CUTOFF),
    "mollifier": lambda: snn.MollifierCutoff(CUTOFF),
}


def expansion(basis, cutoff_fn):
    basis, cutoff_fn = basis.double(), cutoff_fn.double()

    def expand(d):
        fcut = cutoff_fn(d.unsqueeze(1))
        return torch.cat([basis(d.unsqueeze(1)).squeeze(1) * fcut, fcut], dim=1)

    return expand


def interpolate(table, d):
    """Hermite's formula in its textbook form, by a linear system instead of basis polynomials."""
    s = (d - table.grid[0]) * table.grid[2]
    k = s.long().clamp(max=len(table.basis) - 2)
    t = (s - k).unsqueeze(1)
    derivatives = [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0]]
    derivatives += [[1] * 6, [0, 1, 2, 3, 4, 5], [0, 0, 2, 6, 12, 20]]
    knots = torch.cat([table.basis[k], table.basis[k + 1]], dim=1)  # (n, 6, K+1)
    coefficients = torch.linalg.solve(torch.tensor(derivatives).double(), knots)
    return (t.unsqueeze(2) ** torch.arange(6).view(1, 6, 1) * coefficients).sum(1)


@pytest.mark.parametrize("tolerance", [1e-4, 5e-7, 1e-9])
@pytest.mark.parametrize("cutoff_fn", CUTOFFS.values(), ids=CUTOFFS)
@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
def test_error_is_within_the_tolerance(basis, cutoff_fn, tolerance):
    expand = expansion(basis(), cutoff_fn())
    table = tabulate(expand, CUTOFF, tolerance)
    d = torch.linspace(START, CUTOFF - 1e-6, 4001).double().requires_grad_()
    got, exact = interpolate(table, d), expand(d)
    scale = exact.abs().max()
    assert (got - exact).abs().max() / scale <= 1.1 * tolerance
    slopes = [torch.autograd.grad(x.sum(), d, retain_graph=True)[0] for x in (got, exact)]
    assert (slopes[0] - slopes[1]).abs().max() <= 21 * tolerance * max(1.0, slopes[1].abs().max())


def test_more_accuracy_takes_more_knots():
    expand = expansion(snn.GaussianRBF(20, CUTOFF), snn.CosineCutoff(CUTOFF))
    sizes = [len(tabulate(expand, CUTOFF, tolerance).basis) for tolerance in (1e-4, 1e-6, 1e-8)]
    assert 20 < sizes[0] < sizes[1] < sizes[2] < 500


def test_a_basis_that_does_not_vanish_at_the_cutoff_is_refused():
    assert (
        tabulate(lambda d: torch.ones_like(d).unsqueeze(1) * d.unsqueeze(1), CUTOFF, 1e-6) is None
    )


def test_a_rough_basis_is_refused():
    def kinked(d):
        return ((d - 2.0123).abs() * (CUTOFF - d)).unsqueeze(1)

    assert tabulate(kinked, CUTOFF, 1e-6) is None
