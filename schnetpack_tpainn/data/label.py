"""Label structures with any ASE calculator: parallel, resumable, failures kept apart."""

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, FileIOCalculator, all_changes
from ase.calculators.genericfileio import GenericFileIOCalculator
from hydra.utils import instantiate

from schnetpack_tpainn.data.parallel import map_items, workers
from schnetpack_tpainn.data.store import FrameStore, fingerprint, key_values, labelled
from schnetpack_tpainn.data.structures import absolute_files, write_frames
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import DataError, LabelError

__all__ = [
    "LabelResult",
    "check_converged",
    "check_node",
    "compute_label",
    "frame_items",
    "label_frames",
    "label_missing",
    "make_calculator",
    "write_failed",
]

log = logging.getLogger(__name__)


@lru_cache(maxsize=64)
def _calculator(config: str, thread: int) -> Calculator:
    calculator = instantiate(json.loads(config))
    if isinstance(calculator, FileIOCalculator | GenericFileIOCalculator):
        own = f"{socket.gethostname()}-{os.getpid()}-{thread}"  # workers must not share files
        calculator.directory = Path(calculator.directory) / own
    return calculator


def make_calculator(config: Mapping[str, Any]) -> Calculator:
    """Build an ASE calculator from a Hydra node, once per thread.

    A calculator that works through files gets a folder of its own below its ``directory``.

    Args:
        config: ``{"_target_": "tblite.ase.TBLite", "method": "GFN2-xTB"}`` and the like.

    Returns:
        The calculator.

    Raises:
        LabelError: the node names no class that can be imported and built.
    """
    try:
        return _calculator(json.dumps(config, sort_keys=True), threading.get_ident())
    except Exception as error:  # whatever a third-party constructor raises
        raise LabelError(
            f"cannot build the ASE calculator {config.get('_target_', config)}: {error}"
        ) from error


def check_node(calculator: Any) -> None:
    """Refuse a calculator that workers cannot build for themselves.

    Args:
        calculator: what a source was given as its calculator.

    Raises:
        DataError: it is no Hydra node.
    """
    if not isinstance(calculator, Mapping):
        raise DataError(
            "expected the Hydra node of a calculator, which every worker builds for itself, got "
            f"{calculator!r}; set `_recursive_: false` beside the source's _target_"
        )


def compute_label(atoms: Atoms, calculator: Calculator) -> Atoms:
    """Energy and forces of one structure.

    Args:
        atoms: the structure.
        calculator: ASE calculator with ``energy`` and ``forces``.

    Returns:
        The structure with its label (eV, eV/Å).

    Raises:
        LabelError: the calculator failed, says that it did not converge (``converged``), or gave
            no energy, no forces or a label that is not finite.
    """
    work = atoms.copy()
    work.calc = calculator
    try:
        calculator.results = {}  # some engines fail quietly and leave the frame's before
        calculator.calculate(work, ["energy", "forces"], all_changes)
        check_converged(calculator)
        energy = _result(calculator, "energy").item()
        forces = _result(calculator, "forces")
    except LabelError:
        raise
    except Exception as error:  # whatever a third-party engine raises
        raise LabelError(f"{type(error).__name__}: {error}") from error
    if forces.shape != (len(atoms), 3):
        raise LabelError(f"expected forces of shape {(len(atoms), 3)}, got {forces.shape}")
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        raise LabelError("energy or forces are not finite")
    return labelled(atoms, energy, forces, **key_values(atoms.info))


def check_converged(calculator: Calculator) -> None:
    """Refuse a calculation that did not converge where the engine says so without raising.

    Args:
        calculator: ASE calculator that has calculated.

    Raises:
        LabelError: it has an attribute ``converged``, as ASE's Vasp, and that is False.
    """
    converged = getattr(calculator, "converged", True)
    if isinstance(converged, bool | np.bool_) and not converged:
        raise LabelError(
            f"expected a converged calculation, {type(calculator).__name__} says that it did not "
            "converge; allow more cycles or change its settings"
        )


def _result(calculator: Calculator, name: str) -> np.ndarray:
    results = calculator.results
    if results.get(name) is None:
        raise LabelError(
            f"expected energy and forces, {type(calculator).__name__} gave no {name} (it "
            f"gave {', '.join(results) or 'nothing'}); let its settings ask for both"
        )
    return np.array(results[name], dtype=float)


def _work(config: dict[str, Any], atoms: Atoms) -> Atoms | str:
    try:
        return compute_label(atoms, make_calculator(config))
    except LabelError as error:
        return " ".join(str(error).split())


@dataclass
class LabelResult:
    """What labelling gave.

    Attributes:
        path: the finished database, or None when every frame failed.
        n_labelled: number of frames in it.
        failed: index of each failed frame -> what the engine said.
        failed_path: extended-XYZ file with the failed frames, or None.
    """

    path: Path | None
    n_labelled: int
    failed: dict[int, str] = field(default_factory=dict)
    failed_path: Path | None = None


def label_frames(
    frames: Sequence[Atoms],
    calculator: Mapping[str, Any],
    path: str | Path,
    metadata: Mapping[str, Any] | None = None,
    atomrefs: Mapping[str, Sequence[float]] | None = None,
    n_workers: int | None = None,
    scheduler: str | None = None,
) -> LabelResult:
    """Label structures and store them as a SchNetPack database, in their order.

    Refuses with ``DataError`` when ``path`` exists or its partial file belongs to other work, and
    with ``LabelError`` when the calculator cannot be built or a worker dies.

    Args:
        frames: structures (Å); of their ``info``, numbers and strings go into the database.
        calculator: Hydra node of an ASE calculator, built once in every worker.
        path: the database to make (``.db``). Killed work resumes from ``<path>.partial``.
        metadata: provenance to store beside the calculator's level of theory and versions.
        atomrefs: ``{"energy": [eV per atomic number]}``.
        n_workers: local worker processes; all cores when None.
        scheduler: address or scheduler file of a Dask cluster to use instead.

    Returns:
        Where the labels are and which frames failed.

    Raises:
        DataError: no structures.
    """
    if not frames:
        raise DataError("expected structures to label, got none")
    engine = make_calculator(calculator)  # a wrong name must not cost a cluster's time
    config = dict(calculator)
    store = FrameStore(path, {"calculator": config, "structures": _structures(frames)})
    failed = label_missing(store, frames, config, n_workers, scheduler)
    provenance = {
        "source": "label_frames",
        "calculator": config,
        "n_failed": len(failed),
        "versions": software_versions(),
        **(metadata or {}),
    }
    if hasattr(engine, "level_of_theory"):
        provenance["level_of_theory"] = engine.level_of_theory()
    n_labelled = len(frames) - len(failed)
    finished = store.finish(frame_items(frames), provenance, atomrefs) if n_labelled else None
    failed_path = write_failed(Path(path), frames, failed) if failed else None
    return LabelResult(finished, n_labelled, failed, failed_path)


def label_missing(
    store: FrameStore,
    frames: Sequence[Atoms],
    calculator: Mapping[str, Any],
    n_workers: int | None = None,
    scheduler: str | None = None,
) -> dict[int, str]:
    """Label what a store does not hold yet.

    Args:
        store: where the labelled frames go, as items named by :func:`frame_items`.
        frames: structures (Å).
        calculator: Hydra node of an ASE calculator, built once in every worker.
        n_workers: local worker processes; all cores when None.
        scheduler: address or scheduler file of a Dask cluster to use instead.

    Returns:
        Index of each failed frame -> what the engine said.
    """
    done = store.done()
    items = frame_items(frames)
    todo = {key: i for i, key in enumerate(items) if key not in done}
    if done:
        log.info("resuming: %d of %d frames are labelled", len(done), len(frames))
    failed: dict[int, str] = {}
    config = absolute_files(calculator)
    work = {key: (config, frames[i]) for key, i in todo.items()}
    with workers(n_workers, scheduler) as pool:
        for key, result in map_items(pool, _work, work, "labelling", "frame"):
            if isinstance(result, str):
                failed[todo[key]] = result
                log.warning("%s failed: %s", key, result)
            else:
                store.add(key, [result])
    return failed


def frame_items(frames: Sequence[Atoms]) -> list[str]:
    """Names of the frames as items of a store, in their order.

    Args:
        frames: the frames.

    Returns:
        Name of each.
    """
    return [f"frame-{i:07d}" for i in range(len(frames))]  # ASE refuses numeric strings


def _structures(frames: Sequence[Atoms]) -> str:
    """Hash of all structures; the print options keep every atom of large ones in it."""
    with np.printoptions(precision=8, threshold=sys.maxsize):
        return fingerprint({"s": str([f.todict() | {"info": None} for f in frames])})


def write_failed(path: Path, frames: Sequence[Atoms], failed: Mapping[int, str]) -> Path:
    """Keep the frames that failed, with the reason, beside the database.

    Args:
        path: the database.
        frames: all frames (Å).
        failed: index of each failed frame -> what the engine said.

    Returns:
        The extended-XYZ file.
    """
    kept = []
    for i in sorted(failed):
        atoms = frames[i].copy()
        atoms.info.update(index=i, error=failed[i])
        kept.append(atoms)
    target = path.with_suffix(".failed.extxyz")
    write_frames(target, kept)
    return target
