"""The elementwise kernels of the update block in Triton.

Equations as in :mod:`schnetpack_tpainn.nn.kernels.numba_update`; a program computes a tile of
``rows`` atoms by ``width`` features.
"""

import triton
import triton.language as tl

from schnetpack_tpainn.nn.kernels.triton_loops import dot, line, vector

__all__ = ["apply_gates", "context", "grad_gates", "grad_mix"]


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
def grad_gates(
    vw, gq, gmu, ggates, n_atoms,
    n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Set the gradient with respect to the gates."""
    i, f, mask = place(n_atoms, n, width, rows)
    v, w = mixed(vw, i, 0, f, mask, n), mixed(vw, i, 1, f, mask, n)
    g = tl.load(gq + i * n + f, mask=mask)
    at = ggates + i * (3 * n) + f
    tl.store(at, g, mask=mask)
    tl.store(at + n, dot(vector(gmu, i, f, mask, n), w), mask=mask)
    tl.store(at + 2 * n, g * dot(v, w), mask=mask)


@triton.jit
def grad_mix(
    vw, gates, context, gcontext, gq, gmu, gvw, n_atoms,
    n: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    r"""Set the gradient with respect to :math:`(v, w)`; add that of the context to ``gq``."""
    i, f, mask = place(n_atoms, n, width, rows)
    v, w = mixed(vw, i, 0, f, mask, n), mixed(vw, i, 1, f, mask, n)
    gmui, at, at_q = vector(gmu, i, f, mask, n), i * (2 * n) + f, gq + i * n + f
    g = tl.load(at_q, mask=mask)
    tl.store(at_q, g + tl.load(gcontext + at, mask=mask), mask=mask)
    g *= line(gates, i, 2, f, mask, n)
    gate = line(gates, i, 1, f, mask, n)
    through_norm = tl.load(gcontext + at + n, mask=mask)
    through_norm /= tl.load(context + at + n, mask=mask, other=1.0)
    for c in tl.static_range(3):
        at = gvw + i * (6 * n) + 2 * c * n + f
        tl.store(at, g * w[c] + through_norm * v[c], mask=mask)
        tl.store(at + n, g * v[c] + gate * gmui[c], mask=mask)
