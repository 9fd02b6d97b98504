"""Labelled frames from any file that ASE reads."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from hydra.utils import to_absolute_path

from schnetpack_tpainn.data.store import fingerprint, labelled, write_database
from schnetpack_tpainn.data.units import unit_factor
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import DataError

__all__ = ["TrajectoryImport"]


class TrajectoryImport:
    """Turns labelled frames in files that ``ase.io.read`` understands into a SchNetPack database.

    Units are stated, never guessed. ASE itself converts many programs' outputs to Å and eV; say
    what its ``Atoms`` hold. Labels are taken from the frames' calculator, ``info`` or ``arrays``.
    A frame without a label is an error: nothing is skipped.

    .. code-block:: yaml

        source:
          _target_: schnetpack_tpainn.data.TrajectoryImport
          files: [frames.extxyz]
          distance_unit: Ang
          energy_unit: kcal/mol
          forces_unit: kcal/mol/Ang

    Args:
        files: files to read in their order, all frames of each; relative paths count from where
            a Hydra run was started.
        distance_unit: unit of positions and cells, as in ``ase.units`` (``Ang``, ``Bohr``, ``nm``).
        energy_unit: unit of energies (``eV``, ``Hartree``, ``kcal/mol``).
        forces_unit: unit of forces (``eV/Ang``, ``Hartree/Bohr``).
        energy_key: name of the energy.
        forces_key: name of the forces.

    Raises:
        DataError: no files are given, a file is absent, or a unit is not known.
    """

    def __init__(
        self,
        files: str | Sequence[str],
        distance_unit: str,
        energy_unit: str,
        forces_unit: str,
        energy_key: str = "energy",
        forces_key: str = "forces",
    ) -> None:
        names = [files] if isinstance(files, str) else list(files)
        if not names:
            raise DataError("expected files to import, got an empty list")
        self.files = [Path(to_absolute_path(name)) for name in names]
        for path in self.files:
            if not path.is_file():
                raise DataError(f"expected a file with labelled frames, {path} does not exist")
        self._factors = tuple(
            unit_factor(unit, kind)
            for unit, kind in (
                (distance_unit, "distance"),
                (energy_unit, "energy"),
                (forces_unit, "forces"),
            )
        )
        self.settings: dict[str, Any] = {
            "source": "TrajectoryImport",
            "files": [
                {"name": p.name, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
                for p in self.files
            ],
            "distance_unit": distance_unit,
            "energy_unit": energy_unit,
            "forces_unit": forces_unit,
            "energy_key": energy_key,
            "forces_key": forces_key,
        }

    def make(self, path: str | Path) -> Path:
        """Write the database; it must not exist.

        Args:
            path: the SchNetPack database to make.

        Returns:
            ``path``.
        """
        frames = [frame for file in self.files for frame in self._read(file)]
        print_of = fingerprint(self.settings)
        provenance = {"versions": software_versions(), "fingerprint": print_of, **self.settings}
        return write_database(path, frames, provenance)

    def _read(self, file: Path) -> list[Atoms]:
        """All frames of a file, in Å, eV and eV/Å."""
        try:
            frames: Any = ase.io.read(file, index=":")
        except Exception as error:  # ASE's readers raise anything
            raise DataError(f"ASE cannot read frames from {file}: {error}") from error
        names = (self.settings["energy_key"], self.settings["forces_key"])
        missing: dict[str, list[int]] = {name: [] for name in names}
        converted = []
        to_ang, to_ev, to_ev_per_ang = self._factors
        for k, atoms in enumerate(frames):
            energy, forces = (_find(atoms, name) for name in names)
            for name, value in zip(names, (energy, forces), strict=True):
                if value is None:
                    missing[name].append(k)
            if energy is None or forces is None:
                continue
            bare = Atoms(
                atoms.numbers, atoms.positions * to_ang, cell=atoms.cell * to_ang, pbc=atoms.pbc
            )
            energy_ev = float(np.asarray(energy, dtype=np.float64).item()) * to_ev
            forces_ev_per_ang = np.asarray(forces, dtype=np.float64) * to_ev_per_ang
            converted.append(labelled(bare, energy_ev, forces_ev_per_ang, **atoms.info))
        if any(missing.values()):
            raise DataError(
                f"expected labels in every frame of {file}, got "
                + "; ".join(
                    f"no {name!r} in {len(ks)} of {len(frames)} frames (from 0: "
                    f"{', '.join(map(str, ks[:10]))}{', ...' if len(ks) > 10 else ''})"
                    for name, ks in missing.items()
                    if ks
                )
                + f"; {_names_of(frames[0])}: set energy_key and forces_key, or label the frames "
                "with tpainn-label"
            )
        return converted


def _find(atoms: Atoms, name: str) -> Any:
    results = getattr(atoms.calc, "results", None) or {}
    for place in (results, atoms.info, atoms.arrays):
        if place.get(name) is not None:
            return place[name]
    return None


def _names_of(atoms: Atoms) -> str:
    results = getattr(atoms.calc, "results", None) or {}
    names = {*results, *atoms.info, *atoms.arrays} - {"numbers", "positions"}
    return f"the first frame has {', '.join(sorted(names)) or 'no labels'}"
