"""Frames of a cheaper method, labelled anew by a dearer one."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from hydra.utils import to_absolute_path

from schnetpack_tpainn.data.label import (
    check_node,
    frame_items,
    label_missing,
    make_calculator,
    write_failed,
)
from schnetpack_tpainn.data.store import FrameStore, fingerprint
from schnetpack_tpainn.data.structures import identity, read_frames
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import DataError, LabelError

__all__ = ["RelabelledData"]

log = logging.getLogger(__name__)


class RelabelledData:
    """Makes a data set of frames that exist, with another calculator's energies and forces.

    A rung of a ladder of teachers: a force field samples many frames, a dearer method labels some
    of them. Energies and forces in the file are never read. Killed work resumes.

    A frame that cannot be labelled is left out. As long as these are no more than the share
    ``max_failed``, they are counted in a warning and written, with the reasons, beside the
    database as ``.failed.extxyz``; beyond that no database is made.

    .. code-block:: yaml

        source:
          _target_: schnetpack_tpainn.data.RelabelledData
          _recursive_: false
          _convert_: all
          frames: tpainn_rdkit.db
          n_frames: 1500
          calculator:
            _target_: tblite.ase.TBLite
            method: GFN2-xTB

    Args:
        frames: SchNetPack database, or a file that ASE reads, such as one of `tpainn-select`.
        calculator: Hydra node of an ASE calculator with energy and forces.
        n_frames: random choice of so many frames; all when None.
        max_failed: share of the frames that may fail.
        seed: seed of the choice.
        n_workers: worker processes; all cores when None.
        scheduler: address or scheduler file of a Dask cluster to use instead.

    Raises:
        DataError: the file is absent or not readable, the calculator is no node, there are fewer
            frames than asked for, or ``max_failed`` is no share.
    """

    def __init__(
        self,
        frames: str,
        calculator: Mapping[str, Any],
        n_frames: int | None = None,
        max_failed: float = 0.02,
        seed: int = 0,
        n_workers: int | None = None,
        scheduler: str | None = None,
    ) -> None:
        check_node(calculator)
        self.n_workers, self.scheduler = n_workers, scheduler
        path = Path(to_absolute_path(str(frames)))
        if not path.is_file():
            raise DataError(f"expected a file of frames, {path} does not exist; correct its path")
        pool = read_frames(path)
        n = len(pool) if n_frames is None else n_frames
        if not 1 <= n <= len(pool):
            raise DataError(f"expected n_frames from 1 to the {len(pool)} of {path}, got {n}")
        if not 0 <= max_failed < 1:
            raise DataError(f"expected max_failed from 0 to below 1, got {max_failed}")
        chosen = np.arange(n)
        if n < len(pool):
            chosen = np.sort(np.random.default_rng(seed).permutation(len(pool))[:n])
        self.chosen = [pool[i] for i in chosen]
        self.n_allowed = int(max_failed * n)
        self.content: dict[str, Any] = {
            "frames": identity(str(frames)),
            "calculator": dict(calculator),
            "n_frames": n,
            "seed": seed if n < len(pool) else None,
        }
        least = n - self.n_allowed  # frames in the data set
        self.settings: dict[str, Any] = self.content | {"n_frames": least, "max_failed": max_failed}
        _check_charge(self.chosen, calculator)

    def make(self, path: str | Path) -> Path:
        """Label what is missing and write the finished data set.

        Refuses with ``DataError`` when ``path`` exists or its partial file has other settings.

        Args:
            path: the SchNetPack database to make.

        Returns:
            ``path``.

        Raises:
            LabelError: the calculator cannot be built, or more frames fail than may.
        """
        path = Path(path)
        config = self.content["calculator"]
        engine = make_calculator(config)
        store = FrameStore(path, self.content)  # may go on with another max_failed
        failed = label_missing(store, self.chosen, config, self.n_workers, self.scheduler)
        if failed:
            kept = write_failed(path, self.chosen, failed)
            first = min(failed)
            text = f"{len(failed)} of {len(self.chosen)} frames failed, first {failed[first]!r}"
            if len(failed) > self.n_allowed:
                raise LabelError(
                    f"expected at most {self.n_allowed} frames to fail, but {text}; they are in "
                    f"{kept}: change the calculator's settings, or raise max_failed. What is "
                    "finished is kept"
                )
            log.warning("%s; they are left out, and kept in %s", text, kept)
        provenance = self.settings | {
            "source": "RelabelledData",
            "fingerprint": fingerprint(self.settings),
            "n_failed": len(failed),
            "versions": software_versions(),
        }
        if hasattr(engine, "level_of_theory"):
            provenance["level_of_theory"] = engine.level_of_theory()
        return store.finish(frame_items(self.chosen), provenance)


def _check_charge(frames: list[Atoms], calculator: Mapping[str, Any]) -> None:
    """Refuse frames of another total charge than the calculator is set for."""
    wanted = float(calculator.get("charge") or 0)
    for i, frame in enumerate(frames):
        charge = float(frame.info.get("total_charge", 0))
        if charge != wanted:
            raise DataError(
                f"expected frames of the calculator's charge {wanted:g}, frame {i} "
                f"({frame.get_chemical_formula()}) has {charge:+g}; set "
                f"data.source.calculator.charge={charge:g}, or leave such frames out"
            )
