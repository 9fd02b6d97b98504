"""The repulsion of nuclei that come closer than any bond, where no label holds atoms apart."""

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import covalent_radii
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import Bohr, Hartree
from vesin import NeighborList

from schnetpack_tpainn.errors import MDError

__all__ = ["ZBL"]

AMPLITUDES = np.array([0.18175, 0.50986, 0.28022, 0.02817])
EXPONENTS = np.array([3.19980, 0.94229, 0.40290, 0.20162])


class ZBL(Calculator):
    r"""Screened repulsion of nuclei, of pairs closer than a share of their covalent radii.

    .. math::
       E = \sum_{i<j} \frac{Z_i Z_j e^2}{4\pi\epsilon_0 r_{ij}} \,
           \phi\!\left(\frac{r_{ij}}{a_{ij}}\right) S(r_{ij}), \qquad
       a_{ij} = \frac{0.8854\, a_0}{Z_i^{0.23} + Z_j^{0.23}}

    with the universal screening function :math:`\phi` of Ziegler, Biersack and Littmark (The
    Stopping and Range of Ions in Solids, 1985). :math:`S` falls smoothly from 1 at ``inner`` to 0
    at ``outer`` times the sum of the covalent radii, twice differentiable: bonds and contacts of
    ordinary dynamics are longer (0.68 Å for O-H, 1.06 Å for C-C); they keep their energy exactly.
    SchNetPack's ``ZBLRepulsionEnergy`` is the same function with one cutoff for all pairs.

    .. code-block:: python

        from ase.calculators.mixing import SumCalculator

        atoms.calc = SumCalculator([calculator, ZBL()])

    Args:
        inner: share of the sum of covalent radii up to which the repulsion is whole.
        outer: share from which there is none.

    Raises:
        MDError: not 0 < inner < outer.
    """

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE declares it

    def __init__(self, inner: float = 0.5, outer: float = 0.7) -> None:
        super().__init__()
        if not 0 < inner < outer:
            raise MDError(f"expected 0 < inner < outer, got inner={inner} and outer={outer}")
        self.inner, self.outer = inner, outer

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Energy (eV), forces (eV/Å) and, in three periodic directions, stress (eV/Å³).

        Args:
            atoms: the structure.
            properties: ASE's list of properties; all are always computed.
            system_changes: ASE's list of changes, unused.
        """
        super().calculate(atoms, properties, system_changes)
        structure: Any = self.atoms
        radii, z = covalent_radii[structure.numbers], structure.numbers
        neighbors = NeighborList(cutoff=2 * self.outer * radii.max(), full_list=False)
        i, j, r, vectors = neighbors.compute(
            points=structure.positions,
            box=structure.cell.array,
            periodic=structure.pbc,
            quantities="ijdD",
        )
        share = r / (radii[i] + radii[j])
        close = share < self.outer
        i, j, r, vectors, share = (x[close] for x in (i, j, r, vectors, share))
        energies, slopes = _screened(z[i], z[j], r)
        s, s_slope = self._switch(share)
        slopes = slopes * s + energies * s_slope / (radii[i] + radii[j])
        pull = slopes[:, None] * vectors / r[:, None]  # on i, shape (E, 3); vectors go from i to j
        forces = np.zeros((len(structure), 3))
        np.add.at(forces, i, pull)
        np.add.at(forces, j, -pull)
        self.results = {"energy": float(energies @ s), "forces": forces}
        if structure.pbc.all():
            stress = vectors.T @ pull / structure.get_volume()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)

    def _switch(self, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """S and its derivative."""
        x = np.clip((share - self.inner) / (self.outer - self.inner), 0.0, 1.0)
        s = 1 - x**3 * (10 - 15 * x + 6 * x**2)
        return s, -30 * x**2 * (1 - x) ** 2 / (self.outer - self.inner)


def _screened(z_i: np.ndarray, z_j: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies of pairs in eV and their derivatives by the distance in eV/Å."""
    a = 0.8854 * Bohr / (z_i**0.23 + z_j**0.23)  # Å
    terms = AMPLITUDES * np.exp(-EXPONENTS * (r / a)[:, None])  # (E, 4)
    coulomb = Hartree * Bohr * z_i * z_j / r
    energies = coulomb * terms.sum(1)
    return energies, -energies / r - coulomb * (terms @ EXPONENTS) / a
