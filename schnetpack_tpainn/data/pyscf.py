"""PySCF as an ASE calculator: energies and forces of molecules at a DFT level."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.units import Bohr, Hartree

from schnetpack_tpainn.errors import LabelError

__all__ = ["PySCF"]

# unpaired electrons of neutral atoms in their ground states (Hund's rules)
_UNPAIRED = "H1 He0 Li1 Be0 B1 C2 N3 O2 F1 Ne0 Na1 Mg0 Al1 Si2 P3 S2 Cl1 Ar0 Br1 I1"
UNPAIRED = {entry[:-1]: int(entry[-1]) for entry in _UNPAIRED.split()}


class PySCF(Calculator):
    """Kohn-Sham DFT of one molecule with density fitting, through PySCF.

    The starting density is PySCF's atomic guess for every structure, so that a label does not
    depend on what was computed before it.

    .. code-block:: yaml

        calculator:
          _target_: schnetpack_tpainn.data.pyscf.PySCF
          xc: wb97x-d3bj
          basis: def2-tzvp

    Args:
        xc: functional; ``-d3bj`` or ``-d4`` at its end adds that dispersion correction.
        basis: orbital basis set.
        charge: total charge in units of e.
        spin: number of unpaired electrons; unrestricted when not zero.
        density_fit: approximate Coulomb and exchange integrals by density fitting.
        grid_level: PySCF's integration grid, 0 (coarse) to 9.
        conv_tol: convergence threshold of the SCF energy in Hartree.
        max_cycle: SCF iterations before the structure counts as failed.
        n_threads: OpenMP threads; PySCF's own choice when None.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - as ASE declares it

    def __init__(
        self,
        xc: str = "wb97x-d3bj",
        basis: str = "def2-tzvp",
        charge: int = 0,
        spin: int = 0,
        density_fit: bool = True,
        grid_level: int = 1,
        conv_tol: float = 1e-8,
        max_cycle: int = 50,
        n_threads: int | None = None,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "xc": xc,
            "basis": basis,
            "charge": charge,
            "spin": spin,
            "density_fit": density_fit,
            "grid_level": grid_level,
            "conv_tol": conv_tol,
            "max_cycle": max_cycle,
        }
        self.n_threads = n_threads

    def level_of_theory(self) -> dict[str, Any]:
        """Settings and software versions, for the metadata of a data set."""
        import pyscf

        return {"engine": f"PySCF {pyscf.__version__}", **self.settings}

    def mean_field(self, atoms: Atoms) -> Any:
        """PySCF mean-field object of a structure, not yet converged."""
        from pyscf import dft, gto, lib

        if self.n_threads is not None:
            lib.num_threads(self.n_threads)
        s = self.settings
        molecule = gto.M(
            atom=list(zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)),
            basis=s["basis"],
            charge=s["charge"],
            spin=s["spin"],
            unit="Angstrom",
            verbose=0,
        )
        method = (dft.UKS if s["spin"] else dft.RKS)(molecule, xc=s["xc"])
        if s["density_fit"]:
            method = method.density_fit()
        method.grids.level = s["grid_level"]
        method.conv_tol = s["conv_tol"]
        method.max_cycle = s["max_cycle"]
        return method

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Energy (eV) and, for more than one atom or when asked for, forces (eV/Å).

        Args:
            atoms: the structure.
            properties: what is asked for, of ``energy`` and ``forces``.
            system_changes: ASE's list of changes, unused: everything is computed anew.

        Raises:
            LabelError: the structure is periodic or the SCF did not converge.
        """
        super().calculate(atoms, properties, system_changes)
        self.results = {}
        structure: Any = self.atoms
        if structure.pbc.any():
            raise LabelError("expected a molecule, got a periodic structure; use a periodic code")
        method = self.mean_field(structure)
        energy = method.kernel()
        if not method.converged:
            raise LabelError(
                f"SCF of {structure.get_chemical_formula()} not converged after "
                f"{self.settings['max_cycle']} cycles (conv_tol {self.settings['conv_tol']:g} "
                "Hartree); raise max_cycle, or check geometry, charge and spin"
            )
        self.results["energy"] = float(energy) * Hartree
        if len(structure) > 1 or "forces" in (properties or ()):
            gradient = method.nuc_grad_method().kernel()
            self.results["forces"] = -np.asarray(gradient) * Hartree / Bohr

    def isolated_atom_energies(self, symbols: Iterable[str]) -> dict[str, float]:
        """Energies of neutral isolated atoms in their ground states, at the same level.

        Args:
            symbols: element symbols.

        Returns:
            Element symbol -> energy in eV.

        Raises:
            LabelError: the spin of an element's ground state is not tabulated, or no convergence.
        """
        energies = {}
        for symbol in sorted(set(symbols)):
            if symbol not in UNPAIRED:
                raise LabelError(
                    f"no ground-state spin tabulated for {symbol} (have {', '.join(UNPAIRED)}); "
                    "give its isolated-atom energy yourself"
                )
            level = {**self.settings, "charge": 0, "spin": UNPAIRED[symbol], "max_cycle": 200}
            atom = PySCF(**level, n_threads=self.n_threads)
            energies[symbol] = float(atom.get_potential_energy(Atoms(symbol)))
        return energies
