"""The elementwise kernels of the update block in Triton.

Equations as in :mod:`schnetpack_tpainn.nn.kernels.numba_update`; a program computes a tile of
``rows`` atoms by ``width`` features.
"""

import triton
import triton.language as tl

from schnetpack_tpainn.nn.kernels.triton_loops import dot, vector

__all__ = [
    "apply_gates",
    "context",
    "grad_context",
    "grad_gates",
    "tangent_context",
    "tangent_gates",
]


@triton.jit
def place(n_atoms, n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr):
    """Atoms (rows, 1), features (1, width), and which exist."""
    i = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)[:, None]
    f = tl.arange(0, width)[None, :]
    return i, f, (i < n_atoms) & (f < n)


@triton.jit
def mixed(vw, i, c: tl.constexpr, f, mask, n: tl.constexpr):
    r"""Read ``[i, :, c]`` of shape (N, 3, 2, n): :math:`v` (0) or :math:`w` (1)."""
    at = vw + i * (6 * n) + c * n + f
    return (
        tl.load(at, mask=mask),
        tl.load(at + 2 * n, mask=mask),
        tl.load(at + 4 * n, mask=mask),
    )


@triton.jit
def context(
    q, vw, epsilon, out, n_atoms,
    n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    r"""Set the context :math:`(q, \nu)`, shape (N, 2, n)."""
    i, f, mask = place(n_atoms, n, width, rows)
    v = mixed(vw, i, 0, f, mask, n)
    at = out + i * (2 * n) + f
    tl.store(at, tl.load(q + i * n + f, mask=mask), mask=mask)
    tl.store(at + n, tl.sqrt(dot(v, v) + epsilon), mask=mask)


@triton.jit
def apply_gates(
    vw, gates, q, mu, n_atoms,
    n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Add the update to ``q`` and ``mu``."""
    i, f, mask = place(n_atoms, n, width, rows)
    v, w = mixed(vw, i, 0, f, mask, n), mixed(vw, i, 1, f, mask, n)
    gate = vector(gates, i, f, mask, n)
    at = q + i * n + f
    tl.store(at, tl.load(at, mask=mask) + gate[0] + gate[2] * dot(v, w), mask=mask)
    for c in tl.static_range(3):
        at = mu + i * (3 * n) + c * n + f
        tl.store(at, tl.load(at, mask=mask) + gate[1] * w[c], mask=mask)


@triton.jit
def grad_context(
    vw, context, gcontext, gvw, n_atoms,
    n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    r"""Add the gradient through the norm to that of :math:`v`."""
    i, f, mask = place(n_atoms, n, width, rows)
    v, at = mixed(vw, i, 0, f, mask, n), i * (2 * n) + n + f
    g = tl.load(gcontext + at, mask=mask) / tl.load(context + at, mask=mask, other=1.0)
    for c in tl.static_range(3):
        at = gvw + i * (6 * n) + 2 * c * n + f
        tl.store(at, tl.load(at, mask=mask) + g * v[c], mask=mask)


@triton.jit
def tangent_context(
    vw, context, gcontext, a, ocontext, ovw, n_atoms,
    n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Set the second derivatives of the norm."""
    i, f, mask = place(n_atoms, n, width, rows)
    v, dv = mixed(vw, i, 0, f, mask, n), mixed(a, i, 0, f, mask, n)
    at = i * (2 * n) + f
    norm = tl.load(context + at + n, mask=mask, other=1.0)
    along = dot(v, dv) / norm
    tl.store(ocontext + at, tl.zeros_like(along), mask=mask)
    tl.store(ocontext + at + n, along, mask=mask)
    g = tl.load(gcontext + at + n, mask=mask) / norm
    for c in tl.static_range(3):
        at = ovw + i * (6 * n) + 2 * c * n + f
        tl.store(at, g * (dv[c] - v[c] * along / norm), mask=mask)
        tl.store(at + n, tl.zeros_like(along), mask=mask)


@triton.jit
def grad_gates(
    vw, gates, gq, gmu, ggates, gvw, n_atoms,
    n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    r"""Set the gradients of the gates and of :math:`(v, w)`."""
    i, f, mask = place(n_atoms, n, width, rows)
    v, w = mixed(vw, i, 0, f, mask, n), mixed(vw, i, 1, f, mask, n)
    gate, gmui = vector(gates, i, f, mask, n), vector(gmu, i, f, mask, n)
    g = tl.load(gq + i * n + f, mask=mask)
    at = ggates + i * (3 * n) + f
    tl.store(at, g, mask=mask)
    tl.store(at + n, dot(gmui, w), mask=mask)
    tl.store(at + 2 * n, g * dot(v, w), mask=mask)
    for c in tl.static_range(3):
        at = gvw + i * (6 * n) + 2 * c * n + f
        tl.store(at, g * gate[2] * w[c], mask=mask)
        tl.store(at + n, g * gate[2] * v[c] + gate[1] * gmui[c], mask=mask)


@triton.jit
def tangent_gates(
    vw, gates, gq, gmu, a, b, ovw, ogates, oq, omu, n_atoms,
    n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Set the second derivatives of the update."""
    i, f, mask = place(n_atoms, n, width, rows)
    v, w = mixed(vw, i, 0, f, mask, n), mixed(vw, i, 1, f, mask, n)
    dv, dw = mixed(a, i, 0, f, mask, n), mixed(a, i, 1, f, mask, n)
    gate, dgate = vector(gates, i, f, mask, n), vector(b, i, f, mask, n)
    g, gmui = tl.load(gq + i * n + f, mask=mask), vector(gmu, i, f, mask, n)
    s = dot(v, dw) + dot(w, dv)
    at = ogates + i * (3 * n) + f
    tl.store(at, tl.zeros_like(s), mask=mask)
    tl.store(at + n, dot(gmui, dw), mask=mask)
    tl.store(at + 2 * n, g * s, mask=mask)
    tl.store(oq + i * n + f, dgate[0] + dgate[2] * dot(v, w) + gate[2] * s, mask=mask)
    for c in tl.static_range(3):
        at = ovw + i * (6 * n) + 2 * c * n + f
        tl.store(at, g * (dgate[2] * w[c] + gate[2] * dw[c]), mask=mask)
        of_w = g * (dgate[2] * v[c] + gate[2] * dv[c]) + dgate[1] * gmui[c]
        tl.store(at + n, of_w, mask=mask)
        at = omu + i * (3 * n) + c * n + f
        tl.store(at, gate[1] * dw[c] + dgate[1] * w[c], mask=mask)
