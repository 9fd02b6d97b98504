r"""The message kernel in Triton: one program an atom, one function per derivative.

The equations and the notation are those of :mod:`schnetpack_tpainn.nn.kernels.numba_loops`. A
program walks over the pairs of its atom ``i`` in tiles of ``rows`` pairs by ``width`` features,
``width`` being the power of two that holds the ``n`` features. What belongs to a pair (``e``,
``j``, ``u``, ``h`` ...) has shape (rows, 1), what belongs to a feature (1, width); filters and sums
fill the tile. Lanes run along features, so rows of features and of the table are read as a whole.
Programs share nothing but the gradient of the table, to which all add atomically: the order of
that sum, and so its last digits, vary.

A pair is *near* if it is listed and below the cutoff; others are masked. Where ``idx_j`` is
negative, the list is unsuitable (see :mod:`schnetpack_tpainn.nn.kernels.triton_pairs`): then the
distance is NaN, which counts as near, and so is every result.
"""

import triton
import triton.language as tl

__all__ = ["grad_atoms", "grad_pairs", "grad_table", "message"]


@triton.jit
def pair(r, idx_j, grid, e, stop, n_intervals):
    """Sender, whether it is near, distance, unit vector, interval of the table, place in it.

    The place is in double precision, for it has as many digits as there are intervals and
    positions. One Newton step gives the distance so, for less than a double root costs on most
    GPUs.
    """
    listed = e < stop
    j = tl.load(idx_j + e, mask=listed, other=0)
    x = tl.load(r + 3 * e, mask=listed, other=1.0)
    y = tl.load(r + 3 * e + 1, mask=listed, other=1.0)
    z = tl.load(r + 3 * e + 2, mask=listed, other=1.0)
    x2, y2, z2 = x.to(tl.float64), y.to(tl.float64), z.to(tl.float64)
    d2 = x2 * x2 + y2 * y2 + z2 * z2
    d = tl.where(j < 0, float("nan"), tl.sqrt(d2.to(x.dtype)))
    rounded = d.to(tl.float64)
    exact = rounded + ((d2 - rounded * rounded).to(x.dtype) / (2 * d)).to(tl.float64)
    near = listed & ~(exact >= tl.load(grid + 1))
    s = (exact - tl.load(grid)) * tl.load(grid + 2)
    # The last interval holds what is rounded up to the cutoff; NaN gives any integer.
    k = tl.minimum(tl.maximum(s.to(tl.int32), 0), n_intervals - 1)
    return tl.maximum(j, 0), near, d, (x / d, y / d, z / d), k, (s - k).to(x.dtype)


@triton.jit
def inverse_width(grid, r):
    """One over the width of the intervals, in the dtype of ``r``."""
    return tl.load(grid + 2).to(r.dtype.element_ty)


@triton.jit
def hermite(t):
    """Weights of values, scaled slopes and scaled curvatures at the knots left and right of t."""
    t2, t3 = t * t, t * t * t
    right = t3 * (10 - t * (15 - 6 * t))
    return (
        1 - right,
        t - t3 * (6 - t * (8 - 3 * t)),
        0.5 * (t2 - t3 * (3 - t * (3 - t))),
        right,
        t3 * (t * (7 - 3 * t) - 4),
        0.5 * t3 * (1 - t * (2 - t)),
    )


@triton.jit
def hermite_slope(t, scale):
    """Derivatives of :func:`hermite` with respect to t, times ``scale``."""
    t2 = scale * t * t
    right = 30 * t2 * (1 - t) * (1 - t)
    return (
        -right,
        scale - t2 * (18 - t * (32 - 15 * t)),
        scale * t - t2 * (4.5 - t * (6 - 2.5 * t)),
        right,
        t2 * (t * (28 - 15 * t) - 12),
        t2 * (1.5 - t * (4 - 2.5 * t)),
    )


@triton.jit
def knots(table, k, c: tl.constexpr, f, mask, n: tl.constexpr):
    """Value, slope and curvature of filter ``c`` at the left knot, and at the right."""
    at = table + k * (9 * n) + c * n + f
    return (
        tl.load(at, mask=mask, other=0.0),
        tl.load(at + 3 * n, mask=mask, other=0.0),
        tl.load(at + 6 * n, mask=mask, other=0.0),
        tl.load(at + 9 * n, mask=mask, other=0.0),
        tl.load(at + 12 * n, mask=mask, other=0.0),
        tl.load(at + 15 * n, mask=mask, other=0.0),
    )


@triton.jit
def mix(h, w):
    """Interpolate a filter between knots."""
    return h[0] * w[0] + h[1] * w[1] + h[2] * w[2] + h[3] * w[3] + h[4] * w[4] + h[5] * w[5]


@triton.jit
def line(pointer, i, c: tl.constexpr, f, mask, n: tl.constexpr):
    """Read ``[i, c]`` of a tensor of shape (N, 3, n)."""
    return tl.load(pointer + i * (3 * n) + c * n + f, mask=mask, other=0.0)


@triton.jit
def vector(pointer, i, f, mask, n: tl.constexpr):
    """Read ``[i]`` of a tensor of shape (N, 3, n)."""
    return (
        line(pointer, i, 0, f, mask, n),
        line(pointer, i, 1, f, mask, n),
        line(pointer, i, 2, f, mask, n),
    )


@triton.jit
def dot(a, b):
    """Scalar product of vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@triton.jit
def component(a, m):
    """Components ``m`` of vectors."""
    return tl.where(m == 0, a[0], tl.where(m == 1, a[1], a[2]))


@triton.jit
def total(tile):
    """Sum over the pairs of a tile, shape (1, width)."""
    return tl.sum(tile, 0, keep_dims=True)


@triton.jit
def over_features(tile):
    """Sum over the features of a tile, shape (rows, 1)."""
    return tl.sum(tile, 1, keep_dims=True)


@triton.jit
def message(
    starts, idx_j, r, table, grid, x, y, q, mu, n_intervals,
    with_y: tl.constexpr, n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    r"""Add :math:`\Delta q, \Delta\mu` to ``q`` and ``mu``."""
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, width)[None, :]
    zero = tl.zeros((rows, width), q.dtype.element_ty)
    sq, s0, s1, s2 = zero, zero, zero, zero
    stop = tl.load(starts + i + 1)
    for first in range(tl.load(starts + i), stop, rows):
        e = first + tl.arange(0, rows)[:, None]
        j, near, _, u, k, t = pair(r, idx_j, grid, e, stop, n_intervals)
        h, mask = hermite(t), near & (f < n)
        sq += mix(h, knots(table, k, 0, f, mask, n)) * line(x, j, 0, f, mask, n)
        w = mix(h, knots(table, k, 1, f, mask, n)) * line(x, j, 1, f, mask, n)
        s0 += w * u[0]
        s1 += w * u[1]
        s2 += w * u[2]
        if with_y:
            w = mix(h, knots(table, k, 2, f, mask, n))
            yj = vector(y, j, f, mask, n)
            s0 += w * yj[0]
            s1 += w * yj[1]
            s2 += w * yj[2]
    mask, at_q, at_mu = f < n, q + i * n + f, mu + i * (3 * n) + f
    tl.store(at_q, tl.load(at_q, mask=mask) + total(sq), mask=mask)
    tl.store(at_mu, tl.load(at_mu, mask=mask) + total(s0), mask=mask)
    tl.store(at_mu + n, tl.load(at_mu + n, mask=mask) + total(s1), mask=mask)
    tl.store(at_mu + 2 * n, tl.load(at_mu + 2 * n, mask=mask) + total(s2), mask=mask)


@triton.jit
def grad_atoms(
    starts, idx_j, r, table, grid, gq, gmu, gx, gy, n_intervals,
    n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Set the gradients of ``x`` (first two thirds) and ``y``."""
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, width)[None, :]
    zero = tl.zeros((rows, width), gq.dtype.element_ty)
    sx1, sx2, s0, s1, s2 = zero, zero, zero, zero, zero
    stop = tl.load(starts + i + 1)
    for first in range(tl.load(starts + i), stop, rows):
        e = first + tl.arange(0, rows)[:, None]
        j, near, _, u, k, t = pair(r, idx_j, grid, e, stop, n_intervals)
        h, mask = hermite(t), near & (f < n)
        g = vector(gmu, j, f, mask, n)
        gqj = tl.load(gq + j * n + f, mask=mask, other=0.0)
        sx1 += mix(h, knots(table, k, 0, f, mask, n)) * gqj
        sx2 -= mix(h, knots(table, k, 1, f, mask, n)) * dot(g, u)
        w = mix(h, knots(table, k, 2, f, mask, n))
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
def grad_pairs(
    starts, idx_j, r, table, grid, x, y, gq, gmu, gr, n_intervals,
    with_y: tl.constexpr, n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    r"""Add :math:`\partial\epsilon_{ij} / \partial r` to ``gr``."""
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, width)[None, :]
    g = vector(gmu, i, f, f < n, n)
    gqi = tl.load(gq + i * n + f, mask=f < n, other=0.0)
    stop = tl.load(starts + i + 1)
    for first in range(tl.load(starts + i), stop, rows):
        e = first + tl.arange(0, rows)[:, None]
        j, near, d, u, k, t = pair(r, idx_j, grid, e, stop, n_intervals)
        mask, dh = near & (f < n), hermite_slope(t, inverse_width(grid, r))
        x2 = line(x, j, 1, f, mask, n)
        w2 = knots(table, k, 1, f, mask, n)
        v = mix(hermite(t), w2) * x2
        slopes = mix(dh, knots(table, k, 0, f, mask, n)) * line(x, j, 0, f, mask, n) * gqi
        slopes += mix(dh, w2) * x2 * dot(g, u)
        if with_y:
            slopes += mix(dh, knots(table, k, 2, f, mask, n)) * dot(vector(y, j, f, mask, n), g)
        v = over_features(v * g[0]), over_features(v * g[1]), over_features(v * g[2])
        slope = over_features(slopes) - dot(v, u) / d
        m = tl.arange(0, 4)[None, :]
        at, mask = gr + 3 * e + m, near & (m < 3)
        value = slope * component(u, m) + component(v, m) / d
        tl.store(at, tl.load(at, mask=mask) + value, mask=mask)


@triton.jit
def add(gtable, k, c: tl.constexpr, h, gw, f, mask, n: tl.constexpr):
    """Add the gradient ``gw`` of filter ``c`` to the two knots it was interpolated from."""
    at = gtable + k * (9 * n) + c * n + f
    for m in tl.static_range(6):
        tl.atomic_add(at + 3 * m * n, h[m] * gw, mask=mask, sem="relaxed")


@triton.jit
def grad_table(
    starts, idx_j, r, grid, x, y, gq, gmu, gtable, n_intervals,
    with_y: tl.constexpr, n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Add the gradient of the table."""
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, width)[None, :]
    g = vector(gmu, i, f, f < n, n)
    gqi = tl.load(gq + i * n + f, mask=f < n, other=0.0)
    stop = tl.load(starts + i + 1)
    for first in range(tl.load(starts + i), stop, rows):
        e = first + tl.arange(0, rows)[:, None]
        j, near, _, u, k, t = pair(r, idx_j, grid, e, stop, n_intervals)
        h, mask = hermite(t), near & (f < n)
        add(gtable, k, 0, h, line(x, j, 0, f, mask, n) * gqi, f, mask, n)
        add(gtable, k, 1, h, line(x, j, 1, f, mask, n) * dot(g, u), f, mask, n)
        if with_y:
            add(gtable, k, 2, h, dot(vector(y, j, f, mask, n), g), f, mask, n)
