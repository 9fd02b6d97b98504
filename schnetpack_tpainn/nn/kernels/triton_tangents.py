r"""The second derivatives in Triton.

Equations as in :mod:`schnetpack_tpainn.nn.kernels.numba_tangents`, tiles as in
:mod:`schnetpack_tpainn.nn.kernels.triton_loops`.
"""

import triton
import triton.language as tl

from schnetpack_tpainn.nn.kernels.triton_loops import (
    component,
    dot,
    hermite,
    hermite_slope,
    inverse_width,
    knots,
    line,
    mix,
    over_features,
    pair,
    total,
    vector,
)

__all__ = ["tangent", "tangent_grad_atoms", "tangent_grad_pairs", "tangent_grad_table"]


@triton.jit
def moving(rho, e, near, d, u):
    r"""The tangents :math:`\dot d` and :math:`\dot u`."""
    p0 = tl.load(rho + 3 * e, mask=near, other=0.0)
    p1 = tl.load(rho + 3 * e + 1, mask=near, other=0.0)
    p2 = tl.load(rho + 3 * e + 2, mask=near, other=0.0)
    c = p0 * u[0] + p1 * u[1] + p2 * u[2]
    return c, ((p0 - c * u[0]) / d, (p1 - c * u[1]) / d, (p2 - c * u[2]) / d)


@triton.jit
def hermite_curvature(t, scale):
    """Second derivatives of the Hermite weights with respect to t, times ``scale``."""
    t1 = scale * t
    right = 60 * t1 * (1 - t * (3 - 2 * t))
    return (
        -right,
        12 * t1 * (t * (8 - 5 * t) - 3),
        scale - t1 * (9 - t * (18 - 10 * t)),
        right,
        12 * t1 * (t * (7 - 5 * t) - 2),
        t1 * (3 - t * (12 - 10 * t)),
    )


@triton.jit
def tangent(
    starts, idx_j, r, table, grid, x, y, a, b, rho, q, mu, n_intervals,
    with_y: tl.constexpr, n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Set ``q`` and ``mu`` to the message's derivative along the tangents."""
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, width)[None, :]
    zero = tl.zeros((rows, width), q.dtype.element_ty)
    sq, s0, s1, s2 = zero, zero, zero, zero
    stop = tl.load(starts + i + 1)
    for first in range(tl.load(starts + i), stop, rows):
        e = first + tl.arange(0, rows)[:, None]
        j, near, d, u, k, t = pair(r, idx_j, grid, e, stop, n_intervals)
        c, du = moving(rho, e, near, d, u)
        mask, h, dh = near & (f < n), hermite(t), hermite_slope(t, c * inverse_width(grid, r))
        w1 = knots(table, k, 0, f, mask, n)
        sq += mix(h, w1) * line(a, j, 0, f, mask, n) + mix(dh, w1) * line(x, j, 0, f, mask, n)
        w2, x2 = knots(table, k, 1, f, mask, n), line(x, j, 1, f, mask, n)
        w = mix(h, w2)
        s = w * line(a, j, 1, f, mask, n) + mix(dh, w2) * x2
        w *= x2
        s0 += s * u[0] + w * du[0]
        s1 += s * u[1] + w * du[1]
        s2 += s * u[2] + w * du[2]
        if with_y:
            w3 = knots(table, k, 2, f, mask, n)
            w, s = mix(h, w3), mix(dh, w3)
            bj, yj = vector(b, j, f, mask, n), vector(y, j, f, mask, n)
            s0 += w * bj[0] + s * yj[0]
            s1 += w * bj[1] + s * yj[1]
            s2 += w * bj[2] + s * yj[2]
    mask, at = f < n, i * (3 * n) + f
    tl.store(q + i * n + f, total(sq), mask=mask)
    tl.store(mu + at, total(s0), mask=mask)
    tl.store(mu + at + n, total(s1), mask=mask)
    tl.store(mu + at + 2 * n, total(s2), mask=mask)


@triton.jit
def tangent_grad_atoms(
    starts, idx_j, r, table, grid, gq, gmu, rho, gx, gy, n_intervals,
    n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    r"""Set the derivatives of :math:`\dot\epsilon` by ``x`` (first two thirds) and ``y``."""
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, width)[None, :]
    zero = tl.zeros((rows, width), gq.dtype.element_ty)
    sx1, sx2, s0, s1, s2 = zero, zero, zero, zero, zero
    stop = tl.load(starts + i + 1)
    for first in range(tl.load(starts + i), stop, rows):
        e = first + tl.arange(0, rows)[:, None]
        j, near, d, u, k, t = pair(r, idx_j, grid, e, stop, n_intervals)
        c, du = moving(rho, e, near, d, u)
        mask, dh = near & (f < n), hermite_slope(t, c * inverse_width(grid, r))
        g = vector(gmu, j, f, mask, n)
        gqj = tl.load(gq + j * n + f, mask=mask, other=0.0)
        w2 = knots(table, k, 1, f, mask, n)
        sx1 += mix(dh, knots(table, k, 0, f, mask, n)) * gqj
        sx2 -= mix(dh, w2) * dot(g, u) + mix(hermite(t), w2) * dot(g, du)
        w = mix(dh, knots(table, k, 2, f, mask, n))
        s0 += w * g[0]
        s1 += w * g[1]
        s2 += w * g[2]
    mask, at = f < n, i * (3 * n) + f
    tl.store(gx + at, total(sx1), mask=mask)
    tl.store(gx + at + n, total(sx2), mask=mask)
    tl.store(gy + at, total(s0), mask=mask)
    tl.store(gy + at + n, total(s1), mask=mask)
    tl.store(gy + at + 2 * n, total(s2), mask=mask)


@triton.jit
def weighted(w, g):
    """Sums over features of a filter's features times the receiver's vectors."""
    return over_features(w * g[0]), over_features(w * g[1]), over_features(w * g[2])


@triton.jit
def tangent_grad_pairs(
    starts, idx_j, r, table, grid, x, y, a, b, gq, gmu, rho, gr, n_intervals,
    with_y: tl.constexpr, n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    r"""Set :math:`\partial\dot\epsilon_{ij} / \partial r`.

    With :math:`\epsilon = p + v \cdot u`: :math:`s' = p' + v' \cdot u` and :math:`s''` likewise,
    :math:`s'_a` and :math:`v_a` with tangents in place of features.
    """
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, width)[None, :]
    g = vector(gmu, i, f, f < n, n)
    gqi = tl.load(gq + i * n + f, mask=f < n, other=0.0)
    inv_h = inverse_width(grid, r)
    stop = tl.load(starts + i + 1)
    for first in range(tl.load(starts + i), stop, rows):
        e = first + tl.arange(0, rows)[:, None]
        j, near, d, u, k, t = pair(r, idx_j, grid, e, stop, n_intervals)
        c, du = moving(rho, e, near, d, u)
        mask, dh, ddh = near & (f < n), hermite_slope(t, inv_h), hermite_curvature(t, inv_h * inv_h)
        w, x1 = knots(table, k, 0, f, mask, n), line(x, j, 0, f, mask, n) * gqi
        s1, s2 = mix(dh, w) * x1, mix(ddh, w) * x1
        sa = mix(dh, w) * line(a, j, 0, f, mask, n) * gqi
        w, gu = knots(table, k, 1, f, mask, n), dot(g, u)
        x2, a2 = line(x, j, 1, f, mask, n), line(a, j, 1, f, mask, n)
        v, dv = weighted(mix(hermite(t), w) * x2, g), weighted(mix(dh, w) * x2, g)
        va = weighted(mix(hermite(t), w) * a2, g)
        s2 += mix(ddh, w) * x2 * gu
        sa += mix(dh, w) * a2 * gu
        if with_y:
            w = knots(table, k, 2, f, mask, n)
            yg = dot(vector(y, j, f, mask, n), g)
            s1 += mix(dh, w) * yg
            s2 += mix(ddh, w) * yg
            sa += mix(dh, w) * dot(vector(b, j, f, mask, n), g)
        slope = over_features(s1) + dot(dv, u)
        vu = dot(v, u)
        along = over_features(s2) * c + dot(dv, du) + over_features(sa)
        along -= (dot(va, u) + dot(dv, u) * c + dot(v, du) - vu * c / d) / d
        m = tl.arange(0, 4)[None, :]
        um, dum = component(u, m), component(du, m)
        across = component(va, m) + component(dv, m) * c - vu * dum - component(v, m) * c / d
        value = tl.where(near, along * um + slope * dum + across / d, 0.0)
        tl.store(gr + 3 * e + m, value, mask=(e < stop) & (m < 3))


@triton.jit
def add_both(gtable, k, c: tl.constexpr, h, gw, dh, gdw, f, mask, n: tl.constexpr):
    r"""Add the gradients of :math:`W` and :math:`\dot W` to the knots, as :func:`.add` does."""
    at = gtable + k * (9 * n) + c * n + f
    for m in tl.static_range(6):
        tl.atomic_add(at + 3 * m * n, h[m] * gw + dh[m] * gdw, mask=mask, sem="relaxed")


@triton.jit
def tangent_grad_table(
    starts, idx_j, r, grid, x, y, a, b, gq, gmu, rho, gtable, n_intervals,
    with_y: tl.constexpr, n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    r"""Add the gradient of the table, through :math:`W` and through :math:`\dot W`."""
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, width)[None, :]
    g = vector(gmu, i, f, f < n, n)
    gqi = tl.load(gq + i * n + f, mask=f < n, other=0.0)
    stop = tl.load(starts + i + 1)
    for first in range(tl.load(starts + i), stop, rows):
        e = first + tl.arange(0, rows)[:, None]
        j, near, d, u, k, t = pair(r, idx_j, grid, e, stop, n_intervals)
        c, du = moving(rho, e, near, d, u)
        mask, h, dh = near & (f < n), hermite(t), hermite_slope(t, c * inverse_width(grid, r))
        gw, gdw = line(a, j, 0, f, mask, n) * gqi, line(x, j, 0, f, mask, n) * gqi
        add_both(gtable, k, 0, h, gw, dh, gdw, f, mask, n)
        x2, gu = line(x, j, 1, f, mask, n), dot(g, u)
        gw = line(a, j, 1, f, mask, n) * gu + x2 * dot(g, du)
        add_both(gtable, k, 1, h, gw, dh, x2 * gu, f, mask, n)
        if with_y:
            gw, gdw = dot(vector(b, j, f, mask, n), g), dot(vector(y, j, f, mask, n), g)
            add_both(gtable, k, 2, h, gw, dh, gdw, f, mask, n)
