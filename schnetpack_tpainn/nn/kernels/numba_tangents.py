r"""The loops of the second derivatives; notation as in :mod:`.numba_loops`.

With tangents :math:`a, b, \rho` of :math:`x, y, r`, :math:`\dot d = \rho \cdot u`,
:math:`\dot u = (\rho - \dot d\, u) / d` and :math:`\dot W = \dot d\, W'`, a pair contributes

.. math::
   \dot\epsilon_{ij} = \sum_f (W^1 a^1_j + \dot W^1 x^1_j)\, g^q_i
     + (W^2 a^2_j + \dot W^2 x^2_j)\,(g^\mu_i \cdot u) + W^2 x^2_j\, (g^\mu_i \cdot \dot u)
     + (W^3 b_j + \dot W^3 y_j) \cdot g^\mu_i
"""

from numba import carray

from schnetpack_tpainn.nn.kernels.numba_loops import (
    TILE,
    hermite,
    hermite_slope,
    jit,
    mix,
    pair,
    tile,
)

__all__ = ["tangent", "tangent_grad_atoms", "tangent_grad_pairs", "tangent_grad_table"]


@jit
def _moving(d, u0, u1, u2, rho, e):
    r"""The tangents :math:`\dot d` and :math:`\dot u`."""
    p0, p1, p2 = rho[e, 0], rho[e, 1], rho[e, 2]
    c = p0 * u0 + p1 * u1 + p2 * u2
    return c, (p0 - c * u0) / d, (p1 - c * u1) / d, (p2 - c * u2) / d


@jit
def _hermite_curvature(t, real, scale):
    """Second derivatives of the Hermite weights with respect to t, times ``scale``."""
    t1 = scale * t
    t2, t3 = t1 * t, t1 * t * t
    right = real(60) * t1 - real(180) * t2 + real(120) * t3
    return (
        -right,
        real(96) * t2 - real(36) * t1 - real(60) * t3,
        scale - real(9) * t1 + real(18) * t2 - real(10) * t3,
        right,
        real(84) * t2 - real(24) * t1 - real(60) * t3,
        real(3) * t1 - real(12) * t2 + real(10) * t3,
    )


@jit
def tangent(first, last, starts, idx_j, r, table, grid, x, y, a, b, rho, q, mu):
    r"""Set ``q`` and ``mu`` of the atoms from first to last to the message's derivative.

    It is :math:`\partial\dot\epsilon / \partial g^q_i` and :math:`\partial\dot\epsilon / \partial
    g^\mu_i`.
    """
    real = q.dtype.type
    aq, a0 = carray(tile(q), TILE), carray(tile(q), TILE)
    a1, a2 = carray(tile(q), TILE), carray(tile(q), TILE)
    n = min(q.shape[1], TILE)
    for i in range(first, last):
        for f in range(n):
            aq[f] = a0[f] = a1[f] = a2[f] = real(0)
        for e in range(starts[i], starts[i + 1]):
            d, u0, u1, u2, k, t = pair(r, e, grid, table.shape[0])
            if d >= grid[1]:
                continue
            c, e0, e1, e2 = _moving(d, u0, u1, u2, rho, e)
            j, h = idx_j[e], hermite(t, real)
            dh = hermite_slope(t, real, c * real(grid[2]))
            for f in range(n):
                aq[f] += mix(h, table, k, 0, f) * a[j, 0, f] + mix(dh, table, k, 0, f) * x[j, 0, f]
                w = mix(h, table, k, 1, f)
                s = w * a[j, 1, f] + mix(dh, table, k, 1, f) * x[j, 1, f]
                w *= x[j, 1, f]
                a0[f] += s * u0 + w * e0
                a1[f] += s * u1 + w * e1
                a2[f] += s * u2 + w * e2
            if y.shape[0] > 0:
                for f in range(n):
                    w, s = mix(h, table, k, 2, f), mix(dh, table, k, 2, f)
                    a0[f] += w * b[j, 0, f] + s * y[j, 0, f]
                    a1[f] += w * b[j, 1, f] + s * y[j, 1, f]
                    a2[f] += w * b[j, 2, f] + s * y[j, 2, f]
        for f in range(n):
            q[i, f], mu[i, 0, f], mu[i, 1, f], mu[i, 2, f] = aq[f], a0[f], a1[f], a2[f]


@jit
def tangent_grad_atoms(first, last, starts, idx_j, r, table, grid, gq, gmu, rho, gx, gy):
    r"""Set the gradients of :math:`\dot\epsilon` of the atoms from first to last.

    With respect to :math:`x` (first two thirds) and :math:`y`.
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
            c, e0, e1, e2 = _moving(d, u0, u1, u2, rho, e)
            j, h = idx_j[e], hermite(t, real)
            dh = hermite_slope(t, real, c * real(grid[2]))
            for f in range(n):
                g0, g1, g2 = gmu[j, 0, f], gmu[j, 1, f], gmu[j, 2, f]
                s1[f] += mix(dh, table, k, 0, f) * gq[j, f]
                s2[f] -= mix(dh, table, k, 1, f) * (g0 * u0 + g1 * u1 + g2 * u2)
                s2[f] -= mix(h, table, k, 1, f) * (g0 * e0 + g1 * e1 + g2 * e2)
                w = mix(dh, table, k, 2, f)
                a0[f] += w * g0
                a1[f] += w * g1
                a2[f] += w * g2
        for f in range(n):
            gx[i, 0, f], gx[i, 1, f] = s1[f], s2[f]
            gy[i, 0, f], gy[i, 1, f], gy[i, 2, f] = a0[f], a1[f], a2[f]


@jit
def _add(gtable, k, c, h, gw, dh, gdw, n):
    r"""Add the gradients of filter ``c`` and of its :math:`\dot W` to the two knots behind them."""
    for order in range(3):
        for f in range(n):
            gtable[k, order, c, f] += h[order] * gw[f] + dh[order] * gdw[f]
        for f in range(n):
            gtable[k + 1, order, c, f] += h[3 + order] * gw[f] + dh[3 + order] * gdw[f]


@jit
def tangent_grad_table(first, last, starts, idx_j, r, grid, x, y, a, b, gq, gmu, rho, gtable):
    r"""Add the table's gradient of :math:`\dot\epsilon` from the pairs of the atoms first to last.

    The table enters through :math:`W` and through :math:`\dot W`.
    """
    real = gq.dtype.type
    w1, w2, w3 = carray(tile(gq), TILE), carray(tile(gq), TILE), carray(tile(gq), TILE)
    v1, v2, v3 = carray(tile(gq), TILE), carray(tile(gq), TILE), carray(tile(gq), TILE)
    n = min(gq.shape[1], TILE)
    for i in range(first, last):
        for e in range(starts[i], starts[i + 1]):
            d, u0, u1, u2, k, t = pair(r, e, grid, gtable.shape[0])
            if d >= grid[1]:
                continue
            c, e0, e1, e2 = _moving(d, u0, u1, u2, rho, e)
            j, h = idx_j[e], hermite(t, real)
            dh = hermite_slope(t, real, c * real(grid[2]))
            for f in range(n):
                g0, g1, g2 = gmu[i, 0, f], gmu[i, 1, f], gmu[i, 2, f]
                gu = g0 * u0 + g1 * u1 + g2 * u2
                w1[f], v1[f] = a[j, 0, f] * gq[i, f], x[j, 0, f] * gq[i, f]
                w2[f] = a[j, 1, f] * gu + x[j, 1, f] * (g0 * e0 + g1 * e1 + g2 * e2)
                v2[f] = x[j, 1, f] * gu
            _add(gtable, k, 0, h, w1, dh, v1, n)
            _add(gtable, k, 1, h, w2, dh, v2, n)
            if y.shape[0] > 0:
                for f in range(n):
                    g0, g1, g2 = gmu[i, 0, f], gmu[i, 1, f], gmu[i, 2, f]
                    w3[f] = b[j, 0, f] * g0 + b[j, 1, f] * g1 + b[j, 2, f] * g2
                    v3[f] = y[j, 0, f] * g0 + y[j, 1, f] * g1 + y[j, 2, f] * g2
                _add(gtable, k, 2, h, w3, dh, v3, n)


@jit
def _sums(i, j, h, dh, ddh, u0, u1, u2, table, k, x, y, a, b, gq, gmu):
    r"""Sums over features for :func:`tangent_grad_pairs`.

    With :math:`p = \sum_f W^1 x^1_j g^q_i + W^3 y_j \cdot g^\mu_i`,
    :math:`v = \sum_f W^2 x^2_j g^\mu_i`, and :math:`p_a, v_a` with tangents for features:
    :math:`p' + v' \cdot u,\; p'' + v'' \cdot u,\; p_a' + v_a' \cdot u,\; v,\; v',\; v_a`.
    """
    zero = gq.dtype.type(0)
    s1 = s2 = sa = v0 = v1 = v2 = d0 = d1 = d2 = a0 = a1 = a2 = zero
    for f in range(gq.shape[1]):
        g0, g1, g2 = gmu[i, 0, f], gmu[i, 1, f], gmu[i, 2, f]
        gu = g0 * u0 + g1 * u1 + g2 * u2
        w, dw = mix(h, table, k, 1, f), mix(dh, table, k, 1, f)
        xw, xd, aw = w * x[j, 1, f], dw * x[j, 1, f], w * a[j, 1, f]
        v0, v1, v2 = v0 + xw * g0, v1 + xw * g1, v2 + xw * g2
        d0, d1, d2 = d0 + xd * g0, d1 + xd * g1, d2 + xd * g2
        a0, a1, a2 = a0 + aw * g0, a1 + aw * g1, a2 + aw * g2
        dw1 = mix(dh, table, k, 0, f) * gq[i, f]
        s1 += xd * gu + dw1 * x[j, 0, f]
        sa += dw * a[j, 1, f] * gu + dw1 * a[j, 0, f]
        s2 += mix(ddh, table, k, 1, f) * x[j, 1, f] * gu
        s2 += mix(ddh, table, k, 0, f) * x[j, 0, f] * gq[i, f]
    if y.shape[0] > 0:
        for f in range(gq.shape[1]):
            g0, g1, g2 = gmu[i, 0, f], gmu[i, 1, f], gmu[i, 2, f]
            yg = y[j, 0, f] * g0 + y[j, 1, f] * g1 + y[j, 2, f] * g2
            dw = mix(dh, table, k, 2, f)
            s1 += dw * yg
            sa += dw * (b[j, 0, f] * g0 + b[j, 1, f] * g1 + b[j, 2, f] * g2)
            s2 += mix(ddh, table, k, 2, f) * yg
    return s1, s2, sa, (v0, v1, v2), (d0, d1, d2), (a0, a1, a2)


@jit
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@jit
def tangent_grad_pairs(first, last, starts, idx_j, r, table, grid, x, y, a, b, gq, gmu, rho, gr):
    r"""Set :math:`\partial\dot\epsilon_{ij} / \partial r` of the pairs of the atoms first to last.

    It is the Hessian of :math:`\epsilon = p + v \cdot u` times :math:`\rho`, and the gradient of
    :math:`\epsilon` with tangents for features.
    """
    real = gq.dtype.type
    inv_h = real(grid[2])
    for i in range(first, last):
        for e in range(starts[i], starts[i + 1]):
            d, u0, u1, u2, k, t = pair(r, e, grid, table.shape[0])
            if d >= grid[1]:
                gr[e] = 0
                continue
            c, e0, e1, e2 = _moving(d, u0, u1, u2, rho, e)
            u, du, j = (u0, u1, u2), (e0, e1, e2), idx_j[e]
            h, dh = hermite(t, real), hermite_slope(t, real, inv_h)
            ddh = _hermite_curvature(t, real, inv_h * inv_h)
            s1, s2, sa, v, dv, va = _sums(
                i, j, h, dh, ddh, u0, u1, u2, table, k, x, y, a, b, gq, gmu
            )
            vu, vdu = _dot(v, u), _dot(v, du)
            along = s2 * c + _dot(dv, du) + sa
            along -= (_dot(va, u) + _dot(dv, u) * c + vdu - vu * c / d) / d
            for m in range(3):
                across = va[m] + dv[m] * c - vu * du[m] - v[m] * c / d
                gr[e, m] = along * u[m] + s1 * du[m] + across / d
