"""A data set of many molecules, each as it is and displaced, labelled by any ASE calculator."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.db import connect
from hydra.utils import to_absolute_path

from schnetpack_tpainn.data.displacement import sample_molecules
from schnetpack_tpainn.data.label import check_node, compute_label, make_calculator
from schnetpack_tpainn.data.offsets import element_values
from schnetpack_tpainn.data.parallel import map_items, workers
from schnetpack_tpainn.data.store import FrameStore, fingerprint
from schnetpack_tpainn.data.structures import (
    absolute_files,
    identity,
    read_frames,
    read_structures,
)
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import DataError, LabelError

__all__ = ["BATCH", "DisplacementSampler"]

log = logging.getLogger(__name__)

BATCH = 50  # molecules per work item: a frame costs as little as 0.1 ms
SHOWN = 5  # failures named in messages
ARGUMENTS = ("n_displaced", "sigma_ang", "torsion_share", "max_force", "seed")


class DisplacementSampler:
    """Makes a data set of many molecules: each as it is, and displaced copies.

    Copies are displaced by Gaussian noise, and a share of them is turned about every rotatable
    bond, by any angle, too. Molecules without such a bond, or whose bonds RDKit cannot find, are
    displaced alone. Only geometries and SMILES strings are taken from the structures: energies
    in their files are never read. A molecule's frames depend on ``seed`` and on its place alone,
    so a killed and resumed run gives the frames of an unbroken one.

    The rows' key-value pairs: ``smiles``; ``molecule``, its place in the structures from 0;
    ``displaced``, 0 for the molecule as it is and else which copy; ``sigma_ang``, after halving;
    ``turned``, the number of bonds. Where bonds are needed, a molecule's atoms are put in RDKit's
    order of the SMILES string. Energies of free atoms, where the calculator has them, are in the
    metadata.

    A molecule of which a frame cannot be labelled is left out whole. As long as these are no more
    than the share ``max_failed``, they are counted in a warning and listed, with the reasons, in
    the metadata; beyond that the run stops.

    .. code-block:: yaml

        source:
          _target_: schnetpack_tpainn.data.DisplacementSampler
          _recursive_: false
          _convert_: all
          structures: [qm9.db]
          n_molecules: 5000
          calculator:
            _target_: schnetpack_tpainn.data.rdkit.RDKitForceField
            force_field: MMFF94

    Args:
        structures: SMILES strings, or paths of files that ASE reads (every frame is a molecule).
        calculator: Hydra node of an ASE calculator with energy and forces.
        n_molecules: random choice of so many; all when None.
        n_displaced: displaced copies of each molecule.
        sigma_ang: standard deviations of the displacements in Å, of which each copy draws one.
        torsion_share: share of the copies that are turned about rotatable bonds; needs RDKit.
        max_force: largest force on an atom in eV/Å; a copy beyond is drawn anew with half the
            displacement.
        max_failed: share of the molecules that may fail.
        seed: seed of conformers, choice and displacements.
        n_workers: worker processes; all cores when None.
        scheduler: address or scheduler file of a Dask cluster to use instead.

    Raises:
        DataError: the calculator is no node, a number is out of range, or there are fewer
            structures than asked for.
    """

    def __init__(
        self,
        structures: Sequence[str],
        calculator: Mapping[str, Any],
        n_molecules: int | None = None,
        n_displaced: int = 4,
        sigma_ang: Sequence[float] = (0.02, 0.04, 0.08),
        torsion_share: float = 0.25,
        max_force: float = 50.0,
        max_failed: float = 0.02,
        seed: int = 0,
        n_workers: int | None = None,
        scheduler: str | None = None,
    ) -> None:
        check_node(calculator)
        self.n_workers, self.scheduler = n_workers, scheduler
        self.structures = [structures] if isinstance(structures, str) else list(structures)
        n_there = sum(map(_count, self.structures))
        n = n_there if n_molecules is None else n_molecules
        self.content: dict[str, Any] = {
            "structures": [identity(s) for s in self.structures],
            "calculator": dict(calculator),
            "n_molecules": n,
            "n_displaced": n_displaced,
            "sigma_ang": [float(s) for s in sigma_ang],
            "torsion_share": torsion_share,
            "max_force": max_force,
            "seed": seed,
        }
        self._check(n_there, max_failed)
        self.n_allowed = int(max_failed * n)
        self.settings: dict[str, Any] = self.content | {
            "max_failed": max_failed,
            "n_frames": (n - self.n_allowed) * (1 + n_displaced),  # at least
        }

    def _check(self, n_there: int, max_failed: float) -> None:
        c = self.content
        if not 1 <= c["n_molecules"] <= n_there:
            raise DataError(
                f"expected n_molecules from 1 to the {n_there} structures given, got "
                f"{c['n_molecules']}"
            )
        if c["n_displaced"] < 0 or not c["max_force"] > 0:
            raise DataError(
                f"expected n_displaced of at least 0 and max_force > 0, got {c['n_displaced']} and "
                f"{c['max_force']}"
            )
        if not c["sigma_ang"] or not min(c["sigma_ang"]) > 0:
            raise DataError(f"expected sigma_ang above 0 Å, got {c['sigma_ang']}")
        if not (0 <= c["torsion_share"] <= 1 and 0 <= max_failed < 1):
            raise DataError(
                "expected torsion_share from 0 to 1 and max_failed from 0 to below 1, got "
                f"{c['torsion_share']} and {max_failed}"
            )

    def molecules(self) -> dict[int, Atoms]:
        """Place in the structures -> structure (Å), for those chosen."""
        c = self.content
        starts = read_structures(self.structures, c["seed"])
        order = np.random.default_rng(c["seed"]).permutation(len(starts))
        return {int(i): _geometry(starts[i]) for i in sorted(order[: c["n_molecules"]])}

    def make(self, path: str | Path) -> Path:
        """Sample what is missing and write the finished data set.

        Refuses with ``DataError`` when ``path`` exists, its partial file has other settings or a
        structure cannot be read.

        Args:
            path: the SchNetPack database to make.

        Returns:
            ``path``.

        Raises:
            DataError: RDKit is needed and not installed.
            LabelError: the calculator cannot be built, or more molecules fail than may.
        """
        c = self.content
        engine = make_calculator(c["calculator"])
        if c["torsion_share"] and find_spec("rdkit") is None:
            raise DataError(
                "torsions need RDKit: pip install 'schnetpack-tpainn[molecules]', or set "
                "torsion_share: 0"
            )
        store = FrameStore(path, self.content)
        molecules = self.molecules()
        items = {
            f"batch-{k:05d}": batch for k, batch in enumerate(batched(molecules.items(), BATCH))
        }
        sizes = store.sizes()
        arguments = [absolute_files(c["calculator"]), *(c[name] for name in ARGUMENTS)]
        todo = {  # with those that have failures, whose reasons are not stored
            name: (batch, *arguments)
            for name, batch in items.items()
            if sizes[name] < len(batch) * (1 + c["n_displaced"])
        }
        if sizes:
            log.info("resuming: %d of %d batches are sampled", len(sizes), len(items))
        failed: dict[int, str] = {}
        with workers(self.n_workers, self.scheduler) as pool:
            for name, (frames, lost) in map_items(
                pool, sample_molecules, todo, "sampling", "batch"
            ):
                if name not in sizes:
                    store.add(name, frames)
                failed |= lost
                self._refuse(failed)
        if failed:
            log.warning("left out: %s", self._told(failed))
        provenance = self.settings | {
            "source": "DisplacementSampler",
            "fingerprint": fingerprint(self.settings),
            "failed": {str(k): failed[k] for k in sorted(failed)},
            "versions": software_versions(),
        }
        return store.finish(list(items), provenance, _free_atoms(engine, molecules.values()))

    def _told(self, failed: Mapping[int, str]) -> str:
        first = "; ".join(f"{k}: {failed[k]}" for k in sorted(failed)[:SHOWN])
        return f"{len(failed)} of {self.content['n_molecules']} molecules, first {first}"

    def _refuse(self, failed: Mapping[int, str]) -> None:
        if len(failed) > self.n_allowed:
            raise LabelError(
                f"expected at most {self.n_allowed} molecules to fail, got {self._told(failed)}; "
                "correct the structures, use another calculator, or raise max_failed. What is "
                "finished is kept"
            )


def _count(source: str) -> int:
    """Structures of a SMILES string, database or other file."""
    path = Path(to_absolute_path(source))
    if not path.is_file():
        return 1
    if path.suffix != ".db":
        return len(read_frames(path))
    with connect(str(path), use_lock_file=False) as db:
        return int(db.count())


def _geometry(atoms: Atoms) -> Atoms:
    """Geometry, SMILES string and charge of a structure, nothing else."""
    info = {k: v for k, v in atoms.info.items() if k in ("smiles", "total_charge")}
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)


def _free_atoms(engine: Calculator, molecules: Iterable[Atoms]) -> dict[str, list[float]] | None:
    """Energies of the elements' atoms in eV where the calculator has them; force fields do not."""
    symbols = {symbol for atoms in molecules for symbol in atoms.symbols}
    try:
        energies = {s: compute_label(Atoms(s), engine).get_potential_energy() for s in symbols}
    except LabelError as error:
        log.info("no energies of free atoms: %s", error)
        return None
    return {"energy": element_values(energies)}
