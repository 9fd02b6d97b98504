"""A resumable writer of SchNetPack databases, shared by sampling and labelling."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from schnetpack_tpainn.errors import DataError

__all__ = ["FrameStore", "fingerprint", "labelled"]

log = logging.getLogger(__name__)

UNITS = {"energy": "eV", "forces": "eV/Ang"}
DISTANCE_UNIT = "Ang"


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Hash of settings that decide what a data set holds.

    Args:
        settings: JSON-serialisable settings.

    Returns:
        Sixteen hexadecimal digits.
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def labelled(atoms: Atoms, energy_ev: float, forces_ev_per_ang: np.ndarray, **info: Any) -> Atoms:
    """Copy of a structure that carries its energy and forces.

    Args:
        atoms: the structure.
        energy_ev: potential energy in eV.
        forces_ev_per_ang: forces in eV/Å, shape (N, 3).
        **info: scalars or short strings kept beside the frame (temperature, trajectory...).

    Returns:
        A new ``Atoms`` with a ``SinglePointCalculator``.
    """
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=dict(info))
    frame.calc = SinglePointCalculator(frame, energy=energy_ev, forces=forces_ev_per_ang)
    return frame


class FrameStore:
    """Collects labelled frames by work item and turns them into one finished database.

    While work goes on, frames lie in ``<path>.partial``, one SQLite transaction per item, so that
    a killed process loses at most the item it was working on. :meth:`finish` writes the database
    in the order of the items to a temporary file and renames it: ``path`` either does not exist or
    is complete.

    Args:
        path: the database to make; must end in ``.db``.
        settings: what decides the content. A partial file made with other settings is refused.

    Raises:
        DataError: ``path`` has another suffix or exists, or the partial file has other settings.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        if self.path.suffix != ".db":
            raise DataError(f"expected a data set path ending in '.db', got {self.path}")
        if self.path.exists():
            raise DataError(
                f"data set {self.path} exists and is never written over; "
                "choose another path or delete it"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._db = connect(str(self._partial), type="db", use_lock_file=False)
        self._check_settings(fingerprint(settings))

    def _check_settings(self, wanted: str) -> None:
        found = self._db.metadata.get("fingerprint") if self._partial.exists() else None
        if found is None:
            self._db.metadata = {"fingerprint": wanted}
        elif found != wanted:
            raise DataError(
                f"{self._partial} was begun with other settings (expected fingerprint {wanted}, "
                f"got {found}); restore the settings, delete the file, or choose another path"
            )

    def done(self) -> set[str]:
        """Names of the items that are complete."""
        columns = ["id", "key_value_pairs"]
        rows = self._db.select(columns=columns, include_data=False)
        return {row.key_value_pairs["item"] for row in rows}

    def add(self, item: str, frames: Iterable[Atoms]) -> None:
        """Store the frames of one work item in one transaction.

        Args:
            item: name of the work item.
            frames: structures with a calculator that holds energy (eV) and forces (eV/Å).
        """
        with self._db:
            for k, atoms in enumerate(frames):
                data = {
                    "energy": np.array([atoms.get_potential_energy()], dtype=np.float64),
                    "forces": np.asarray(atoms.get_forces(), dtype=np.float64),
                }
                bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
                self._db.write(bare, item=item, frame=k, data=data, **atoms.info)

    def finish(
        self,
        items: Sequence[str],
        metadata: Mapping[str, Any],
        atomrefs: Mapping[str, Sequence[float]] | None = None,
    ) -> Path:
        """Write the finished database and remove the partial file.

        Args:
            items: names of the items in the order in which their frames shall stand.
            metadata: provenance stored beside SchNetPack's units.
            atomrefs: property -> value per atomic number (eV), as SchNetPack stores them.

        Returns:
            Path of the finished database.

        Raises:
            DataError: no frame is there to write.
        """
        rank = {item: i for i, item in enumerate(items)}
        rows = [row for row in self._db.select() if row.item in rank]
        if not rows:
            raise DataError(f"nothing to write to {self.path}: no frame was labelled")
        rows.sort(key=lambda row: (rank[row.item], row.frame))
        temporary = self.path.with_name(f".{self.path.stem}.tmp.db")
        temporary.unlink(missing_ok=True)
        with connect(str(temporary), use_lock_file=False) as db:
            for row in rows:
                extra = {k: v for k, v in row.key_value_pairs.items() if k not in ("item", "frame")}
                db.write(row.toatoms(), data=row.data, **extra)
        db.metadata = {
            "_property_unit_dict": UNITS,
            "_distance_unit": DISTANCE_UNIT,
            "atomrefs": {k: list(v) for k, v in (atomrefs or {}).items()},
            **metadata,
        }
        temporary.replace(self.path)
        self._partial.unlink()
        log.info("%d frames written to %s", len(rows), self.path)
        return self.path
