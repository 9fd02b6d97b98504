"""Filters on a grid of distances, interpolated by quintic Hermite polynomials."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

__all__ = ["RadialTable", "tabulate"]

Expansion = Callable[[torch.Tensor], torch.Tensor]
START = 0.2  # Å; no two nuclei come closer
MAX_INTERVALS = 8192
_POLYNOMIALS = torch.tensor(  # H_0, H_1, H_2 in powers of t
    [[1, 0, 0, -10, 15, -6], [0, 1, 0, -6, 8, -3], [0, 0, 0.5, -1.5, 1.5, -0.5]],
    dtype=torch.float64,
)


class RadialTable(NamedTuple):
    r"""Values, slopes and curvatures of the radial basis at knots.

    Between the knots :math:`d_k` and :math:`d_{k+1} = d_k + h`, a filter is the polynomial of fifth
    degree in :math:`t = (d - d_k) / h` with its values :math:`W`, slopes :math:`W'` and curvatures
    :math:`W''` at both:

    .. math::
       W(d) = \sum_{n=0}^{2} h^n \left( H_n(t)\, W^{(n)}_k
            + (-1)^n H_n(1-t)\, W^{(n)}_{k+1} \right), \quad
       H_0 = 1 - 10t^3 + 15t^4 - 6t^5,\;
       H_1 = t - 6t^3 + 8t^4 - 3t^5,\;
       H_2 = \tfrac12 (t^2 - 3t^3 + 3t^4 - t^5)

    Its second derivative is continuous; its error is at most :math:`h^6 |W^{(6)}| / 46080`. Filters
    are linear in the basis, so the knots of the basis give those of the filters by one product.

    Attributes:
        basis: values, slopes times h, and curvatures times h², shape (M+1, 3, K+1).
        grid: first knot, last knot (the cutoff radius), and 1/h, shape (3,), in Å, float64.
    """

    basis: torch.Tensor
    grid: torch.Tensor

    def filters(self, weights: torch.Tensor) -> torch.Tensor:
        """Values, slopes and curvatures of the filters at the knots.

        Args:
            weights: weights and bias of the filters, shape (3F, K+1).

        Returns:
            Shape (M+1, 3, 3, F).
        """
        m, _, k = self.basis.shape
        return (self.basis.reshape(-1, k) @ weights.t()).view(m, 3, 3, -1)


def tabulate(expand: Expansion, cutoff: float, tolerance: float) -> RadialTable | None:
    """Tabulate a radial basis with as few knots as a tolerance needs.

    Args:
        expand: distances (n,) in Å, float64 -> basis (n, K+1).
        cutoff: cutoff radius in Å, where the basis ends.
        tolerance: largest error of values, and of slopes, relative to the largest of each.

    Returns:
        The table, float64; None if the basis does not vanish at the cutoff, or is too rough.
    """
    values, *_ = _derivatives(expand, torch.tensor([START, cutoff], dtype=torch.float64))
    if not values[1].abs().max() <= tolerance:
        return None
    intervals = 32
    while intervals <= MAX_INTERVALS:
        knots = torch.linspace(START, cutoff, intervals + 1, dtype=torch.float64)
        h = (cutoff - START) / intervals
        scales = torch.tensor([1.0, h, h * h], dtype=torch.float64).view(1, 3, 1)
        basis = torch.stack(_derivatives(expand, knots), dim=1) * scales  # (M+1, 3, K+1)
        error = _error(expand, knots, basis, h)
        if error <= tolerance:
            return RadialTable(basis, torch.tensor([START, cutoff, 1 / h], dtype=torch.float64))
        growth = 1.05 * (error / tolerance) ** 0.2  # for the slope's error falls as h^5
        intervals = math.ceil(intervals * min(growth, 4.0))
    return None


def _derivatives(expand: Expansion, d: torch.Tensor) -> list[torch.Tensor]:
    """Basis and its first two derivatives, (n, K+1) each."""
    with torch.inference_mode(False), torch.enable_grad():
        # at the cutoff, the curvature from within is meant
        d = torch.where(d < d.max(), d, d - 1e-9).requires_grad_()
        orders = [expand(d)]
        for _ in range(2):  # forward derivatives by two backward passes: all columns at once
            if not orders[-1].requires_grad:  # a constant
                orders.append(torch.zeros_like(orders[-1]))
                continue
            weights = torch.ones_like(orders[-1], requires_grad=True)
            (weighted,) = torch.autograd.grad(orders[-1], d, weights, create_graph=True)
            orders += torch.autograd.grad(weighted.sum(), weights, create_graph=True)
    return [x.detach() for x in orders]


def _error(expand: Expansion, knots: torch.Tensor, basis: torch.Tensor, h: float) -> float:
    """Largest relative error of values and slopes between the knots."""
    worst = 0.0
    for t in torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64):
        for order, exact in enumerate(_derivatives(expand, knots[:-1] + t * h)[:2]):
            left, right = _hermite(t, order), _hermite(1 - t, order)
            right *= torch.tensor([1, -1, 1]) * (-1) ** order
            got = torch.einsum("n,mnk->mk", left, basis[:-1])
            got = (got + torch.einsum("n,mnk->mk", right, basis[1:])) / h**order
            worst = max(worst, float((got - exact).abs().max() / exact.abs().max()))
    return worst


def _hermite(t: torch.Tensor, order: int) -> torch.Tensor:
    """Weights of value, slope and curvature at the left knot, or their derivatives, shape (3,)."""
    powers = torch.arange(6)
    factors = torch.ones(6, dtype=torch.float64)
    for n in range(order):
        factors *= powers - n
    return _POLYNOMIALS @ (factors * t ** (powers - order).clamp(min=0))
