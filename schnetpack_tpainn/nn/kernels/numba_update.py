r"""The elementwise loops of the update block, compiled by numba.

With :math:`(v, w) = \mu\,M` of shape (N, 3, 2, F) and gates :math:`(g^1, g^2, g^3)`, a network of
the context :math:`(q, \nu)`, :math:`\nu = \sqrt{|v|^2 + \epsilon}`:

.. math::
   q \mathrel{+}= g^1 + g^3\, (v \cdot w), \qquad \mu \mathrel{+}= g^2\, w

Gradients are written :math:`\bar q` for that of :math:`q`; tangents :math:`\dot v, \dot w,
\dot g`. Second derivatives are gradients of the first ones' scalar product with the tangents.
"""

import numpy as np

from schnetpack_tpainn.nn.kernels.numba_loops import jit

__all__ = [
    "apply_gates",
    "context",
    "grad_context",
    "grad_gates",
    "tangent_context",
    "tangent_gates",
]


@jit
def context(first, last, q, vw, epsilon, out):
    r"""Set the context :math:`(q, \nu)`, shape (N, 2, F)."""
    for i in range(first, last):
        for f in range(q.shape[1]):
            v0, v1, v2 = vw[i, 0, 0, f], vw[i, 1, 0, f], vw[i, 2, 0, f]
            out[i, 1, f] = np.sqrt(v0 * v0 + v1 * v1 + v2 * v2 + epsilon)
        out[i, 0] = q[i]


@jit
def grad_context(first, last, vw, context, gcontext, gvw):
    r"""Add the gradient through the norm: :math:`\bar v \mathrel{+}= \bar\nu\, v / \nu`."""
    for i in range(first, last):
        for c in range(3):
            for f in range(vw.shape[3]):
                gvw[i, c, 0, f] += gcontext[i, 1, f] / context[i, 1, f] * vw[i, c, 0, f]


@jit
def tangent_context(first, last, vw, context, gcontext, a, ocontext, ovw):
    r"""Set the second derivatives of the norm.

    .. math:: \dot v \cdot v / \nu \;\text{ for }\; \bar\nu, \qquad
       \bar\nu\, (\dot v - v\, (v \cdot \dot v) / \nu^2) / \nu \;\text{ for }\; v
    """
    for i in range(first, last):
        for f in range(vw.shape[3]):
            along = vw[i, 0, 0, f] * a[i, 0, 0, f] + vw[i, 1, 0, f] * a[i, 1, 0, f]
            along += vw[i, 2, 0, f] * a[i, 2, 0, f]
            ocontext[i, 1, f] = along / context[i, 1, f]
        ocontext[i, 0] = 0
        for c in range(3):
            for f in range(vw.shape[3]):
                inverse = vw.dtype.type(1) / context[i, 1, f]
                across = a[i, c, 0, f] - vw[i, c, 0, f] * ocontext[i, 1, f] * inverse
                ovw[i, c, 0, f] = gcontext[i, 1, f] * across * inverse
            ovw[i, c, 1] = 0


@jit
def apply_gates(first, last, vw, gates, q, mu):
    """Add the update to ``q`` and ``mu``."""
    for i in range(first, last):
        for f in range(q.shape[1]):
            dot = vw[i, 0, 0, f] * vw[i, 0, 1, f]
            dot += vw[i, 1, 0, f] * vw[i, 1, 1, f] + vw[i, 2, 0, f] * vw[i, 2, 1, f]
            q[i, f] += gates[i, 0, f] + gates[i, 2, f] * dot
        for c in range(3):
            for f in range(q.shape[1]):
                mu[i, c, f] += gates[i, 1, f] * vw[i, c, 1, f]


@jit
def grad_gates(first, last, vw, gates, gq, gmu, ggates, gvw):
    r"""Set the gradients of the gates and of :math:`(v, w)`.

    .. math:: \bar g = (\bar q,\; \bar\mu \cdot w,\; \bar q\, v \cdot w), \quad
       \bar v = \bar q\, g^3 w, \quad \bar w = \bar q\, g^3 v + g^2 \bar\mu
    """
    for i in range(first, last):
        ggates[i, 0] = gq[i]
        for f in range(gq.shape[1]):
            s = gmu[i, 0, f] * vw[i, 0, 1, f]
            ggates[i, 1, f] = s + gmu[i, 1, f] * vw[i, 1, 1, f] + gmu[i, 2, f] * vw[i, 2, 1, f]
        for f in range(gq.shape[1]):
            s = vw[i, 0, 0, f] * vw[i, 0, 1, f]
            s += vw[i, 1, 0, f] * vw[i, 1, 1, f] + vw[i, 2, 0, f] * vw[i, 2, 1, f]
            ggates[i, 2, f] = gq[i, f] * s
        for c in range(3):
            for f in range(gq.shape[1]):
                gvw[i, c, 0, f] = gq[i, f] * gates[i, 2, f] * vw[i, c, 1, f]
            for f in range(gq.shape[1]):
                g = gq[i, f] * gates[i, 2, f]
                gvw[i, c, 1, f] = g * vw[i, c, 0, f] + gates[i, 1, f] * gmu[i, c, f]


@jit
def tangent_gates(first, last, vw, gates, gq, gmu, a, b, ovw, ogates, oq, omu):
    r"""Set the second derivatives of the update, for all that :func:`grad_gates` reads.

    .. math::
       \bar q\,(\dot g^3 w + g^3 \dot w) \text{ for } v, \quad
       \bar q\,(\dot g^3 v + g^3 \dot v) + \dot g^2 \bar\mu \text{ for } w, \quad
       (0,\; \bar\mu \cdot \dot w,\; \bar q\, s) \text{ for } g,

       \dot g^1 + \dot g^3\, v \cdot w + g^3 s \text{ for } \bar q, \quad
       g^2 \dot w + \dot g^2 w \text{ for } \bar\mu; \qquad s = v \cdot \dot w + w \cdot \dot v
    """
    n = gq.shape[1]
    for i in range(first, last):
        ogates[i, 0] = 0
        for f in range(n):
            s = gmu[i, 0, f] * a[i, 0, 1, f]
            ogates[i, 1, f] = s + gmu[i, 1, f] * a[i, 1, 1, f] + gmu[i, 2, f] * a[i, 2, 1, f]
        for f in range(n):
            s = vw[i, 0, 0, f] * a[i, 0, 1, f] + vw[i, 0, 1, f] * a[i, 0, 0, f]
            s += vw[i, 1, 0, f] * a[i, 1, 1, f] + vw[i, 1, 1, f] * a[i, 1, 0, f]
            s += vw[i, 2, 0, f] * a[i, 2, 1, f] + vw[i, 2, 1, f] * a[i, 2, 0, f]
            oq[i, f] = s
        for f in range(n):
            ogates[i, 2, f] = gq[i, f] * oq[i, f]
        for f in range(n):
            dot = vw[i, 0, 0, f] * vw[i, 0, 1, f]
            dot += vw[i, 1, 0, f] * vw[i, 1, 1, f] + vw[i, 2, 0, f] * vw[i, 2, 1, f]
            oq[i, f] = b[i, 0, f] + b[i, 2, f] * dot + gates[i, 2, f] * oq[i, f]
        for c in range(3):
            for f in range(n):
                w, dw = vw[i, c, 1, f], a[i, c, 1, f]
                ovw[i, c, 0, f] = gq[i, f] * (b[i, 2, f] * w + gates[i, 2, f] * dw)
            for f in range(n):
                v, dv = vw[i, c, 0, f], a[i, c, 0, f]
                g = gq[i, f] * (b[i, 2, f] * v + gates[i, 2, f] * dv)
                ovw[i, c, 1, f] = g + b[i, 1, f] * gmu[i, c, f]
            for f in range(n):
                omu[i, c, f] = gates[i, 1, f] * a[i, c, 1, f] + b[i, 1, f] * vw[i, c, 1, f]
