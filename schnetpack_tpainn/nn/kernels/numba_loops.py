r"""The loops of the message kernel on a CPU, compiled by numba: one small loop per derivative.

Notation: atom :math:`i` receives from :math:`j` over the pair vector
:math:`r = d\,u`; filters :math:`W^{1,2,3}(d)` come from a table (see
:mod:`schnetpack_tpainn.nn.kernels.table`); products over features are elementwise.

.. math::
   \Delta q_i = \sum_j W^1 x^1_j, \qquad
   \Delta\mu_i = \sum_j W^2 x^2_j\, u + W^3 y_j, \qquad y_j = x^3_j\,\mu_j

With :math:`g^q, g^\mu` the gradients of a loss with respect to :math:`\Delta q, \Delta\mu`, a pair
has the energy-like scalar

.. math::
   \epsilon_{ij} = \sum_f W^1 x^1_j g^q_i + W^2 x^2_j\, (g^\mu_i \cdot u) + W^3\, y_j \cdot g^\mu_i

and every first derivative is one of :math:`\epsilon`. The second derivatives contract the first
with tangents :math:`a` of :math:`x`, :math:`b` of :math:`y` and :math:`\rho` of :math:`r`, so
:math:`\dot d = \rho \cdot u` and :math:`\dot u = (\rho - \dot d\,u) / d`; they are the derivatives
of :math:`\dot\epsilon`, the derivative of :math:`\epsilon` along the tangents.

Every loop writes to its own atoms alone (threads share nothing). Sums over *receivers* run over
the same list, for it is symmetric: :math:`W_{ji} = W_{ij}, u_{ji} = -u_{ij}, \rho_{ji} =
-\rho_{ij}`. Accumulators are tiles on the stack, which LLVM knows to overlap with nothing: only so
are the loops vectorised.
"""

from typing import Any

import numba
import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from schnetpack_tpainn.nn.kernels import MAX_FEATURES

__all__ = ["forward", "grad_atoms", "grad_pairs", "grad_table"]

TILE = MAX_FEATURES

jit: Any = numba.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"nsz", "contract", "reassoc", "arcp"}
)


@intrinsic
def tile(_context: Any, like: Any) -> Any:
    """Pointer to TILE numbers on the stack, of the type of the array ``like``."""

    def codegen(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        return cgutils.alloca_once(builder, context.get_data_type(like.dtype), size=TILE)

    return types.CPointer(like.dtype)(like), codegen


@jit
def pair(r, e, grid, n_knots):
    """Distance, unit vector, and place in the table: interval and position in it.

    In double precision, for the place has as many digits as there are intervals and positions.
    """
    real = r.dtype.type
    x, y, z = np.float64(r[e, 0]), np.float64(r[e, 1]), np.float64(r[e, 2])
    d = np.sqrt(x * x + y * y + z * z)
    s = (d - grid[0]) * grid[2]
    k = min(int(s), n_knots - 2)
    return real(d), real(x / d), real(y / d), real(z / d), k, real(s - k)


@jit
def hermite(t, real):
    """Weights of values, scaled slopes and scaled curvatures at the knots left and right of t."""
    t3 = t * t * t
    t4, t5 = t3 * t, t3 * t * t
    right = real(10) * t3 - real(15) * t4 + real(6) * t5
    return (
        real(1) - right,
        t - real(6) * t3 + real(8) * t4 - real(3) * t5,
        real(0.5) * (t * t - t5) + real(1.5) * (t4 - t3),
        right,
        real(7) * t4 - real(4) * t3 - real(3) * t5,
        real(0.5) * (t3 + t5) - t4,
    )


@jit
def hermite_slope(t, real, scale):
    """Derivatives of :func:`hermite` with respect to t, times ``scale``."""
    t2 = scale * t * t
    t3, t4 = t2 * t, t2 * t * t
    right = real(30) * (t2 + t4) - real(60) * t3
    return (
        -right,
        scale - real(18) * t2 + real(32) * t3 - real(15) * t4,
        scale * t - real(4.5) * t2 + real(6) * t3 - real(2.5) * t4,
        right,
        real(28) * t3 - real(12) * t2 - real(15) * t4,
        real(1.5) * t2 - real(4) * t3 + real(2.5) * t4,
    )


@jit
def mix(h, table, k, c, f):
    """Interpolate filter ``c`` of feature ``f`` in interval ``k``."""
    return (
        h[0] * table[k, 0, c, f]
        + h[1] * table[k, 1, c, f]
        + h[2] * table[k, 2, c, f]
        + h[3] * table[k + 1, 0, c, f]
        + h[4] * table[k + 1, 1, c, f]
        + h[5] * table[k + 1, 2, c, f]
    )


@jit
def forward(first, last, starts, idx_j, r, table, grid, x, y, q, mu):
    r"""Add :math:`\Delta q, \Delta\mu` to ``q`` and ``mu`` of the atoms from first to last."""
    real = q.dtype.type
    aq, a0 = carray(tile(q), TILE), carray(tile(q), TILE)
    a1, a2 = carray(tile(q), TILE), carray(tile(q), TILE)
    n = min(q.shape[1], TILE)
    for i in range(first, last):
        for f in range(n):
            aq[f], a0[f], a1[f], a2[f] = q[i, f], mu[i, 0, f], mu[i, 1, f], mu[i, 2, f]
        for e in range(starts[i], starts[i + 1]):
            d, u0, u1, u2, k, t = pair(r, e, grid, table.shape[0])
            if d >= grid[1]:
                continue
            j, h = idx_j[e], hermite(t, real)
            if y.shape[0] > 0:
                for f in range(n):
                    aq[f] += mix(h, table, k, 0, f) * x[j, 0, f]
                    v = mix(h, table, k, 1, f) * x[j, 1, f]
                    w = mix(h, table, k, 2, f)
                    a0[f] += v * u0 + w * y[j, 0, f]
                    a1[f] += v * u1 + w * y[j, 1, f]
                    a2[f] += v * u2 + w * y[j, 2, f]
            else:
                for f in range(n):
                    aq[f] += mix(h, table, k, 0, f) * x[j, 0, f]
                    v = mix(h, table, k, 1, f) * x[j, 1, f]
                    a0[f] += v * u0
                    a1[f] += v * u1
                    a2[f] += v * u2
        for f in range(n):
            q[i, f], mu[i, 0, f], mu[i, 1, f], mu[i, 2, f] = aq[f], a0[f], a1[f], a2[f]


@jit
def grad_atoms(first, last, starts, idx_j, r, table, grid, gq, gmu, gx, gy):
    r"""Set :math:`g^x` (first two thirds) and :math:`g^y` of the atoms from first to last.

    .. math:: g^{x1}_i = \sum_j W^1 g^q_j, \quad g^{x2}_i = -\sum_j W^2\, g^\mu_j \cdot u,
       \quad g^y_i = \sum_j W^3 g^\mu_j
    """
    real = gq.dtype.type
    s1, s2 = carray(tile(gq), TILE), carray(tile(gq), TILE)
    a0, a1, a2 = carray(tile(gq), TILE), carray(tile(gq), TILE), carray(tile(gq), TILE)
    n = min(gq.shape[1], TILE)
    for i in range(first, last):
        for f in range(n):
            s1[f] = s2[f] = a0[f] = a1[f] = a2[f] = real(0)
        for e in range(starts[i], starts[i + 1]):
            d, u0, u1, u2, k, t = pair(r, e, grid, table.shape[0])
            if d >= grid[1]:
                continue
            j, h = idx_j[e], hermite(t, real)
            for f in range(n):
                g0, g1, g2 = gmu[j, 0, f], gmu[j, 1, f], gmu[j, 2, f]
                s1[f] += mix(h, table, k, 0, f) * gq[j, f]
                s2[f] -= mix(h, table, k, 1, f) * (g0 * u0 + g1 * u1 + g2 * u2)
                w = mix(h, table, k, 2, f)
                a0[f] += w * g0
                a1[f] += w * g1
                a2[f] += w * g2
        for f in range(n):
            gx[i, 0, f], gx[i, 1, f] = s1[f], s2[f]
            gy[i, 0, f], gy[i, 1, f], gy[i, 2, f] = a0[f], a1[f], a2[f]


@jit
def grad_pairs(first, last, starts, idx_j, r, table, grid, x, y, gq, gmu, gr):
    r"""Add :math:`\partial\epsilon_{ij} / \partial r` to the pairs of the atoms from first to last.

    .. math:: g^r = p'\,u + (v' \cdot u)\, u + (v - (v \cdot u)\, u) / d, \qquad
       p = \sum_f W^1 x^1_j g^q_i + W^3 y_j \cdot g^\mu_i, \quad v = \sum_f W^2 x^2_j g^\mu_i
    """
    real = gq.dtype.type
    for i in range(first, last):
        for e in range(starts[i], starts[i + 1]):
            d, u0, u1, u2, k, t = pair(r, e, grid, table.shape[0])
            if d >= grid[1]:
                continue
            j, h, dh = idx_j[e], hermite(t, real), hermite_slope(t, real, real(grid[2]))
            slope = v0 = v1 = v2 = real(0)
            for f in range(gq.shape[1]):
                g0, g1, g2 = gmu[i, 0, f], gmu[i, 1, f], gmu[i, 2, f]
                v = mix(h, table, k, 1, f) * x[j, 1, f]
                v0 += v * g0
                v1 += v * g1
                v2 += v * g2
                slope += mix(dh, table, k, 0, f) * x[j, 0, f] * gq[i, f]
                slope += mix(dh, table, k, 1, f) * x[j, 1, f] * (g0 * u0 + g1 * u1 + g2 * u2)
            if y.shape[0] > 0:
                for f in range(gq.shape[1]):
                    yg = y[j, 0, f] * gmu[i, 0, f]
                    yg += y[j, 1, f] * gmu[i, 1, f] + y[j, 2, f] * gmu[i, 2, f]
                    slope += mix(dh, table, k, 2, f) * yg
            slope -= (v0 * u0 + v1 * u1 + v2 * u2) / d
            gr[e, 0] += slope * u0 + v0 / d
            gr[e, 1] += slope * u1 + v1 / d
            gr[e, 2] += slope * u2 + v2 / d


@jit
def add(gtable, k, c, h, gw, n):
    """Add the gradient ``gw`` of filter ``c`` to the two knots it was interpolated from."""
    for order in range(3):
        for f in range(n):
            gtable[k, order, c, f] += h[order] * gw[f]
        for f in range(n):
            gtable[k + 1, order, c, f] += h[3 + order] * gw[f]


@jit
def grad_table(first, last, starts, idx_j, r, grid, x, y, gq, gmu, gtable):
    r"""Add the table's gradient from the pairs of the atoms from first to last.

    .. math:: g^{W1} = x^1_j g^q_i, \quad g^{W2} = x^2_j\, g^\mu_i \cdot u, \quad
       g^{W3} = y_j \cdot g^\mu_i
    """
    real = gq.dtype.type
    w1, w2, w3 = carray(tile(gq), TILE), carray(tile(gq), TILE), carray(tile(gq), TILE)
    n = min(gq.shape[1], TILE)
    for i in range(first, last):
        for e in range(starts[i], starts[i + 1]):
            d, u0, u1, u2, k, t = pair(r, e, grid, gtable.shape[0])
            if d >= grid[1]:
                continue
            j, h = idx_j[e], hermite(t, real)
            for f in range(n):
                g0, g1, g2 = gmu[i, 0, f], gmu[i, 1, f], gmu[i, 2, f]
                w1[f] = x[j, 0, f] * gq[i, f]
                w2[f] = x[j, 1, f] * (g0 * u0 + g1 * u1 + g2 * u2)
            add(gtable, k, 0, h, w1, n)
            add(gtable, k, 1, h, w2, n)
            if y.shape[0] > 0:
                for f in range(n):
                    w3[f] = y[j, 0, f] * gmu[i, 0, f] + y[j, 1, f] * gmu[i, 1, f]
                    w3[f] += y[j, 2, f] * gmu[i, 2, f]
                add(gtable, k, 2, h, w3, n)
