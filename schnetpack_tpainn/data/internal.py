"""Terms of a force field in internal coordinates, named by the types of their atoms."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from scipy.sparse.csgraph import shortest_path

from schnetpack_tpainn.data.bondgraph import BondGraph

__all__ = ["PLAIN", "InternalTerms"]

BOND_ORDERS = (1, 2, 3, 4)
ANGLE_ORDERS = (1, 2, 3)
TORSION_ORDERS = (1, 2, 3)
PAIR_POWERS = (1, 2, 4, 6)
PAIR_ANG = 3.0  # length in which distances of pairs are measured
PLAIN = ("bond1", "bond2", "angle1", "angle2", "torsion", "pair")  # what any force field has


class InternalTerms:
    r"""Values of all terms of a molecule, for any number of its frames.

    With :math:`d = r - r_0` of a bond, :math:`e = \cos\theta - \cos\theta_0` of an angle and
    a torsion :math:`\varphi` between the angles :math:`\theta_1, \theta_2`, they are

    - ``bond``: :math:`d, d^2, d^3, d^4`;
    - ``angle``: :math:`e, e^2, e^3`;
    - ``torsion``: :math:`(\sin\theta_1 \sin\theta_2)^n \cos n\varphi` for n = 1, 2, 3. They are
      polynomials of unit vectors along the bonds, smooth where an angle is straight;
    - ``chiral``: :math:`\chi (\sin\theta_1 \sin\theta_2)^n \sin n\varphi` of a torsion about a
      bond to an atom with four different neighbours, whose handedness is :math:`\chi = \pm 1`.
      Mirror images thus have the same energy;
    - ``bond*bond``, ``bond*angle``, ``angle*angle``: products :math:`dd, de, ee` where two bonds
      share an atom, an angle one of its bonds, two angles atom and bond;
    - ``bond*torsion``, ``angle*torsion``: products with the torsion's terms of d of its bonds and
      e of its angles;
    - ``pair``: :math:`(3\,\mathrm{Å}/r)^k`, k = 1, 2, 4, 6, of atoms three or more bonds apart,
      or in different molecules.

    Terms of one kind whose atoms have the same types have one coefficient. With several radii
    there is one for every radius, and what they say adds up: coarse types learn from all alike,
    fine ones what sets them apart.

    Args:
        graph: the molecule's bonds.
        radii: how many bonds away an atom's type looks, see
            :meth:`~schnetpack_tpainn.data.bondgraph.BondGraph.types`.
    """

    def __init__(self, graph: BondGraph, radii: Sequence[int]) -> None:
        self.graph = graph
        near, n = graph.neighbours, len(graph.numbers)
        bonds = list(graph.bonds)
        angles = [(i, j, k) for j in range(n) for i, k in combinations(near[j], 2)]
        torsions = [
            (i, j, k, m) for j, k in bonds for i in near[j] for m in near[k] if _proper(i, j, k, m)
        ]
        hops = shortest_path(graph.bonded, unweighted=True)
        pairs = [(int(i), int(j)) for i, j in np.argwhere(np.triu(hops >= 3))]
        self.bonds, self.angles = _index(bonds, 2), _index(angles, 3)
        self.torsions, self.pairs = _index(torsions, 4), _index(pairs, 2)
        both: list[tuple[int, ...]] = [*bonds, *angles]
        place = {key: b for b, atoms in enumerate(both) for key in (atoms, atoms[::-1])}
        self.types = [graph.types(radius) for radius in radii]
        products = _products(angles, place, near)
        twisted = _twisted(torsions, place)
        chiral = [
            (t, q)
            for t, (i, j, k, m) in enumerate(torsions)
            for q in ((i, j, k, m), (m, k, j, i))
            if self._handed(q[1])
        ]
        self.products = _index([p[0] for p in products], 2)
        self.twisted = _index([p[0] for p in twisted], 2)
        self.chiral = _index([t for t, _ in chiral], 1)[:, 0]
        centres = [near[q[1]] for _, q in chiral]
        ordered = [sorted(c, key=lambda i: self.types[-1][i]) for c in centres]
        self.centres = _index(
            [(q[1], *c[:3]) for (_, q), c in zip(chiral, ordered, strict=True)], 4
        )
        parts: list[tuple[str, tuple[int, ...], bool]] = []
        parts += [(f"bond{p}", b, True) for p in BOND_ORDERS for b in bonds]
        parts += [(f"angle{p}", a, True) for p in ANGLE_ORDERS for a in angles]
        parts += [(f"torsion{p}", t, True) for p in TORSION_ORDERS for t in torsions]
        parts += [p[1] for p in products]
        parts += [(f"{k}{p}", q, sym) for p in TORSION_ORDERS for _, (k, q, sym) in twisted]
        parts += [(f"chiral{p}", q, False) for p in TORSION_ORDERS for _, q in chiral]
        parts += [(f"pair{p}", q, True) for p in PAIR_POWERS for q in pairs]
        self.names = [[_name(k, q, s, types) for k, q, s in parts] for types in self.types]
        self.references = [
            [_name("", q, True, types) for q in (*bonds, *angles)] for types in self.types
        ]

    def _handed(self, atom: int) -> bool:
        types = [self.types[-1][i] for i in self.graph.neighbours[atom]]
        return len(types) == 4 and len(set(types)) == 4

    def lengths_and_cosines(self, positions: torch.Tensor) -> torch.Tensor:
        """Lengths of the bonds in Å and cosines of the angles.

        Args:
            positions: Å, shape (..., n, 3).

        Returns:
            Shape (..., bonds + angles).
        """
        r = _vector(positions, self.bonds[:, 0], self.bonds[:, 1]).norm(dim=-1)
        a = _unit(_vector(positions, self.angles[:, 1], self.angles[:, 0]))
        b = _unit(_vector(positions, self.angles[:, 1], self.angles[:, 2]))
        return torch.cat([r, (a * b).sum(-1)], dim=-1)

    def reference(self, known: Mapping[str, float]) -> torch.Tensor:
        """References of bonds (Å) and angles, those of the finest types that are known.

        Args:
            known: value by the names in ``references``.

        Returns:
            Shape (bonds + angles,); zero where no type is known.
        """
        values = [
            next((known[name] for name in reversed(names) if name in known), 0.0)
            for names in zip(*self.references, strict=True)
        ]
        return torch.tensor(values, dtype=torch.float64)

    def values(self, positions: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """All terms.

        Args:
            positions: Å, float64, shape (..., n, 3).
            reference: what :meth:`reference` gives.

        Returns:
            Terms in the order of ``names``, shape (..., terms).
        """
        off = self.lengths_and_cosines(positions) - reference
        d, e = off[..., : len(self.bonds)], off[..., len(self.bonds) :]
        cosines, sines = self._turns(positions)
        turns = torch.stack(cosines, dim=-2)  # (..., 3, torsions)
        out = [d**p for p in BOND_ORDERS] + [e**p for p in ANGLE_ORDERS] + cosines
        out.append(off[..., self.products[:, 0]] * off[..., self.products[:, 1]])
        twisted = turns[..., self.twisted[:, 0]] * off[..., None, self.twisted[:, 1]]
        out.append(twisted.flatten(-2))
        centre = self.centres[:, 0]
        a, b, c = (_vector(positions, centre, self.centres[:, k]) for k in (1, 2, 3))
        hand = (a * torch.linalg.cross(b, c)).sum(-1).detach().sign()
        out += [hand * s[..., self.chiral] for s in sines]
        r = _vector(positions, self.pairs[:, 0], self.pairs[:, 1]).norm(dim=-1)
        return torch.cat([*out, *((PAIR_ANG / r) ** p for p in PAIR_POWERS)], dim=-1)

    def _turns(self, positions: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Cosines and sines of multiples of the torsions, times sines of their angles."""
        i, j, k, m = self.torsions.T
        a, b, c = (_unit(_vector(positions, *ends)) for ends in ((j, i), (j, k), (k, m)))
        ab, cb = (a * b).sum(-1), (c * b).sum(-1)
        x = (a * c).sum(-1) - ab * cb
        y = (b * torch.linalg.cross(a, c)).sum(-1)
        p = (1 - ab**2) * (1 - cb**2)
        return (
            [x, 2 * x**2 - p, 4 * x**3 - 3 * x * p],
            [y, 2 * x * y, y * (4 * x**2 - p)],
        )


Product = tuple[tuple[int, int], tuple[str, tuple[int, ...], bool]]


def _products(
    angles: Sequence[tuple[int, int, int]],
    place: Mapping[tuple[int, ...], int],
    near: Sequence[Sequence[int]],
) -> list[Product]:
    """Products of two bonds or angles: places of both; kind, atoms, and if these can be turned."""
    found: list[Product] = []
    for i, j, k in angles:
        ij, jk, angle = place[i, j], place[j, k], place[i, j, k]
        found.append(((ij, jk), ("bond*bond", (i, j, k), True)))
        found.append(((ij, angle), ("bond*angle", (i, j, k), False)))
        found.append(((jk, angle), ("bond*angle", (k, j, i), False)))
    for j, others in enumerate(near):
        for i in others:
            for k, m in combinations([o for o in others if o != i], 2):
                both = place[i, j, k], place[i, j, m]
                found.append((both, ("angle*angle", (j, i, k, m), False)))
    return found


def _twisted(
    torsions: Sequence[tuple[int, int, int, int]], place: Mapping[tuple[int, ...], int]
) -> list[Product]:
    """Products of torsions with their bonds and angles, as :func:`_products` gives them."""
    found: list[Product] = []
    for t, torsion in enumerate(torsions):
        found.append(((t, place[torsion[1:3]]), ("middle*torsion", torsion, True)))
        for q in (torsion, torsion[::-1]):
            found.append(((t, place[q[:2]]), ("bond*torsion", q, False)))
            found.append(((t, place[q[:3]]), ("angle*torsion", q, False)))
    return found


def _proper(i: int, j: int, k: int, m: int) -> bool:
    return i != k and m != j and i != m


def _name(kind: str, atoms: Sequence[int], symmetric: bool, types: Sequence[str]) -> str:
    named = [types[i] for i in atoms]
    if kind.startswith("angle*angle"):
        named[2:] = sorted(named[2:])
    if symmetric:
        named = min(named, named[::-1])
    return f"{kind} {'-'.join(named)}".strip()


def _index(rows: Sequence[object], width: int) -> torch.Tensor:
    return torch.tensor(np.array(rows, dtype=np.int64).reshape(-1, width))


def _vector(positions: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """From atoms i to atoms j, shape (..., len(i), 3)."""
    return positions[..., j, :] - positions[..., i, :]


def _unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.norm(dim=-1, keepdim=True)
