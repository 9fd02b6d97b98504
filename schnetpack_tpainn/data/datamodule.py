"""SchNetPack's data module, with checks before training, exact offsets and a sample cache."""

import logging
from pathlib import Path
from typing import Any, Protocol

import fasteners
import numpy as np
import torch
from ase.db import connect
from hydra.utils import to_absolute_path
from schnetpack.data import AtomsDataModuleError

from schnetpack_tpainn.data.check import FrameTable, check_database
from schnetpack_tpainn.data.dataset import CachedAtomsData
from schnetpack_tpainn.data.loader import CachedDataModule
from schnetpack_tpainn.data.offsets import fit_offsets, warn_of_unlabelled
from schnetpack_tpainn.data.resample import Resampling
from schnetpack_tpainn.data.split import SeededSplit, check_sizes
from schnetpack_tpainn.data.store import fingerprint
from schnetpack_tpainn.errors import DataError

__all__ = ["Source", "TPaiNNDataModule"]

log = logging.getLogger(__name__)


class Source(Protocol):
    """Something that can make a data set."""

    settings: dict[str, Any]

    def make(self, path: str | Path) -> Path:
        """Write the SchNetPack database ``path``."""
        ...


class TPaiNNDataModule(CachedDataModule):
    """``AtomsDataModule`` that makes, checks and caches its data set.

    A data set that is absent is made by ``source``. Before any training every frame is checked:
    units, labels, sizes, overlapping atoms. Offsets and statistics come straight from the training
    frames in float64. Samples are kept in memory after their transforms: call
    :meth:`clear_cache` when a transform changes.

    .. code-block:: yaml

        data:
          _target_: schnetpack_tpainn.data.TPaiNNDataModule
          datapath: ethanol.db
          batch_size: 10
          num_train: 950
          num_val: 50
          source:
            _target_: schnetpack_tpainn.data.EmbeddedEthanol

    Args:
        datapath: SchNetPack database; relative to the directory a Hydra run was started from.
        batch_size: training batch size.
        source: object with ``make(path)`` and ``settings``, such as
            :class:`~schnetpack_tpainn.data.sampling.MDSampler`; None for a data set that exists.
        energy_key: property that holds the energy.
        forces_key: property that holds the forces; None for a data set without.
        splitting: partitioning strategy; ``SeededSplit(0)`` when None.
        resampling: draws the training frames from the training part, such as
            :class:`~schnetpack_tpainn.data.resample.Bootstrap`; all of them when None.
        **kwargs: further arguments of :class:`~schnetpack_tpainn.data.loader.CachedDataModule`
            and ``schnetpack.data.AtomsDataModule``: cache, workers, partitions, units, transforms.
    """

    dataset: Any  # CachedAtomsData after setup
    train_idx: Any  # places in the database, a list after setup

    def __init__(
        self,
        datapath: str,
        batch_size: int,
        source: Source | None = None,
        energy_key: str = "energy",
        forces_key: str | None = "forces",
        splitting: Any = None,
        resampling: Resampling | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("load_properties") is None:
            kwargs["load_properties"] = [k for k in (energy_key, forces_key) if k]
        if kwargs.get("property_units") is not None:  # of forces, though the data may have none
            units = kwargs["property_units"].items()
            kwargs["property_units"] = {k: u for k, u in units if k in kwargs["load_properties"]}
        super().__init__(
            to_absolute_path(str(datapath)),
            batch_size,
            splitting=splitting or SeededSplit(),
            **kwargs,
        )
        self.source = source
        self.energy_key = energy_key
        self.forces_key = forces_key
        self.resampling = resampling
        self._frames: FrameTable | None = None
        self._undrawn: list[int] = []  # the training part before resampling

    def prepare_data(self) -> None:
        """Make the data set if it is absent; one process makes it, others wait.

        Raises:
            DataError: it is absent and there is no source, it was made with other settings, or
                the source will make fewer frames than the partitions need.
        """
        path = Path(self.datapath)
        if path.exists():
            self._check_source(path)
            return
        if self.source is None:
            raise DataError(
                f"data set {path} does not exist: give its path as data.datapath, or a source "
                "that makes it (data/source=tpainn_rdkit, tpainn_calculator, tpainn_import, "
                "tpainn_extxyz, tpainn_ethanol, tpainn_water_dft, tpainn_qm9)"
            )
        for key in ("n_frames", "n_molecules"):
            if (n := self.source.settings.get(key)) is not None:
                check_sizes(n, self.num_train, self.num_val, self.num_test, key=key)
                break  # of each molecule there may be several frames
        path.parent.mkdir(parents=True, exist_ok=True)
        with fasteners.InterProcessLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                log.info("making the data set %s", path)
                self.source.make(path)
        self._check_source(path)

    def _check_source(self, path: Path) -> None:
        """Refuse a data set that is not what the source would make."""
        settings = getattr(self.source, "settings", None)
        if settings is None:
            return
        with connect(str(path), use_lock_file=False) as db:
            found = db.metadata.get("fingerprint")
        wanted = fingerprint(settings)
        if found != wanted:
            raise DataError(
                f"data set {path} was made with other settings (expected fingerprint {wanted}, "
                f"got {found}): restore the settings, choose another data.datapath, delete the "
                "file, or use it as it is with data.source=null"
            )

    def setup(self, stage: str | None = None) -> None:
        """Check the data set, partition it and initialise the transforms.

        Args:
            stage: Lightning's stage; the work is done once.

        Raises:
            DataError: see :func:`~schnetpack_tpainn.data.check.check_database`; also too few
                frames for the partitions, a part without any, or a frame in two parts.
        """
        if self.dataset is not None:
            return
        datapath = self.datapath if self.data_workdir is None else self._copy_to_workdir()
        if not Path(datapath).exists():
            raise DataError(f"data set {datapath} does not exist: call prepare_data() first")
        self._frames = check_database(datapath, self.energy_key, self.forces_key)
        self.dataset = CachedAtomsData(
            datapath,
            self.cache,
            property_units=self.property_units,
            distance_unit=self.distance_unit,
            load_properties=self.load_properties,
        )
        if self.train_idx is None:
            self._partition(len(self._frames))
        self._refuse_empty_parts()
        others = [*self.val_idx, *self.test_idx]
        warn_of_unlabelled(self._frames.counts, self.train_idx, others)
        self._train_dataset = self.dataset.subset(self.train_idx)
        self._val_dataset = self.dataset.subset(self.val_idx)
        self._test_dataset = self.dataset.subset(self.test_idx)
        self._setup_transforms()

    def _partition(self, n_frames: int) -> None:
        """Partition anew or as the split file says, which can come from another data set."""
        try:
            self._load_partitions()
        except (ValueError, AtomsDataModuleError) as error:
            raise DataError(
                f"{error} Delete {self.split_file}, or restore data.num_train, num_val, num_test"
            ) from error
        parts = {"train": self.train_idx, "val": self.val_idx, "test": self.test_idx}
        frames, counts = np.unique([i for part in parts.values() for i in part], return_counts=True)
        outside = frames[(frames < 0) | (frames >= n_frames)]
        if len(outside):
            raise DataError(
                f"split file {self.split_file} names frame {outside[-1]:.0f}, the data set has "
                f"{n_frames} frames: delete the split file or restore its data set"
            )
        if twice := frames[counts > 1].tolist():
            where = {i: [name for name, part in parts.items() if i in part] for i in twice[:5]}
            few = ", ".join(f"{i} ({' and '.join(names)})" for i, names in where.items())
            raise DataError(
                f"expected no frame twice in {self.split_file or 'the parts of data.splitting'}, "
                f"got {len(twice)} that are, such as {few}: errors on frames that were trained on "
                "say nothing; leave each in one part, or delete the split file"
            )
        if self.resampling is not None and self.train_idx:
            self._undrawn = self.train_idx
            self.train_idx = self.resampling(self.train_idx)

    def _refuse_empty_parts(self) -> None:
        """A run keeps its best epoch by the validation error and ends with the test error."""
        n_train, n_val, n_test = map(len, (self.train_idx, self.val_idx, self.test_idx))
        if min(n_train, n_val, n_test) == 0:
            written = f", and delete {self.split_file}" if self.split_file else ""
            raise DataError(
                f"expected frames in every part, got {n_train} to train, {n_val} to validate and "
                f"{n_test} to test; set data.num_train, data.num_val and data.num_test (null: all "
                f"that remain) to leave at least one for each{written}"
            )

    def elements(self) -> list[int]:
        """Elements of the training, validation and test frames together.

        Training frames that ``resampling`` did not draw count: the members of an ensemble differ in
        them alone.

        Returns:
            Atomic numbers, ascending.

        Raises:
            DataError: :meth:`setup` was not called.
        """
        if self._frames is None:
            raise DataError("elements need setup() first")
        index = np.array(
            [*self.train_idx, *self._undrawn, *self.val_idx, *self.test_idx], dtype=int
        )
        present = self._frames.counts[index].any(axis=0)  # (100,)
        return [int(z) for z in np.flatnonzero(present)]

    def _training_frames(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Compositions (M, 100) and values (M,) of the training frames, in the units in use."""
        if self._frames is None:
            raise DataError("offsets and statistics need setup() first")
        if name != self.energy_key:
            raise DataError(
                f"expected {self.energy_key!r}, the one property with offsets and statistics, "
                f"got {name!r}"
            )
        index = np.asarray(self.train_idx, dtype=int)
        factor = self.dataset.conversions[name]
        return self._frames.counts[index], self._frames.energies[index] * factor

    def get_atomrefs(self, property: str, is_extensive: bool) -> dict[str, torch.Tensor]:  # noqa: A002
        """Offsets per element by least squares, from the training frames alone.

        Args:
            property: the energy's key.
            is_extensive: whether the value is a sum over atoms, or their mean.

        Returns:
            Property -> value per atomic number, float64, shape (100,).
        """
        key = (property, is_extensive)
        if key not in self._atomrefs:
            counts, values = self._training_frames(property)
            weights = counts if is_extensive else counts / counts.sum(1, keepdims=True)
            self._atomrefs[key] = torch.from_numpy(fit_offsets(weights, values, property))
        return {property: self._atomrefs[key]}

    def get_stats(
        self,
        property: str,  # noqa: A002
        divide_by_atoms: bool,
        remove_atomref: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation over the training frames.

        Args:
            property: the energy's key.
            divide_by_atoms: whether to take values per atom.
            remove_atomref: whether to subtract offsets first: those of :meth:`get_atomrefs` where
                it has been called, otherwise the metadata's isolated-atom values.

        Returns:
            Mean and standard deviation, float64, shape (1,) each.
        """
        key = (property, divide_by_atoms, remove_atomref)
        if key not in self._stats:
            counts, values = self._training_frames(property)
            n_atoms = counts.sum(1)
            if remove_atomref:
                offsets = self._atomrefs.get((property, divide_by_atoms))
                if offsets is None:
                    offsets = self.dataset.atomrefs.get(property, torch.zeros(0))
                total = counts[:, : len(offsets)] @ offsets.double().numpy()
                values = values - (total if divide_by_atoms else total / n_atoms)
            values = values / n_atoms if divide_by_atoms else values
            stats = np.array([[values.mean()], [values.std()]])
            self._stats[key] = tuple(torch.from_numpy(stats))
        return self._stats[key]
