"""Writers of SchNetPack databases: at once, or resumably while work goes on."""

import hashlib
import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import fasteners
import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.db.core import check, convert_str_to_int_float_bool_or_str
from ase.stress import full_3x3_to_voigt_6_stress

from schnetpack_tpainn.errors import DataError

__all__ = [
    "FrameStore",
    "fingerprint",
    "key_values",
    "labelled",
    "refuse_existing",
    "write_database",
]

log = logging.getLogger(__name__)

UNITS = {"energy": "eV", "forces": "eV/Ang", "stress": "eV/Ang/Ang/Ang"}
DISTANCE_UNIT = "Ang"
PLACE = ("item", "frame")  # keys by which a partial file orders its frames


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Hash of settings that decide what a data set holds.

    Args:
        settings: JSON-serialisable settings.

    Returns:
        Sixteen hexadecimal digits.
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def labelled(
    atoms: Atoms, energy_ev: float, forces_ev_per_ang: np.ndarray | None, /, **info: Any
) -> Atoms:
    """Copy of a structure that carries its energy and, unless they are None, its forces.

    Args:
        atoms: the structure.
        energy_ev: potential energy in eV.
        forces_ev_per_ang: forces in eV/Å, shape (N, 3); None where there are none.
        **info: scalars or short strings kept beside the frame (temperature, trajectory...).

    Returns:
        A new ``Atoms`` with a ``SinglePointCalculator``.
    """
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=dict(info))
    frame.calc = SinglePointCalculator(frame, energy=energy_ev, forces=forces_ev_per_ang)
    return frame


def key_values(info: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a structure's ``info`` that ASE's database can keep.

    Args:
        info: names and values.

    Returns:
        Numbers and strings under names that are not reserved; strings that read as numbers
        become numbers, as ASE demands.
    """
    kept = {}
    for key, value in info.items():
        if isinstance(value, str):
            value = convert_str_to_int_float_bool_or_str(value)
        try:
            check({key: value})
        except (TypeError, ValueError):
            continue
        if key not in PLACE:
            kept[key] = value
    return kept


def _data(atoms: Atoms) -> dict[str, np.ndarray]:
    """Labels as SchNetPack stores them: energy (1,); if any, forces (N, 3), stress (1, 3, 3)."""
    labels = {"energy": np.array([atoms.get_potential_energy()], dtype=np.float64)}
    with suppress(PropertyNotImplementedError):
        labels["forces"] = np.asarray(atoms.get_forces(), dtype=np.float64)
    if atoms.calc.results.get("stress") is not None:
        labels["stress"] = atoms.get_stress(voigt=False)[None]
    return labels


def _restored(row: Any) -> Atoms:
    """The labelled frame of a partial file's row."""
    frame = labelled(row, row.data["energy"][0], row.data.get("forces"), **row.key_value_pairs)
    if "stress" in row.data:
        frame.calc.results["stress"] = full_3x3_to_voigt_6_stress(row.data["stress"][0])
    return frame


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def refuse_existing(path: Path) -> None:
    """Refuse a path that no database may be written to.

    Args:
        path: the database to make.

    Raises:
        DataError: it does not end in ``.db``, or exists.
    """
    if path.suffix != ".db":
        raise DataError(f"expected a data set path ending in '.db', got {path}")
    if path.exists():
        raise DataError(
            f"data set {path} exists and is never written over; choose another path or delete it"
        )


def write_database(
    path: str | Path,
    frames: Iterable[Atoms],
    metadata: Mapping[str, Any],
    atomrefs: Mapping[str, Sequence[float]] | None = None,
) -> Path:
    """Write a finished SchNetPack database: all of it, or nothing.

    Args:
        path: the database to make; must end in ``.db`` and not exist.
        frames: structures (Å) from :func:`labelled`, all with forces or all without; their
            ``info`` becomes key-value pairs.
        metadata: provenance stored beside SchNetPack's units.
        atomrefs: property -> value per atomic number (eV), as SchNetPack stores them.

    Returns:
        ``path``.

    Raises:
        DataError: there are no frames, or some have forces and others none. The path's suffix
            and absence are checked, too.
    """
    path = Path(path)
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.db")
    temporary.unlink(missing_ok=True)
    n, labels = 0, list[str]()
    with connect(str(temporary), use_lock_file=False) as db:
        for n, atoms in enumerate(frames, 1):
            data = _data(atoms)
            labels = labels or list(data)
            if list(data) != labels:
                raise DataError(
                    f"expected {' and '.join(labels)} for every frame of {path}, as for the "
                    f"first, got {' and '.join(data)} for frame {n}; label all alike"
                )
            db.write(_bare(atoms), data=data, **key_values(atoms.info))
    if not n:
        temporary.unlink()
        raise DataError(f"nothing to write to {path}: no frame was labelled")
    db.metadata = {
        "_property_unit_dict": {name: UNITS[name] for name in labels},
        "_distance_unit": DISTANCE_UNIT,
        "atomrefs": {k: list(v) for k, v in (atomrefs or {}).items()},
        **metadata,
    }
    temporary.replace(path)
    log.info("%d frames written to %s", n, path)
    return path


def _begun(path: Path) -> bool:
    """Whether a partial file has its metadata, which are written before any frame.

    A process killed while it made the file's tables leaves one that ASE cannot open, and nothing
    to lose.
    """
    with closing(sqlite3.connect(path)) as db:
        try:
            query = "SELECT COUNT(*) FROM information WHERE name = 'metadata'"
            return db.execute(query).fetchone()[0] > 0
        except sqlite3.OperationalError:  # there is no such table yet
            return False


class FrameStore:
    """Collects labelled frames by work item and turns them into one finished database.

    While work goes on, frames lie in ``<path>.partial``, one SQLite transaction per item, so that
    a killed process loses at most the items it was working on. :meth:`finish` writes the database
    in the order of the items: ``path`` either does not exist or is complete.

    Args:
        path: the database to make; must end in ``.db``.
        settings: what decides the content. A partial file made with other settings is refused.

    Raises:
        DataError: ``path`` has another suffix or exists, another process is making it, or the
            partial file has other settings.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        refuse_existing(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._lock_path = self._partial.with_name(self._partial.name + ".lock")
        self._lock = fasteners.InterProcessLock(self._lock_path)
        if not self._lock.acquire(blocking=False):
            raise DataError(
                f"another process is making {self.path} (it holds {self._lock_path}); wait for "
                "it, or choose another path"
            )
        if self._partial.exists() and not _begun(self._partial):
            self._partial.unlink()
        self._db = connect(str(self._partial), type="db", use_lock_file=False)
        wanted = fingerprint(settings)
        found = self._db.metadata.get("fingerprint") if self._partial.exists() else None
        if found is None:
            self._db.metadata = {"fingerprint": wanted}
        elif found != wanted:
            raise DataError(
                f"{self._partial} was begun with other settings (expected fingerprint {wanted}, "
                f"got {found}); restore the settings, delete the file, or choose another path"
            )
        self.fingerprint = wanted

    def done(self) -> set[str]:
        """Names of the items that are complete."""
        return set(self.sizes())

    def sizes(self) -> Counter[str]:
        """Number of frames of each item that is complete."""
        columns = ["id", "key_value_pairs"]
        rows = self._db.select(columns=columns, include_data=False)
        return Counter(row.key_value_pairs["item"] for row in rows)

    def add(self, item: str, frames: Iterable[Atoms]) -> None:
        """Store the frames of one work item in one transaction.

        Args:
            item: name of the work item; not a number, which ASE's database would refuse.
            frames: structures with a calculator that holds energy (eV) and, if at all, forces
                (eV/Å).
        """
        with self._db:
            for k, atoms in enumerate(frames):
                extra = key_values(atoms.info)
                self._db.write(_bare(atoms), item=item, frame=k, data=_data(atoms), **extra)
                self._db.change_count = 0  # ASE would commit after 5000 frames: half an item

    def finish(
        self,
        items: Sequence[str],
        metadata: Mapping[str, Any],
        atomrefs: Mapping[str, Sequence[float]] | None = None,
    ) -> Path:
        """Write the finished database and remove the partial file.

        The settings' fingerprint is added to the metadata.

        Args:
            items: names of the items in the order in which their frames shall stand.
            metadata: provenance stored beside SchNetPack's units.
            atomrefs: property -> value per atomic number (eV), as SchNetPack stores them.

        Returns:
            Path of the finished database.
        """
        rank = {item: i for i, item in enumerate(items)}
        rows = [row for row in self._db.select() if row.item in rank]
        rows.sort(key=lambda row: (rank[row.item], row.frame))
        frames = map(_restored, rows)
        content = {"fingerprint": self.fingerprint, **metadata}
        write_database(self.path, frames, content, atomrefs)
        self._partial.unlink()
        self._lock_path.unlink()
        self._lock.release()
        return self.path
