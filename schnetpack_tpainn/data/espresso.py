"""Quantum ESPRESSO as an ASE calculator: energies and forces of liquids and solids by DFT."""

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.espresso import Espresso, EspressoProfile

from schnetpack_tpainn.errors import LabelError
from schnetpack_tpainn.files import file_sha256

__all__ = ["QuantumEspresso"]

DEBIAN = "/usr/share/espresso/pseudo"  # of the package quantum-espresso-data
PAW = {  # its PBE sets with projector-augmented waves
    "H": "H.pbe-kjpaw.UPF",
    "C": "C.pbe-n-kjpaw_psl.0.1.UPF",
    "N": "N.pbe-kjpaw.UPF",
    "O": "O.pbe-kjpaw.UPF",
}
DISPERSIONS = ("d3bj", "d3zero", None)


class QuantumEspresso(Calculator):
    """Kohn-Sham DFT of a periodic structure in plane waves, by ``pw.x`` of Quantum ESPRESSO.

    Every structure starts from superposed atomic densities, in a temporary folder of its own, so
    that a label does not depend on what was computed before it. Dispersion is added by ``dftd3``.

    .. code-block:: yaml

        calculator:
          _target_: schnetpack_tpainn.data.espresso.QuantumEspresso
          xc: revpbe
          cutoff_ry: 45

    Args:
        xc: functional, as ``input_dft`` of ``pw.x`` and ``dftd3`` call it.
        dispersion: ``d3bj``, ``d3zero`` or None.
        cutoff_ry: kinetic-energy cutoff of the wave functions in Ry.
        density_cutoff_ry: that of the density; four times as much when None.
        conv_thr_ry: convergence threshold of the SCF energy in Ry, for the whole structure.
        max_steps: SCF iterations before the structure counts as failed.
        kpts: Monkhorst-Pack grid; the gamma point when None.
        stress: compute the stress, too.
        pseudopotentials: file of each element; PAW sets of PBE for H, C, N and O when None.
        pseudo_dir: folder of these files; ``$ESPRESSO_PSEUDO``, else that of Debian, when None.
        command: the program, with what launches it: ``mpirun -np 4 pw.x``.
        input_data: further input of ``pw.x`` by namelist: ``{"system": {"tot_charge": 1}}``.

    Raises:
        LabelError: the dispersion is not known.
    """

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE declares it

    def __init__(
        self,
        xc: str = "revpbe",
        dispersion: str | None = "d3bj",
        cutoff_ry: float = 45.0,
        density_cutoff_ry: float | None = None,
        conv_thr_ry: float = 1e-6,
        max_steps: int = 60,
        kpts: tuple[int, int, int] | None = None,
        stress: bool = False,
        pseudopotentials: Mapping[str, str] | None = None,
        pseudo_dir: str | None = None,
        command: str = "pw.x",
        input_data: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        if dispersion not in DISPERSIONS:
            raise LabelError(f"expected dispersion d3bj, d3zero or null, got {dispersion!r}")
        self.settings: dict[str, Any] = {
            "xc": xc,
            "dispersion": dispersion,
            "cutoff_ry": cutoff_ry,
            "density_cutoff_ry": density_cutoff_ry or 4 * cutoff_ry,
            "conv_thr_ry": conv_thr_ry,
            "max_steps": max_steps,
            "kpts": None if kpts is None else list(kpts),
            "input_data": {name: dict(values) for name, values in (input_data or {}).items()},
        }
        self.stress, self.command = stress, command
        self.pseudopotentials = dict(pseudopotentials or PAW)
        self.pseudo_dir = Path(pseudo_dir or os.environ.get("ESPRESSO_PSEUDO", DEBIAN))

    def level_of_theory(self) -> dict[str, Any]:
        """Settings, version and pseudopotentials, for the metadata of a data set."""
        self._check_program()
        files = {s: self.pseudo_dir / name for s, name in self.pseudopotentials.items()}
        return {
            "engine": f"Quantum ESPRESSO {self._profile().version()}",
            **self.settings,
            "pseudopotentials": {
                symbol: {"file": path.name, "sha256": file_sha256(path)}
                for symbol, path in files.items()
                if path.is_file()
            },
        }

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Energy (eV), forces (eV/Å) and, with ``stress``, stress (eV/Å³).

        Args:
            atoms: the structure, periodic in three directions.
            properties: ASE's list of properties; all are always computed.
            system_changes: ASE's list of changes, unused: everything is computed anew.

        Raises:
            LabelError: the structure is not periodic, ``pw.x``, a pseudopotential or ``dftd3`` is
                absent, the SCF did not converge, or the program failed.
        """
        super().calculate(atoms, properties, system_changes)
        self.results = {}
        structure: Any = self.atoms
        if not structure.pbc.all() or structure.cell.rank < 3:
            raise LabelError(
                "expected a structure that is periodic in three directions, got pbc "
                f"{structure.pbc.tolist()} and a cell of rank {structure.cell.rank}; for a "
                "molecule take PySCF"
            )
        self._check_program()
        self._check_pseudopotentials(set(structure.symbols))
        with tempfile.TemporaryDirectory(prefix="espresso-") as folder:
            results = self._run(structure, Path(folder))
        if self.settings["dispersion"]:
            for name, value in self._dispersion(structure).items():
                results[name] = results[name] + value
        self.results = results

    def _profile(self) -> EspressoProfile:
        return EspressoProfile(self.command, self.pseudo_dir)

    def _run(self, structure: Atoms, folder: Path) -> dict[str, Any]:
        """Results of ``pw.x``."""
        s = self.settings
        further = s["input_data"]
        own = {
            "control": {"tprnfor": True, "tstress": self.stress, "disk_io": "none"},
            "system": {
                "ecutwfc": s["cutoff_ry"],
                "ecutrho": s["density_cutoff_ry"],
                "input_dft": s["xc"],
            },
            "electrons": {"conv_thr": s["conv_thr_ry"], "electron_maxstep": s["max_steps"]},
        }
        merged = {n: {**own.get(n, {}), **further.get(n, {})} for n in {*own, *further}}
        merged["control"]["outdir"] = str(folder)
        engine = Espresso(
            profile=self._profile(),
            directory=folder,
            input_data=merged,
            pseudopotentials={e: self.pseudopotentials[e] for e in set(structure.symbols)},
            kpts=s["kpts"],
        )
        try:
            engine.calculate(structure, ["energy", "forces"], all_changes)
            problem = None
        except Exception as error:  # whatever the program and ASE's reader of its output raise
            problem = f"{type(error).__name__}: {error}"
        output = folder / "espresso.pwo"
        text = output.read_text("utf-8", "replace") if output.exists() else ""
        self._refuse_failed(text, problem, structure)
        wanted = ["energy", "forces", *(["stress"] if self.stress else [])]
        return {name: engine.results[name] for name in wanted}

    def _refuse_failed(self, text: str, problem: str | None, structure: Atoms) -> None:
        formula = structure.get_chemical_formula()
        if "convergence NOT achieved" in text:
            raise LabelError(
                f"SCF of {formula} not converged after {self.settings['max_steps']} iterations "
                f"(conv_thr_ry {self.settings['conv_thr_ry']:g}); raise max_steps, or check "
                "geometry, cell and charge"
            )
        said = re.search(r"%{20,}\n(.*?)\n\s*%{20,}", text, re.DOTALL)
        if said or problem or "JOB DONE" not in text:
            last = " ".join((said[1] if said else text[-300:]).split()) or problem
            raise LabelError(f"expected {self.command!r} to finish for {formula}, it said: {last}")

    def _dispersion(self, structure: Atoms) -> dict[str, Any]:
        try:
            from dftd3.ase import DFTD3
        except ImportError as error:
            raise LabelError(
                "dispersion needs dftd3: pip install 'schnetpack-tpainn[espresso]', or set "
                "dispersion=null"
            ) from error
        work = structure.copy()
        work.calc = DFTD3(method=self.settings["xc"], damping=self.settings["dispersion"])
        found = {"energy": work.get_potential_energy(), "forces": work.get_forces()}
        return found | ({"stress": work.get_stress()} if self.stress else {})

    def _check_program(self) -> None:
        program = shlex.split(self.command)[0]
        if shutil.which(program) is None:
            raise LabelError(
                f"expected the program {program!r} on the PATH, got none; install Quantum ESPRESSO "
                "(Debian: apt-get install quantum-espresso quantum-espresso-data), or set command"
            )

    def _check_pseudopotentials(self, symbols: Iterable[str]) -> None:
        for symbol in sorted(symbols):
            name = self.pseudopotentials.get(symbol)
            if name is None or not (self.pseudo_dir / name).is_file():
                raise LabelError(
                    f"expected a pseudopotential of {symbol} in {self.pseudo_dir}, got "
                    f"{name or 'none named'}; set pseudopotentials and pseudo_dir (Debian: "
                    "apt-get install quantum-espresso-data)"
                )
