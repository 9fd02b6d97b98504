"""Energies that compare across molecules: increments fitted to few labels, added or removed."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.db import connect

from schnetpack_tpainn.data.additive import AdditiveEnergy, free_atoms, read_labelled
from schnetpack_tpainn.data.displacement import sample_molecules
from schnetpack_tpainn.data.increments import SCHEMES
from schnetpack_tpainn.data.label import check_node, make_calculator
from schnetpack_tpainn.data.molecules import BATCH
from schnetpack_tpainn.data.offsets import Z_MAX, bound_atoms
from schnetpack_tpainn.data.parallel import map_items, workers
from schnetpack_tpainn.data.store import fingerprint, labelled, write_database
from schnetpack_tpainn.data.structures import absolute_files, identity
from schnetpack_tpainn.data.training import existing_file, training_rows
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import DataError, LabelError

__all__ = ["IncrementedData"]

log = logging.getLogger(__name__)

SAME_ANG = 1e-3  # tolerance of interatomic distances of one geometry


class IncrementedData:
    r"""Frames or labels with an additive energy :math:`x \cdot c` put in or taken out.

    :math:`x` are a molecule's numbers of atoms, bonds, rings and groups, and :math:`c` is fitted
    to the energies of the training molecules less those of a ``base``; no other label is used.

    ``mode: add`` makes a teacher of a force field's frames, whose energies then follow those of
    the labels from molecule to molecule. With ``base: none`` the energy of an undistorted molecule
    is :math:`x \cdot c`, and the force field says what distortion costs:
    :math:`E = E_{frame} - E_{undistorted} + x \cdot c`. With ``base: frames``,
    :math:`E = E_{frame} + x \cdot c`, where :math:`c` corrects the force field's energies. With
    another database of undistorted molecules, its energies take the place of
    :math:`E_{undistorted}`: a better method for the molecules than for their distortion. Forces
    stay as they are. MMFF94's energies do not compare across molecules, and ``none`` is right
    for them; GFN2-xTB's do, and ``frames`` is.

    ``mode: remove`` takes :math:`x \cdot c` from all labels. With a ``base``, what is left is on
    its scale.

    .. code-block:: yaml

        source:
          _target_: schnetpack_tpainn.data.IncrementedData
          _recursive_: false
          frames: tpainn_displacement.db
          labels: qm9.db
          split_file: split.npz

    Args:
        labels: SchNetPack database of labels.
        split_file: npz file whose ``train_idx`` names the rows whose labels may be used, such as
            the data module's ``split.npz``.
        n_train: the first so many of them; all when None.
        frames: database of frames with the key-value pairs of
            :class:`~schnetpack_tpainn.data.molecules.DisplacementSampler`; needed by ``add`` and
            by ``base: frames``.
        mode: ``add`` or ``remove``.
        scheme: ``groups``, ``bonds`` or ``composition``, see
            :func:`~schnetpack_tpainn.data.increments.features`.
        base: ``none``, ``frames``, or a database whose rows have ``molecule`` and ``displaced``,
            their place that in ``labels``.
        calculator: Hydra node of the base's calculator, which then labels the training molecules
            itself; None to find them in the base.
        n_workers: worker processes of the calculator; all cores when None.
        scheduler: address or scheduler file of a Dask cluster to use instead.

    Raises:
        DataError: a file is absent or holds something else, or a setting is out of range.
    """

    def __init__(
        self,
        labels: str,
        split_file: str,
        n_train: int | None = None,
        frames: str | None = None,
        mode: str = "add",
        scheme: str = "groups",
        base: str = "none",
        calculator: Mapping[str, Any] | None = None,
        n_workers: int | None = None,
        scheduler: str | None = None,
    ) -> None:
        self.n_workers, self.scheduler = n_workers, scheduler
        self.labels, self.frames = (
            existing_file(labels),
            None if frames is None else existing_file(frames),
        )
        self.base = {"none": None, "frames": self.frames}.get(base, base)
        self._check(mode, scheme, base, calculator)
        if isinstance(self.base, str):
            self.base = existing_file(base)
        self.used = training_rows(existing_file(split_file), n_train, self.labels)
        self.training = list(read_labelled(self.labels, self.used))
        self.source = self.labels if mode == "remove" else existing_file(str(frames))
        with connect(str(self.source), use_lock_file=False) as db:
            n_frames = db.count()
        self.settings: dict[str, Any] = {
            "source": "IncrementedData",
            "mode": mode,
            "scheme": scheme,
            "base": base if self.base in (None, self.frames) else identity(str(self.base)),
            "calculator": None if calculator is None else dict(calculator),
            "frames": None if frames is None else identity(frames),
            "labels": identity(labels) if mode == "remove" else None,
            "training_labels": _digest(self.training, free_atoms(self.labels)),
            "labels_used": self.used,
            "n_frames": n_frames,
        }

    def _check(self, mode: str, scheme: str, base: str, calculator: Any) -> None:
        if mode not in ("add", "remove"):
            raise DataError(f"expected mode add or remove, got {mode!r}")
        if scheme not in SCHEMES:
            raise DataError(f"expected a scheme out of {', '.join(SCHEMES)}, got {scheme!r}")
        if self.frames is None and (mode == "add" or base == "frames"):
            raise DataError(
                "expected a database of frames, which mode: add and base: frames need, got none; "
                "make it with data/source=tpainn_displacement and set data.source.frames"
            )
        if calculator is None:
            return
        check_node(calculator)
        if base == "none":
            raise DataError(
                "expected a base other than none, whose energies the calculator gives, got base: "
                "none; set data.source.base, or data.source.calculator=null"
            )

    def make(self, path: str | Path) -> Path:
        """Fit the increments and write the database; it must not exist.

        Args:
            path: the SchNetPack database to make.

        Returns:
            ``path``.
        """
        base_atoms = np.zeros(Z_MAX) if self.base is None else free_atoms(Path(self.base))
        label_atoms = free_atoms(self.labels)
        atoms = label_atoms - base_atoms if self.base else self._bound(label_atoms)
        additive = AdditiveEnergy(
            self.training, self._base_energies(), atoms, self.settings["scheme"]
        )
        add = self.settings["mode"] == "add"
        log.info(
            "%d increments from %d labels: leave-one-out error %.0f meV",
            *(len(additive.values), len(self.used), 1e3 * additive.fit.loo_mae),
        )
        provenance = self.settings | {
            **additive.provenance(),
            "fingerprint": fingerprint(self.settings),
            "versions": software_versions(),
        }
        atoms_ev = label_atoms if add else base_atoms
        atomrefs = {"energy": atoms_ev.tolist()} if atoms_ev.any() else None
        frames = self._added(additive) if add else self._removed(additive)
        made = write_database(path, frames, provenance, atomrefs)
        if additive.foreign:
            log.warning(
                "no training molecule has %s: energies of the frames that do (%s) are not reliable",
                ", ".join(sorted(additive.foreign)),
                ", ".join(f"{s}: {n}" for s, n in sorted(additive.foreign.items())),
            )
        return made

    def _bound(self, atoms_ev: np.ndarray) -> np.ndarray:
        """Energies of atoms as the training molecules bind them: no base does."""
        counts = [np.bincount(m.numbers, minlength=Z_MAX) for m in self.training]
        energies = [m.get_potential_energy() for m in self.training]
        return bound_atoms(np.array(counts), np.array(energies), atoms_ev)

    def _added(self, additive: AdditiveEnergy) -> Iterator[Atoms]:
        """Frames with the increments in their energies."""
        shift: dict[int, float] | None = None
        if self.base != self.frames:
            rest = {m: a.get_potential_energy() for m, a in _undistorted(self.source).items()}
            other = {} if self.base is None else _undistorted(Path(self.base))
            if self.base is not None and (lacking := sorted(rest.keys() - other.keys())):
                raise DataError(
                    f"expected every molecule of {self.source} in {self.base}, it lacks "
                    f"{len(lacking)}, first {lacking[0]}; make it from the same structures"
                )
            shift = {
                m: (other[m].get_potential_energy() if other else 0.0) - e for m, e in rest.items()
            }
        for frame in read_labelled(self.source):
            energy = frame.get_potential_energy() + additive.energy(frame)
            if shift is not None:
                energy += _of(shift, frame, self.source)
            yield labelled(frame, energy, frame.calc.results.get("forces"), **frame.info)

    def _removed(self, additive: AdditiveEnergy) -> Iterator[Atoms]:
        """Labels less the increments."""
        for frame in read_labelled(self.labels):
            energy = frame.get_potential_energy() - additive.energy(frame)
            yield labelled(frame, energy, frame.calc.results.get("forces"), **frame.info)

    def _base_energies(self) -> np.ndarray:
        """Base energy of every training molecule in eV, shape (N,)."""
        if self.base is None:
            return np.zeros(len(self.used))
        if self.settings["calculator"] is not None:
            return self._computed()
        found = _undistorted(Path(self.base))
        if lacking := [row for row in self.used if row not in found]:
            raise DataError(
                f"expected the training molecules in {self.base}, it lacks {len(lacking)} of "
                f"{len(self.used)}, first {lacking[0]}; sample them too, or give the base's "
                "calculator as data.source.calculator"
            )
        for row, atoms in zip(self.used, self.training, strict=True):
            _refuse_another(row, atoms, found[row])
        return np.array([found[row].get_potential_energy() for row in self.used])

    def _computed(self) -> np.ndarray:
        calculator = self.settings["calculator"]
        make_calculator(calculator)
        numbered = list(zip(self.used, self.training, strict=True))
        rest = (absolute_files(calculator), 0, (), 0.0, np.inf, 0)
        work = {str(k): (batch, *rest) for k, batch in enumerate(batched(numbered, BATCH))}
        energies: dict[int, float] = {}
        with workers(self.n_workers, self.scheduler) as pool:
            for _, (frames, failed) in map_items(pool, sample_molecules, work, "labelling"):
                if failed:
                    raise LabelError(f"no base energy of row {min(failed)}: {failed[min(failed)]}")
                energies |= {f.info["molecule"]: f.get_potential_energy() for f in frames}
        return np.array([energies[row] for row in self.used])


def _digest(training: list[Atoms], atoms_ev: np.ndarray) -> str:
    """Hash of all that the fit sees of the labels; it depends on no other label."""
    digest = hashlib.sha256(atoms_ev.tobytes())
    for atoms in training:
        digest.update(np.array(atoms.get_potential_energy()).tobytes())
        digest.update(atoms.numbers.tobytes() + atoms.positions.tobytes())
        digest.update(str(atoms.info.get("smiles")).encode())
    return digest.hexdigest()[:16]


def _undistorted(path: Path) -> dict[int, Atoms]:
    """Molecule -> its frame as it was given."""
    return {int(f.info["molecule"]): f for f in read_labelled(path, where="molecule,displaced=0")}


def _of(shift: Mapping[int, float], frame: Atoms, path: Path) -> float:
    molecule = int(frame.info.get("molecule", -1))
    if molecule not in shift:
        raise DataError(
            f"expected an undistorted frame (displaced=0) of every molecule in {path}, got none of "
            f"molecule {frame.info.get('molecule')}; sample with DisplacementSampler, or use "
            "base: frames"
        )
    return shift[molecule]


def _refuse_another(row: int, labelled_: Atoms, found: Atoms) -> None:
    """The base's molecule must be the labelled one, in any order of atoms."""
    a, b = (np.sort(atoms.get_all_distances(), axis=None) for atoms in (labelled_, found))
    if sorted(labelled_.numbers) != sorted(found.numbers) or not np.allclose(a, b, atol=SAME_ANG):
        raise DataError(
            f"expected molecule {row} of the base to be row {row} of the labels, "
            f"{labelled_.get_chemical_formula()}, in the same geometry, got "
            f"{found.get_chemical_formula()}; sample the base from the database of labels"
        )
