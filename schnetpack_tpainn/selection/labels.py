"""Labels of a loop: those so far with their parts, and where new ones come from."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.db import connect

from schnetpack_tpainn.data.additive import free_atoms, read_labelled
from schnetpack_tpainn.data.check import check_database
from schnetpack_tpainn.data.label import label_frames, make_calculator
from schnetpack_tpainn.data.split import SeededSplit
from schnetpack_tpainn.data.store import labelled, write_database
from schnetpack_tpainn.data.training import PARTS, read_split, write_split
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import DataError

__all__ = ["Engine", "Labeller", "Labels", "Oracle", "read_labels", "refuse_other_level"]

log = logging.getLogger(__name__)

KEYS = ("energy", "forces")
LABELS_NAME, SPLIT_NAME = "labels.db", "split.npz"
SAME_ANG = 1e-4  # between a frame of the pool and its row in the database with its label


@dataclass(frozen=True)
class Labels:
    """Labelled frames and what each is for.

    Attributes:
        frames: the frames, with energy (eV) and forces (eV/Å).
        parts: places of the training, validation and test frames.
        metadata: of the database they came from.
        atoms_ev: energies of free atoms per atomic number, shape (100,); zero where not known.
    """

    frames: list[Atoms]
    parts: tuple[list[int], list[int], list[int]]
    metadata: dict[str, Any] = field(default_factory=dict)
    atoms_ev: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def part(self, k: int) -> list[Atoms]:
        """Frames of a part.

        Args:
            k: 0 training, 1 validation, 2 test.

        Returns:
            The frames.
        """
        return [self.frames[i] for i in self.parts[k]]

    def extended(self, new: Sequence[Atoms]) -> "Labels":
        """These and further training labels.

        Args:
            new: labelled frames.

        Returns:
            Labels in which the places of those before stay.
        """
        places = range(len(self.frames), len(self.frames) + len(new))
        train, val, test = self.parts
        return replace(self, frames=[*self.frames, *new], parts=([*train, *places], val, test))

    def write(self, folder: Path) -> None:
        """Write a database and its split, unless they are there.

        Args:
            folder: where ``labels.db`` and ``split.npz`` go; the split first, so that no database
                is there without one.
        """
        if (folder / LABELS_NAME).exists():
            return
        write_split(folder / SPLIT_NAME, dict(zip(PARTS, self.parts, strict=True)))
        kept = ("level_of_theory", "calculator")
        metadata = {k: self.metadata[k] for k in kept if k in self.metadata}
        metadata |= {"source": "tpainn-loop", "versions": software_versions()}
        atomrefs = {"energy": self.atoms_ev.tolist()} if self.atoms_ev.any() else None
        write_database(folder / LABELS_NAME, self.frames, metadata, atomrefs)


def read_labels(
    path: Path, split: Path | None, n_val: int | None, n_test: int | None, seed: int = 0
) -> Labels:
    """Read the labels that a loop begins with.

    Args:
        path: SchNetPack database with energies and forces.
        split: ``.npz`` with ``train_idx``, ``val_idx`` and ``test_idx``, as every run leaves it; no
            frame need be there to train on. Frames of no part are left out.
        n_val: without a split, validation frames to draw.
        n_test: without a split, test frames to draw; all others are to train on.
        seed: of that draw.

    Returns:
        The labels.

    Raises:
        DataError: the database or the split is damaged, a frame is in two parts or outside, or
            there are no validation or test frames.
    """
    n_frames = len(check_database(path, *KEYS))
    if split is None:
        parts = _drawn(n_frames, n_val, n_test, seed)
    elif n_val is None and n_test is None:
        found = read_split(split)
        parts = [found[name] for name in PARTS]
    else:
        raise DataError("expected a split file or numbers of validation and test frames, got both")
    rows = [i for part in parts for i in part]
    if rows and not 0 <= min(rows) <= max(rows) < n_frames:
        raise DataError(f"{split} names row {max(rows, key=abs)}, {path} has {n_frames} rows")
    if len(set(rows)) < len(rows):
        raise DataError(f"expected no frame twice in {split}, got one that is; correct the split")
    if not parts[1] or not parts[2]:
        raise DataError(
            f"expected validation and test frames, got {len(parts[1])} and {len(parts[2])}: a run "
            "needs at least one of each; label some beside those that are selected"
        )
    with connect(str(path), use_lock_file=False) as db:
        metadata = db.metadata
    ends = np.cumsum([len(part) for part in parts]).tolist()
    places = [list(range(a, b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    frames = list(read_labelled(path, rows))
    return Labels(frames, (places[0], places[1], places[2]), metadata, free_atoms(path))


def _drawn(n_frames: int, n_val: int | None, n_test: int | None, seed: int) -> list[list[int]]:
    if n_val is None or n_test is None:
        raise DataError(
            "expected a split file, or numbers of validation and of test frames, got neither; give "
            "--split, or --num-val and --num-test"
        )
    n_train = n_frames - n_val - n_test
    return list(SeededSplit(seed).split(range(n_frames), max(0, n_train), n_val, n_test))


class Labeller(Protocol):
    """Gives frames of the pool their labels."""

    settings: dict[str, Any]
    level: Any

    def label(self, frames: Sequence[Atoms], path: Path) -> None:
        """Write the database ``path`` with the labels of frames; nothing if none could be had."""
        ...


class Engine:
    """Labels by an ASE calculator, as ``tpainn-label`` does.

    Args:
        calculator: Hydra node of the calculator.
        n_workers: local processes; one per core when None.
        scheduler: address of a Dask scheduler instead.
    """

    def __init__(
        self,
        calculator: Mapping[str, Any],
        n_workers: int | None = None,
        scheduler: str | None = None,
    ) -> None:
        engine = make_calculator(calculator)
        self.settings: dict[str, Any] = {"calculator": dict(calculator)}
        self.level = engine.level_of_theory() if hasattr(engine, "level_of_theory") else None
        self._where = {"n_workers": n_workers, "scheduler": scheduler}

    def label(self, frames: Sequence[Atoms], path: Path) -> None:
        """Label frames; what was killed goes on.

        Args:
            frames: structures (Å).
            path: database to make; frames that fail are kept beside it and are not in it. If all
                fail, there is none.
        """
        calculator = self.settings["calculator"]
        result = label_frames(frames, calculator, path, **self._where)  # type: ignore[arg-type]
        if result.path is None:
            log.warning("none of %d frames could be labelled: %s", len(frames), result.failed_path)


class Oracle:
    """Labels of a pool that is labelled already: what a selection would have bought.

    Args:
        path: SchNetPack database whose rows are the frames of the pool, in their order.
        n_pool: frames of the pool.

    Raises:
        DataError: the database has another number of rows.
    """

    def __init__(self, path: Path, n_pool: int) -> None:
        self.path = path
        n_rows = len(check_database(path, *KEYS))
        if n_rows != n_pool:
            raise DataError(
                f"expected a row of {path} for each of the {n_pool} frames of the pool, got "
                f"{n_rows}; give the whole database as the pool"
            )
        with connect(str(path), use_lock_file=False) as db:
            self.level = db.metadata.get("level_of_theory")
        self.settings: dict[str, Any] = {"labels_from": str(path)}

    def label(self, frames: Sequence[Atoms], path: Path) -> None:
        """Look the labels up.

        Args:
            frames: frames of the pool (Å) with their ``pool_index``.
            path: database to make.

        Raises:
            DataError: a row is not the frame.
        """
        index = [int(atoms.info["pool_index"]) for atoms in frames]
        found = []
        for atoms, i, row in zip(frames, index, read_labelled(self.path, index), strict=True):
            same = np.array_equal(atoms.numbers, row.numbers)
            if not same or not np.allclose(atoms.positions, row.positions, rtol=0, atol=SAME_ANG):
                raise DataError(
                    f"expected frame {i} of the pool as row {i} of {self.path}, got another; give "
                    "the database as the pool"
                )
            results = row.calc.results
            found.append(labelled(row, results["energy"], results["forces"], **atoms.info))
        write_database(path, found, {**self.settings, "level_of_theory": self.level})


def refuse_other_level(labels: Labels, labeller: Labeller) -> None:
    """Refuse to add labels to those of another level of theory.

    Args:
        labels: labels so far.
        labeller: gives further ones.

    Raises:
        DataError: both say their level of theory, and not the same.
    """
    old, new = (
        json.loads(json.dumps(x)) for x in (labels.metadata.get("level_of_theory"), labeller.level)
    )
    if old is not None and new is not None and old != new:
        raise DataError(
            f"expected new labels of the level of theory of those so far, {old}, got {new}; use "
            "the same calculator and settings"
        )
