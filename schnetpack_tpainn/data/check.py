"""One pass over a database that finds what would spoil a training run."""

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.db import connect

from schnetpack_tpainn.data.offsets import Z_MAX
from schnetpack_tpainn.data.units import unit_factor
from schnetpack_tpainn.errors import DataError

__all__ = ["FrameTable", "check_database", "nearest_images", "shortest_distances"]

log = logging.getLogger(__name__)

CLOSEST_ANG = 0.3
LARGEST_FORCE_EV_PER_ANG = 1e3
MEDIAN_FORCE_EV_PER_ANG = 1e2
SUSPICIOUS_FORCE_EV_PER_ANG = 15.0  # median; 0.3 to 3 is usual, kcal/mol/Å give 23 times that
CHUNK = 256
LIKELY_UNITS = {"meV/Å": 1e-3} | {
    unit: unit_factor(unit, "forces") for unit in ("kcal/mol/Ang", "kJ/mol/nm", "Hartree/Bohr")
}


@dataclass
class FrameTable:
    """Compositions and energies of a database, in the unit it stores.

    Attributes:
        counts: atoms of each element, shape (M, 100).
        energies: energy of each frame, shape (M,).
    """

    counts: np.ndarray
    energies: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)


def check_database(path: str | Path, energy_key: str, forces_key: str | None) -> FrameTable:
    """Check units, labels and geometries of every frame.

    Args:
        path: SchNetPack database.
        energy_key: property that holds the energy.
        forces_key: property that holds the forces; None for a data set without.

    Returns:
        Compositions and energies.

    Raises:
        DataError: the file is no ``.db`` or is empty, rows were deleted, units are absent or
            unknown, labels are absent, of the wrong shape, not finite or of impossible size, or
            atoms lie on top of each other.
    """
    if Path(path).suffix != ".db":
        raise DataError(f"expected a SchNetPack database, a file that ends in '.db', got {path}")
    try:
        with connect(str(path), use_lock_file=False) as db:
            metadata, n_frames = db.metadata, db.count()
            if not n_frames:
                raise DataError(f"expected frames in {path}, got an empty database")
            factors = _unit_factors(metadata, [energy_key, *([forces_key] if forces_key else [])])
            scan = _Scan(str(path), energy_key, forces_key, factors, n_frames)
            for rows in batched(_rows(db), CHUNK):
                scan.add(rows)
    except (sqlite3.DatabaseError, OSError) as error:
        raise DataError(f"expected a SchNetPack database, cannot read {path}: {error}") from error
    scan.judge()
    return FrameTable(scan.counts, scan.energies)


class _Row(NamedTuple):
    id: int
    numbers: np.ndarray  # (N,)
    positions: np.ndarray  # (N, 3)
    cell: np.ndarray  # (3, 3)
    pbc: np.ndarray  # (3,)
    data: Mapping[str, Any]


def _rows(db: Any) -> Iterator[_Row]:
    """Rows of ASE's table; its ``select`` takes five times as long to make objects of them."""
    columns = "id, numbers, positions, cell, pbc, data"
    for row in db.connection.execute(f"SELECT {columns} FROM systems ORDER BY id"):  # noqa: S608
        yield _Row(
            row[0],
            np.frombuffer(row[1], "<i4"),
            np.frombuffer(row[2], "<f8").reshape(-1, 3),
            np.frombuffer(row[3], "<f8").reshape(3, 3),
            (row[4] & np.array([1, 2, 4])).astype(bool),
            db.decode(row[5]) or {},
        )


def _unit_factors(metadata: Mapping[str, Any], keys: list[str]) -> dict[str, float]:
    """Factors to Å (under ``""``), eV and eV/Å."""
    remedy = "convert the data set with `spkconvert`, or import it with stated units"
    stored = metadata.get("_property_unit_dict")
    if not stored or not metadata.get("_distance_unit"):
        raise DataError(f"expected units in the database's metadata, got none; {remedy}")
    kinds = dict(zip(("", *keys), ("distance", "energy", "forces"), strict=False))
    units = {"": metadata["_distance_unit"], **stored}
    factors = {}
    for key, kind in kinds.items():
        if key not in units:
            raise DataError(
                f"expected the property {key!r}, the database has {', '.join(stored)}; set "
                "data.energy_key and data.forces_key (globals.forces_key=null: energies alone), or "
                "label the frames (tpainn-label)"
            )
        try:
            factors[key] = unit_factor(units[key], kind)
        except DataError as error:
            raise DataError(
                f"{key or '_distance_unit'} in the metadata: {error}; {remedy}"
            ) from error
    return factors


class _Scan:
    """Collects, chunk by chunk, what the verdict needs."""

    def __init__(
        self,
        path: str,
        energy_key: str,
        forces_key: str | None,
        factors: Mapping[str, float],
        n_frames: int,
    ) -> None:
        self.path, self.energy_key, self.forces_key = path, energy_key, forces_key
        self.factors = factors
        self.counts = np.zeros((n_frames, Z_MAX), dtype=np.int32)
        self.energies = np.zeros(n_frames)
        self.closest = np.full(n_frames, np.inf)  # Å
        self.forces: list[np.ndarray] = []  # lengths in eV/Å, frame by frame
        self.not_finite: list[int] = []
        self.n = 0

    def add(self, rows: tuple[_Row, ...]) -> None:
        """Take in a chunk of database rows."""
        groups: dict[int, list[int]] = {}
        for k, row in enumerate(rows):
            if row.id != self.n + k + 1:
                raise DataError(
                    f"expected frames numbered from 1 without gaps in {self.path}, got id {row.id} "
                    f"at place {self.n + k + 1} (rows were deleted): copy it to a new database"
                )
            self._add_labels(self.n + k, row)
            groups.setdefault(len(row.numbers), []).append(k)
        for members in groups.values():
            positions = np.stack([rows[k].positions for k in members]) * self.factors[""]
            cells = np.stack([rows[k].cell for k in members]) * self.factors[""]
            pbc = np.stack([rows[k].pbc for k in members])
            self.closest[np.array(members) + self.n] = shortest_distances(positions, cells, pbc)
        self.n += len(rows)

    def _add_labels(self, index: int, row: _Row) -> None:
        data, numbers = row.data, row.numbers
        energy = self._label(data, self.energy_key, row.id)
        if energy.size != 1:
            raise DataError(
                f"expected one number as {self.energy_key} of frame id {row.id}, "
                f"got shape {energy.shape}"
            )
        self.counts[index] = np.bincount(numbers, minlength=Z_MAX)[:Z_MAX]
        self.energies[index] = energy.item()
        finite = np.isfinite(energy).all() and np.isfinite(row.positions).all()
        if self.forces_key is not None:
            forces = self._label(data, self.forces_key, row.id)
            if forces.shape != (len(numbers), 3):
                raise DataError(
                    f"expected {self.forces_key} of shape {(len(numbers), 3)} for frame id "
                    f"{row.id}, got {forces.shape}"
                )
            finite = finite and np.isfinite(forces).all()
            self.forces.append(np.linalg.norm(forces, axis=1) * self.factors[self.forces_key])
        if not finite:
            self.not_finite.append(row.id)

    def _label(self, data: Mapping[str, Any], key: str, frame_id: int) -> np.ndarray:
        if key not in data:
            raise DataError(
                f"expected {key} in every frame of {self.path}, frame id {frame_id} has "
                f"{', '.join(data) or 'no labels'}; label the frames anew (tpainn-label)"
            )
        return np.asarray(data[key], dtype=np.float64)

    def judge(self) -> None:
        """Raise what is wrong with the whole."""
        if self.not_finite:
            raise DataError(
                f"expected finite labels and positions in {self.path}, got NaN or infinity in "
                f"{len(self.not_finite)} frames: ids {_few(self.not_finite)}; remove them or label "
                "them anew"
            )
        close = np.flatnonzero(self.closest < CLOSEST_ANG)
        if len(close):
            raise DataError(
                f"expected atoms at least {CLOSEST_ANG} Å apart in {self.path}, got "
                f"{self.closest[close].min():.3g} Å in {len(close)} frames: ids "
                f"{_few([int(i) + 1 for i in close])}; if all are concerned, positions in nm (or "
                "Bohr) are stored as Å: correct _distance_unit in the metadata"
            )
        hydrogen = self.counts[:, 1] > 0
        if hydrogen.any() and 1.4 < np.median(self.closest[hydrogen]) < np.inf:
            log.warning(
                "frames with hydrogen have no bond shorter than %.2f Å: are positions in Bohr "
                "stored as Å?",
                np.median(self.closest[hydrogen]),
            )
        if self.forces_key is not None:
            self._judge_forces(self.forces_key)

    def _judge_forces(self, forces_key: str) -> None:
        largest = np.array([f.max() for f in self.forces])
        median = float(np.median(np.concatenate(self.forces)))
        wrong = largest.max() >= LARGEST_FORCE_EV_PER_ANG or median >= MEDIAN_FORCE_EV_PER_ANG
        if wrong or median > SUSPICIOUS_FORCE_EV_PER_ANG:
            likely = ", ".join(
                f"{unit}: median {median / self.factors[forces_key] * factor:.3g}"
                for unit, factor in LIKELY_UNITS.items()
            )
            message = (
                f"expected forces of order 1 eV/Å in {self.path}, got a median of {median:.3g} and "
                f"a largest of {largest.max():.3g} eV/Å (frame id {int(largest.argmax()) + 1}); "
                f"if the stored unit is wrong, eV/Å would be, for {likely}: correct "
                "_property_unit_dict in the metadata, or remove frames with overlapping atoms"
            )
            if wrong:
                raise DataError(message)
            log.warning(message)


def shortest_distances(positions: np.ndarray, cells: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Shortest distance between two atoms of each frame, exact where it is short.

    Args:
        positions: positions, shape (B, N, 3).
        cells: cell vectors in the same unit, shape (B, 3, 3).
        pbc: periodic directions, shape (B, 3).

    Returns:
        Distances, shape (B,); infinite for a single atom.
    """
    n_atoms = positions.shape[1]
    if n_atoms < 2:
        return np.full(len(positions), np.inf)
    shortest = np.empty(len(positions))
    i, j = np.triu_indices(n_atoms, 1)
    step = max(1, 200_000 // len(i))  # some MB: the processor's cache
    for start in range(0, len(positions), step):
        part = slice(start, start + step)
        vectors = positions[part][:, i] - positions[part][:, j]  # (B, pairs, 3)
        if pbc[part].any():
            vectors = nearest_images(vectors, cells[part], pbc[part])
        shortest[part] = np.sqrt((vectors**2).sum(-1).min(1))
    return shortest


def nearest_images(vectors: np.ndarray, cells: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Nearest images by rounding fractional coordinates: right well below half a cell's width.

    Args:
        vectors: differences of positions, shape (B, P, 3).
        cells: cell vectors in the same unit, shape (B, 3, 3).
        pbc: periodic directions, shape (B, 3).

    Returns:
        The shorter differences, shape (B, P, 3).
    """
    cells = np.where(pbc[:, :, None], cells, 0.0)
    return vectors - np.round(vectors @ np.linalg.pinv(cells)) @ cells


def _few(ids: list[int], n: int = 10) -> str:
    return ", ".join(map(str, ids[:n])) + (", ..." if len(ids) > n else "")
