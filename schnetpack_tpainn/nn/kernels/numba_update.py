r"""The elementwise loops of the update block, compiled by numba.

With :math:`(v, w) = \mu\,M` of shape (N, 3, 2F) and gates :math:`(a^{qq}, a^{\mu\mu}, a^{q\mu})`, a
network of the context :math:`(q, \nu)`, :math:`\nu = \sqrt{|v|^2 + \epsilon}`:

.. math::
   q \mathrel{+}= a^{qq} + a^{q\mu}\, (v \cdot w), \qquad \mu \mathrel{+}= a^{\mu\mu} w
"""

import numpy as np

from schnetpack_tpainn.nn.kernels.numba_loops import jit

__all__ = ["apply_gates", "context", "grad_gates", "grad_mix"]


@jit
def context(first, last, q, vw, epsilon, out):
    r"""Set the context :math:`(q, \nu)`, shape (N, 2, F)."""
    for i in range(first, last):
        for f in range(q.shape[1]):
            v0, v1, v2 = vw[i, 0, 0, f], vw[i, 1, 0, f], vw[i, 2, 0, f]
            out[i, 1, f] = np.sqrt(v0 * v0 + v1 * v1 + v2 * v2 + epsilon)
        out[i, 0] = q[i]


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
def grad_gates(first, last, vw, gq, gmu, ggates):
    """Set the gradient with respect to the gates, shape (N, 3, F)."""
    for i in range(first, last):
        ggates[i, 0] = gq[i]
        for f in range(gq.shape[1]):
            s = gmu[i, 0, f] * vw[i, 0, 1, f]
            ggates[i, 1, f] = s + gmu[i, 1, f] * vw[i, 1, 1, f] + gmu[i, 2, f] * vw[i, 2, 1, f]
        for f in range(gq.shape[1]):
            s = vw[i, 0, 0, f] * vw[i, 0, 1, f]
            s += vw[i, 1, 0, f] * vw[i, 1, 1, f] + vw[i, 2, 0, f] * vw[i, 2, 1, f]
            ggates[i, 2, f] = gq[i, f] * s


@jit
def grad_mix(first, last, vw, gates, norm, gcontext, gq, gmu, gvw):
    r"""Set the gradient with respect to :math:`(v, w)`; add that of the context to ``gq``."""
    for i in range(first, last):
        for c in range(3):
            for f in range(gq.shape[1]):
                g = gq[i, f] * gates[i, 2, f]
                through_norm = gcontext[i, 1, f] / norm[i, 1, f]
                gvw[i, c, 0, f] = g * vw[i, c, 1, f] + through_norm * vw[i, c, 0, f]
            for f in range(gq.shape[1]):
                g = gq[i, f] * gates[i, 2, f]
                gvw[i, c, 1, f] = g * vw[i, c, 0, f] + gates[i, 1, f] * gmu[i, c, f]
        for f in range(gq.shape[1]):
            gq[i, f] += gcontext[i, 0, f]
