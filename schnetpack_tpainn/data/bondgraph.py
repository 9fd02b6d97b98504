"""Which atoms of a molecule are bonded, the same in all of its frames, and which are alike."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from schnetpack_tpainn.errors import DataError

__all__ = ["BondGraph", "group_by_graph", "refuse_changed"]

FOUND = 1.25  # a bond is shorter than so many sums of covalent radii; thermal motion stays below
MADE = 1.15  # atoms without a bond that come closer have made one
BROKEN = 1.5  # a bond that gets longer is broken
CHUNK = 256  # frames whose distances are looked at together


@dataclass(frozen=True)
class BondGraph:
    """Elements and bonds of a molecule.

    Attributes:
        numbers: atomic number of every atom.
        bonds: pairs of bonded atoms, the lower index first.
    """

    numbers: tuple[int, ...]
    bonds: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, atoms: Atoms) -> "BondGraph":
        """Bonds of a structure by covalent radii.

        Args:
            atoms: the molecule (Å).

        Returns:
            Its graph.
        """
        found = _found(atoms.numbers, atoms.positions[None])[0]
        return cls._from(atoms.numbers, found)

    @classmethod
    def _from(cls, numbers: np.ndarray, bonded: np.ndarray) -> "BondGraph":
        pairs = np.argwhere(np.triu(bonded))
        return cls(tuple(map(int, numbers)), tuple((int(i), int(j)) for i, j in pairs))

    @cached_property
    def bonded(self) -> np.ndarray:
        """Whether two atoms are bonded, shape (n, n)."""
        matrix = np.zeros((len(self.numbers),) * 2, dtype=bool)
        if self.bonds:
            i, j = np.array(self.bonds).T
            matrix[i, j] = matrix[j, i] = True
        return matrix

    @cached_property
    def neighbours(self) -> list[list[int]]:
        """Atoms bonded to each atom."""
        return [np.flatnonzero(row).tolist() for row in self.bonded]

    def types(self, radius: int) -> list[str]:
        """Name of every atom's surroundings up to ``radius`` bonds away.

        Args:
            radius: 0: the element alone; 1: its neighbours' elements, too; and so on.

        Returns:
            Names such as ``C(CHHO)``, the same for atoms that the bonds do not tell apart.
        """
        symbols = [chemical_symbols[z] for z in self.numbers]
        names = symbols
        for _ in range(radius):
            around = ["".join(sorted(names[j] for j in near)) for near in self.neighbours]
            names = [f"{s}({a})" for s, a in zip(symbols, around, strict=True)]
        return names

    @cached_property
    def name(self) -> str:
        """Formula and a hash of the bonds that does not depend on the order of the atoms.

        It is the colour refinement of Weisfeiler and Lehman, with as many rounds as atoms.
        """
        colours = [str(z) for z in self.numbers]
        for _ in colours:
            near = ["".join(sorted(colours[j] for j in js)) for js in self.neighbours]
            colours = [_hash(c + n) for c, n in zip(colours, near, strict=True)]
        formula = Atoms(self.numbers).get_chemical_formula()
        return f"{formula}:{_hash(''.join(sorted(colours)))}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _relative(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Distances over sums of covalent radii, shape (M, n, n); infinite on the diagonal."""
    radii = covalent_radii[numbers]
    distances = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
    relative = distances / (radii + radii[:, None])
    relative[:, np.arange(len(radii)), np.arange(len(radii))] = np.inf
    return relative


def _found(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return _relative(numbers, positions) < FOUND


def group_by_graph(frames: Sequence[Atoms], what: str) -> list[tuple[BondGraph, np.ndarray]]:
    """Frames by molecule: those with the same atoms in the same order and the same SMILES string.

    A molecule's bonds are those that most of its frames have.

    Args:
        frames: structures (Å); ``info`` may hold ``smiles`` or ``molecule``.
        what: what they are, for messages.

    Returns:
        For each molecule its bonds and the indices of its frames.

    Raises:
        DataError: a frame is periodic, or a molecule's bonds differ from frame to frame.
    """
    members: dict[tuple[object, ...], list[int]] = {}
    for k, atoms in enumerate(frames):
        if atoms.pbc.any():
            raise DataError(
                f"expected molecules, frame {k} of the {what} is periodic; a force field can be "
                "refitted for molecules alone"
            )
        info = atoms.info
        key = (tuple(atoms.numbers.tolist()), info.get("smiles"), info.get("molecule"))
        members.setdefault(key, []).append(k)
    groups = []
    for indices in members.values():
        numbers = frames[indices[0]].numbers
        counts: Counter[bytes] = Counter()
        for start in range(0, len(indices), CHUNK):
            positions = np.stack([frames[k].positions for k in indices[start : start + CHUNK]])
            counts.update(np.packbits(b).tobytes() for b in _found(numbers, positions))
        packed = np.frombuffer(counts.most_common(1)[0][0], dtype=np.uint8)
        bonded = np.unpackbits(packed, count=len(numbers) ** 2).reshape(len(numbers), -1) > 0
        graph = BondGraph._from(numbers, bonded)
        for start in range(0, len(indices), CHUNK):
            part = indices[start : start + CHUNK]
            refuse_changed(graph, np.stack([frames[k].positions for k in part]), part, what)
        groups.append((graph, np.array(indices)))
    return groups


def refuse_changed(
    graph: BondGraph, positions: np.ndarray, indices: Sequence[int], what: str
) -> None:
    """Refuse frames in which a bond is broken or made.

    Args:
        graph: the bonds that all frames shall have.
        positions: Å, shape (M, n, 3).
        indices: names of the frames, for messages.
        what: what they are, likewise.

    Raises:
        DataError: the bonds of a frame are others.
    """
    relative = _relative(np.array(graph.numbers), positions)
    changed = np.where(graph.bonded, relative > BROKEN, relative < MADE)
    if not changed.any():
        return
    k, i, j = np.argwhere(changed)[0]
    symbols = [chemical_symbols[graph.numbers[a]] for a in (i, j)]
    length = np.linalg.norm(positions[k, i] - positions[k, j])
    raise DataError(
        f"expected the same bonds in all frames of {graph.name.partition(':')[0]}, got frame "
        f"{indices[k]} of the {what} with a bond {'broken' if graph.bonded[i, j] else 'made'} "
        f"between atoms {i} ({symbols[0]}) and {j} ({symbols[1]}), {length:.2f} Å apart. Terms of "
        "bonds and angles mean nothing across a reaction: leave such frames out, put the atoms of "
        "all in one order, or tell different molecules apart by a key-value pair `smiles`"
    )
