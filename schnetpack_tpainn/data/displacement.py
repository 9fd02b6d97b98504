"""Random displacements of a molecule and turns about its bonds, labelled by an ASE calculator."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from scipy.spatial.transform import Rotation

from schnetpack_tpainn.data.label import compute_label, make_calculator
from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.topology import rotors, with_smiles
from schnetpack_tpainn.errors import LabelError

__all__ = ["sample_molecules"]

TRIES = 6  # the last displacement is 1/32 of the first


def sample_molecules(
    molecules: Sequence[tuple[int, Atoms]],
    calculator: Mapping[str, Any],
    n_displaced: int,
    sigma_ang: Sequence[float],
    torsion_share: float,
    max_force: float,
    seed: int,
) -> tuple[list[Atoms], dict[int, str]]:
    """Each molecule as it is, and displaced copies of it, labelled.

    A copy whose largest force exceeds ``max_force`` is drawn anew with half the displacement and
    half the angles.

    Args:
        molecules: numbers and structures (Å).
        calculator: Hydra node of an ASE calculator.
        n_displaced: displaced copies of each.
        sigma_ang: standard deviations in Å, of which each copy draws one.
        torsion_share: share of the copies that are also turned about their rotatable bonds.
        max_force: largest force on an atom in eV/Å.
        seed: seed of the draws, which depend on it and on the molecule's number alone.

    Returns:
        Labelled frames (eV, eV/Å) of every molecule whose frames could all be labelled, and number
        -> reason for the others.
    """
    engine = make_calculator(calculator)
    frames: list[Atoms] = []
    failed: dict[int, str] = {}
    for number, atoms in molecules:
        digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
        draw = _Draw(atoms, engine, sigma_ang, torsion_share, max_force, digest)
        try:
            own = [draw.undistorted(), *(draw.displaced(k + 1) for k in range(n_displaced))]
        except LabelError as error:
            failed[number] = " ".join(str(error).split())
            continue
        for frame in own:
            frame.info["molecule"] = number
        frames += own
    return frames, failed


class _Draw:
    """Draws and labels the frames of one molecule."""

    def __init__(
        self,
        atoms: Atoms,
        engine: Calculator,
        sigma_ang: Sequence[float],
        torsion_share: float,
        max_force: float,
        digest: bytes,
    ) -> None:
        self.given, self.engine = atoms, engine
        self.sigma_ang, self.torsion_share, self.max_force = sigma_ang, torsion_share, max_force
        self.rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        self.start = atoms
        self.rotors: list[tuple[int, int, np.ndarray]] = []

    def undistorted(self) -> Atoms:
        """The molecule as it is, its bonds found."""
        field = self.engine if isinstance(self.engine, RDKitForceField) else None
        if (field or self.torsion_share) and not self.given.pbc.any():
            try:
                self.start = with_smiles(self.given, [], field or RDKitForceField())
                self.rotors = rotors(self.start) if self.torsion_share else []
            except LabelError:
                if field:
                    raise
        return self._sound(self.start, displaced=0, sigma_ang=0.0, turned=0)

    def displaced(self, k: int) -> Atoms:
        """A copy, its centre of mass where it was; drawn anew where forces are too large."""
        sigma = float(self.rng.choice(self.sigma_ang))
        turned = self.rotors if self.rng.random() < self.torsion_share else []
        for halving in range(TRIES):
            scale = 0.5**halving
            atoms = self.start.copy()
            for i, j, moved in turned:
                atoms.positions[moved] = _turned(
                    atoms.positions, i, j, scale * self.rng.uniform(-np.pi, np.pi)
                )[moved]
            atoms.positions += scale * sigma * self.rng.standard_normal((len(atoms), 3))
            atoms.positions += self.start.get_center_of_mass() - atoms.get_center_of_mass()
            try:
                return self._sound(atoms, displaced=k, sigma_ang=scale * sigma, turned=len(turned))
            except LabelError as error:
                reason = error
        raise LabelError(f"no displaced copy could be labelled in {TRIES} tries: {reason}")

    def _sound(self, atoms: Atoms, **info: float) -> Atoms:
        named = {k: v for k, v in self.start.info.items() if k in ("smiles", "total_charge")}
        atoms.info = named | info
        frame = compute_label(atoms, self.engine)
        largest = float(np.linalg.norm(frame.get_forces(), axis=1).max())
        if largest > self.max_force:
            raise LabelError(
                f"expected forces of at most {self.max_force:g} eV/Å, got {largest:.3g}"
            )
        return frame


def _turned(positions: np.ndarray, i: int, j: int, angle: float) -> np.ndarray:
    """Positions turned about the axis through atoms i and j, shape (N, 3)."""
    axis = positions[j] - positions[i]
    turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis))
    return np.asarray(turn.apply(positions - positions[j]) + positions[j])
