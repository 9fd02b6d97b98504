"""Labelled frames from any file that ASE reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from hydra.utils import to_absolute_path

from schnetpack_tpainn.data.store import fingerprint, key_values, labelled, write_database
from schnetpack_tpainn.data.units import unit_factor
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import DataError
from schnetpack_tpainn.files import file_sha256

__all__ = ["TrajectoryImport"]


class TrajectoryImport:
    """Turns labelled frames in files that ``ase.io.read`` understands into a SchNetPack database.

    Units are stated, never guessed. ASE itself converts many programs' outputs to Å and eV; say
    what its ``Atoms`` hold. Labels are taken from the frames' calculator, ``info`` or ``arrays``.
    A frame without a label is an error: nothing is skipped.

    Frames of ``test_files`` are marked as test frames for
    :class:`~schnetpack_tpainn.data.split.PartSplit`: frames drawn at random from one trajectory
    resemble those trained on.

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
        forces_unit: unit of forces (``eV/Ang``, ``Hartree/Bohr``); None without forces.
        energy_key: name of the energy.
        forces_key: name of the forces; None to import energies alone.
        test_files: files whose frames are for tests alone, likewise.

    Raises:
        DataError: no files are given, a file is absent, a unit is not known, or one of
            ``forces_key`` and ``forces_unit`` is None and the other is not.
    """

    def __init__(
        self,
        files: str | Sequence[str],
        distance_unit: str,
        energy_unit: str,
        forces_unit: str | None,
        energy_key: str = "energy",
        forces_key: str | None = "forces",
        test_files: str | Sequence[str] | None = None,
    ) -> None:
        self.files, self.test_files = _paths(files), _paths(test_files or ())
        if not self.files:
            raise DataError("expected files to import, got an empty list")
        if (forces_key is None) != (forces_unit is None):
            raise DataError(
                f"expected forces_key and forces_unit, or both null for energies alone, got "
                f"forces_key {forces_key} and forces_unit {forces_unit}"
            )
        self._to_ang = unit_factor(distance_unit, "distance")
        self._to_ev = unit_factor(energy_unit, "energy")
        self._to_ev_per_ang = None if forces_unit is None else unit_factor(forces_unit, "forces")
        self.settings: dict[str, Any] = {
            "source": "TrajectoryImport",
            "files": [_identity(p) for p in self.files],
            "distance_unit": distance_unit,
            "energy_unit": energy_unit,
            "forces_unit": forces_unit,
            "energy_key": energy_key,
            "forces_key": forces_key,
        }
        if self.test_files:
            self.settings["test_files"] = [_identity(p) for p in self.test_files]

    def make(self, path: str | Path) -> Path:
        """Write the database; it must not exist.

        Args:
            path: the SchNetPack database to make.

        Returns:
            ``path``.
        """
        frames = [frame for file in self.files for frame in self._read(file)]
        if self.test_files:
            tests = [frame for file in self.test_files for frame in self._read(file)]
            for part, members in (("pool", frames), ("test", tests)):
                for frame in members:
                    frame.info["part"] = part
            frames += tests
        provenance = {"versions": software_versions(), **self.settings}
        provenance["fingerprint"] = fingerprint(self.settings)
        return write_database(path, frames, provenance)

    def _read(self, file: Path) -> list[Atoms]:
        """All frames of a file, in Å, eV and eV/Å."""
        try:
            frames: Any = ase.io.read(file, index=":")
        except Exception as error:  # ASE's readers raise anything
            raise DataError(f"ASE cannot read frames from {file}: {error}") from error
        self._check_labels(file, frames)
        return [self._convert(atoms) for atoms in frames]

    def _check_labels(self, file: Path, frames: list[Atoms]) -> None:
        """Refuse a file with frames that lack a label, naming them."""
        lacking = []
        for name in filter(None, (self.settings["energy_key"], self.settings["forces_key"])):
            which = [k for k, atoms in enumerate(frames) if _find(atoms, name) is None]
            if which:
                few = ", ".join(map(str, which[:10])) + (", ..." if len(which) > 10 else "")
                lacking.append(
                    f"no {name!r} in {len(which)} of {len(frames)} frames (from 0: {few})"
                )
        if lacking:
            raise DataError(
                f"expected labels in every frame of {file}, got {'; '.join(lacking)}; "
                f"{_names_of(frames[0])}: set energy_key and forces_key, or label the frames with "
                "tpainn-label"
            )

    def _convert(self, atoms: Atoms) -> Atoms:
        energy = np.asarray(_find(atoms, self.settings["energy_key"]), dtype=np.float64).item()
        forces = None
        if self._to_ev_per_ang is not None:
            found = np.asarray(_find(atoms, self.settings["forces_key"]), dtype=np.float64)
            forces = found * self._to_ev_per_ang
        positions, cell = atoms.positions * self._to_ang, atoms.cell * self._to_ang
        converted = Atoms(atoms.numbers, positions, cell=cell, pbc=atoms.pbc)
        info = key_values(atoms.info)
        return labelled(converted, energy * self._to_ev, forces, **info)


def _paths(files: str | Sequence[str]) -> list[Path]:
    """Paths of files that are there."""
    names = [files] if isinstance(files, str) else list(files)
    paths = [Path(to_absolute_path(name)) for name in names]
    for path in paths:
        if not path.is_file():
            raise DataError(f"expected a file with labelled frames, {path} does not exist")
    return paths


def _identity(path: Path) -> dict[str, str]:
    return {"name": path.name, "sha256": file_sha256(path)}


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
