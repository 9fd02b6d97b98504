"""The structures of the benchmarks, made from nothing but ASE.

Coordinates are multiples of 2^-14 Å: float32 holds them exactly at every size, so a box that is
repeated has the forces of the one box, to the rounding of the network alone.
"""

import numpy as np
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation

__all__ = ["CUTOFF", "WATER_BOX", "aspirin", "ethanol", "repeats", "structure"]

CUTOFF = 5.0  # Å
WATER_BOX = 192  # atoms
GRID = 2.0**-14  # Å
ASPIRIN = (
    ("C", 3.16, 1.00, -1.07), ("C", 2.12, 0.28, -0.27), ("O", 2.19, 0.06, 0.93),
    ("O", 1.09, -0.11, -1.13), ("C", 0.03, -0.71, -0.45), ("C", -0.02, -2.11, -0.47),
    ("C", -1.07, -2.78, 0.17), ("C", -2.07, -2.04, 0.80), ("C", -2.03, -0.65, 0.80),
    ("C", -0.98, 0.04, 0.17), ("C", -0.95, 1.52, 0.14), ("O", -0.14, 2.23, -0.44),
    ("O", -1.95, 2.08, 0.85), ("H", 2.72, 1.86, -1.57), ("H", 3.62, 0.32, -1.79),
    ("H", 3.95, 1.36, -0.39), ("H", 0.77, -2.68, -0.96), ("H", -1.10, -3.86, 0.17),
    ("H", -2.89, -2.56, 1.30), ("H", -2.83, -0.10, 1.30), ("H", -1.80, 3.04, 0.76),
)  # fmt: skip


def aspirin() -> Atoms:
    """One aspirin molecule, 21 atoms, near its MMFF94 minimum."""
    return _on_grid(Atoms([row[0] for row in ASPIRIN], [row[1:] for row in ASPIRIN]))


def ethanol(count: int, seed: int = 0) -> list[Atoms]:
    """Ethanol molecules, every atom displaced by 0.05 Å in each direction (normal).

    Args:
        count: number of molecules.
        seed: of the displacements.

    Returns:
        Structures of nine atoms.
    """
    rng = np.random.default_rng(seed)
    frames = [molecule("CH3CH2OH") for _ in range(count)]
    for atoms in frames:
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    return frames


def repeats(atoms: int) -> int:
    """How many boxes of 192 atoms a structure of so many atoms holds; 1 for a molecule.

    Args:
        atoms: number of atoms.

    Returns:
        A cube: 1, 8 or 64.
    """
    return max(1, atoms // WATER_BOX)


def structure(atoms: int) -> Atoms:
    """Aspirin (21 atoms) or liquid water (192, 1536, 12288: one box, repeated).

    Args:
        atoms: number of atoms.

    Returns:
        The structure.

    Raises:
        ValueError: there is none with so many atoms.
    """
    if atoms == 21:
        return aspirin()
    side = round(repeats(atoms) ** (1 / 3))
    if atoms != side**3 * WATER_BOX:
        raise ValueError(f"expected 21, 192, 1536 or 12288 atoms, got {atoms}")
    return _water().repeat(side)


def _water() -> Atoms:
    """64 molecules at 0.997 g/cm³: on a lattice, turned and displaced at random."""
    rng = np.random.default_rng(0)
    spacing = (18.015 / (0.997 * 0.602214)) ** (1 / 3)  # Å; g/mol over g/cm³ and 1e24/mol
    sites = np.indices((4, 4, 4)).reshape(3, -1).T * spacing
    water = molecule("H2O")
    atoms = sum((water for _ in sites), Atoms(pbc=True))
    turned = [r.apply(water.positions) for r in Rotation.random(len(sites), rng)]
    atoms.positions = np.concatenate(np.array(turned) + sites[:, None])
    atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    atoms.set_cell([4 * spacing] * 3)
    return _on_grid(atoms)


def _on_grid(atoms: Atoms) -> Atoms:
    atoms.set_cell(np.round(atoms.cell.array / GRID) * GRID)
    atoms.positions = np.round(atoms.positions / GRID) * GRID
    return atoms
