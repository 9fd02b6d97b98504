"""A force field's frames with energies and forces corrected towards few labels."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.db import connect

from schnetpack_tpainn.data.additive import free_atoms, read_labelled
from schnetpack_tpainn.data.bondgraph import BondGraph, group_by_graph
from schnetpack_tpainn.data.correction import Correction
from schnetpack_tpainn.data.label import check_node, compute_label, make_calculator
from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.refit import Residuals, check_settings, fit_correction
from schnetpack_tpainn.data.store import fingerprint, labelled, refuse_existing, write_database
from schnetpack_tpainn.data.structures import identity
from schnetpack_tpainn.data.topology import known_smiles, with_smiles
from schnetpack_tpainn.data.training import existing_file, training_rows
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import DataError, LabelError

__all__ = ["RefittedData"]

log = logging.getLogger(__name__)

CHUNK = 128  # frames corrected at once
SAME_EV_PER_ANG = 1e-3  # tolerance of forces of one frame by one calculator
FAR = 2.0  # frames whose corrections are so many times those of the labels are far from them


class RefittedData:
    """A classical force field's frames, its energies and forces corrected towards few labels.

    The force field labels the training structures, too. What it lacks there is fitted in closed
    form by terms in internal coordinates, see
    :class:`~schnetpack_tpainn.data.internal.InternalTerms` and
    :func:`~schnetpack_tpainn.data.refit.fit_correction`, and added to the frames; no label but
    those of the training rows is used. If the correction does not lower the errors in
    cross-validation over the labels, the frames' forces stay as they are, a warning says so, and
    so do the metadata (``refit.used``).

    Energies are put on the labels' scale by a constant per molecule. Labels and frames may have
    their atoms in another order. A molecule that no label has is corrected by the types of terms
    that others share with it.

    Beside the database ``<name>.refit.json`` holds the correction, for
    :class:`~schnetpack_tpainn.data.refitted_calculator.RefittedForceField`.

    .. code-block:: yaml

        source:
          _target_: schnetpack_tpainn.data.RefittedData
          _recursive_: false
          frames: tpainn_rdkit.db
          labels: tpainn_ethanol.db
          split_file: split.npz

    Args:
        frames: SchNetPack database of molecules that a force field has labelled.
        labels: SchNetPack database of labels with forces.
        split_file: npz file whose ``train_idx`` names the rows whose labels may be used, such as
            the data module's ``split.npz``.
        n_train: the first so many of them; all when None.
        calculator: Hydra node of the frames' force field; as their metadata say when None.
        radii: how many bonds away the types of atoms look; coefficients of several radii add up.
        folds: folds of the cross-validation; when None at most ten, each label alone if there are
            fewer.
        rows: places of the labels that may be used, in place of ``split_file``.

    Raises:
        DataError: a file is absent or holds something else, a setting is out of range, there are
            fewer labels than folds, or the force field is not known.
    """

    def __init__(
        self,
        frames: str,
        labels: str,
        split_file: str | None = None,
        n_train: int | None = None,
        calculator: Mapping[str, Any] | None = None,
        radii: Sequence[int] = (0, 1),
        folds: int | None = None,
        rows: Sequence[int] | None = None,
    ) -> None:
        self.frames, self.labels = existing_file(frames), existing_file(labels)
        if (rows is None) == (split_file is None):
            raise DataError("expected data.source.split_file or rows, got both or none; name one")
        self.used = (
            training_rows(existing_file(split_file), n_train, self.labels)
            if split_file is not None
            else sorted({int(row) for row in rows or ()})
        )
        self.radii, self.folds = check_settings(radii, folds, len(self.used))
        with connect(str(self.frames), use_lock_file=False) as db:
            n_frames, metadata = db.count(), db.metadata
        if calculator is None:
            calculator = metadata.get("calculator")
        if calculator is None:
            raise DataError(
                f"expected the force field that labelled {self.frames}, its metadata name none; "
                "set data.source.calculator"
            )
        check_node(calculator)
        self.training = list(read_labelled(self.labels, self.used))
        for row, atoms in zip(self.used, self.training, strict=True):
            _refuse_without_forces(atoms, row, self.labels)
        self.settings: dict[str, Any] = {
            "source": "RefittedData",
            "frames": identity(frames),
            "calculator": dict(calculator),
            "radii": list(self.radii),
            "folds": self.folds,
            "training_labels": _digest(self.training),
            "labels_used": self.used,
            "n_frames": n_frames,
        }

    def make(self, path: str | Path) -> Path:
        """Fit the correction and write the database, which must not exist, and its file.

        Args:
            path: the SchNetPack database to make.

        Returns:
            ``path``.
        """
        path = Path(path)
        refuse_existing(path)
        frames = list(read_labelled(self.frames))
        groups = group_by_graph(frames, "classical frames")
        correction = fit_correction(self._residuals(frames[0]), self.radii, self.folds)
        errors = correction.summary["cross_validation_mev"]
        log.info(
            "refitted to %d labels: forces' error in cross-validation %.0f -> %.0f meV/Å",
            *(len(self.used), errors["before"]["forces_mae"], errors["after"]["forces_mae"]),
        )
        self._warn_of_unknown([graph for graph, _ in groups], correction)
        corrected, reach = _corrected(frames, groups, correction)
        of_labels = correction.summary["rms_change_of_labels_ev_per_ang"]
        provenance = self.settings | {
            "refit": correction.summary | {"rms_change_of_frames_ev_per_ang": reach},
            "fingerprint": fingerprint(self.settings),
            "versions": software_versions(),
        }
        if reach > FAR * of_labels:
            log.warning(
                "the correction changes the frames' forces by %.2f eV/Å rms, the labels' by %.2f: "
                "the frames are far from the labels; label hotter ones, or sample colder ones",
                *(reach, of_labels),
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        correction.write(path.with_suffix(".refit.json"))
        atoms_ev = free_atoms(self.labels)
        atomrefs = {"energy": atoms_ev.tolist()} if atoms_ev.any() else None
        return write_database(path, corrected, provenance, atomrefs)

    def _residuals(self, frame: Atoms) -> list[Residuals]:
        """Labels less the force field, by molecule."""
        config = self.settings["calculator"]
        engine, known = make_calculator(config), known_smiles(self.frames)
        _refuse_another_field(frame, engine, self.frames)
        taught = [
            _taught(a, engine, known, r) for r, a in zip(self.used, self.training, strict=True)
        ]
        found = []
        for graph, indices in group_by_graph([a for a, _, _ in taught], "training labels"):
            own = [taught[k] for k in indices]
            found.append(
                Residuals(
                    graph=graph,
                    indices=indices,
                    positions=np.stack([a.positions for a, _, _ in own]),
                    energies_ev=np.array([energy for _, energy, _ in own]),
                    forces_ev_per_ang=np.stack([forces for _, _, forces in own]),
                )
            )
        return found

    def _warn_of_unknown(self, graphs: Sequence[BondGraph], correction: Correction) -> None:
        unknown = sorted({g.name for g in graphs if not correction.known(g)})
        if len(unknown) == len({g.name for g in graphs}):
            raise DataError(
                f"expected labels of molecules in {self.frames}, got labels of "
                f"{', '.join(sorted(correction.constants_ev))} for frames of "
                f"{', '.join(unknown[:3])}: label some of these molecules, or sample those"
            )
        if unknown:
            log.warning(
                "no training label is of %d molecules among the frames, first %s: they are "
                "corrected as far as others share their types of terms",
                *(len(unknown), unknown[0]),
            )


def _corrected(
    frames: Sequence[Atoms], groups: Sequence[tuple[BondGraph, np.ndarray]], correction: Correction
) -> tuple[list[Atoms], float]:
    """Frames with the correction in their labels, and the rms change of their forces in eV/Å."""
    made = list(frames)
    squares: list[np.ndarray] = []
    for graph, indices in groups:
        for part in batched(indices.tolist(), CHUNK):
            energies, forces = correction.apply(
                graph, np.stack([frames[k].positions for k in part])
            )
            squares.append((forces**2).ravel())
            for k, energy, force in zip(part, energies, forces, strict=True):
                frame = frames[k]
                made[k] = labelled(
                    frame,
                    frame.get_potential_energy() + float(energy),
                    frame.get_forces() + force,
                    **frame.info,
                )
    return made, float(np.sqrt(np.concatenate(squares).mean()))


def _taught(
    atoms: Atoms, engine: Calculator, known: Sequence[str], row: int
) -> tuple[Atoms, float, np.ndarray]:
    """A labelled structure and what the force field lacks there, in eV and eV/Å."""
    work = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=atoms.info)
    work.arrays["label"] = atoms.get_forces()
    try:
        if isinstance(engine, RDKitForceField) and engine.smiles is None and not work.pbc.any():
            work = with_smiles(work, known, engine)  # in the order of the string
        teacher = compute_label(work, engine)
    except LabelError as error:
        raise LabelError(f"the force field cannot label training row {row}: {error}") from error
    energy = atoms.get_potential_energy() - teacher.get_potential_energy()
    return work, energy, work.arrays["label"] - teacher.get_forces()


def _refuse_without_forces(atoms: Atoms, row: int, path: Path) -> None:
    if atoms.calc.results.get("forces") is None:
        raise DataError(
            f"expected labels with forces, row {row} of {path} has none; a few energies do not "
            "determine a force field: use data/source=tpainn_increments"
        )


def _refuse_another_field(frame: Atoms, engine: Calculator, path: Path) -> None:
    """The frames' labels must be the calculator's."""
    found = compute_label(frame, engine).get_forces()
    difference = float(np.abs(found - frame.get_forces()).max())
    if difference > SAME_EV_PER_ANG:
        raise DataError(
            f"expected the calculator to be the one that labelled {path}, forces of its first "
            f"frame differ by {difference:.2g} eV/Å; set data.source.calculator to it"
        )


def _digest(training: Sequence[Atoms]) -> str:
    """Hash of all that the fit sees of the labels; it depends on no other label."""
    digest = hashlib.sha256()
    for atoms in training:
        digest.update(np.array(atoms.get_potential_energy()).tobytes())
        digest.update(np.ascontiguousarray(atoms.get_forces()).tobytes())
        digest.update(atoms.numbers.tobytes() + atoms.positions.tobytes())
        digest.update(str(atoms.info.get("smiles")).encode())
    return digest.hexdigest()[:16]
