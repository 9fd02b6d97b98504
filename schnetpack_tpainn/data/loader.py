"""How batches come to the trainer: from the cache, by workers, several passes in an epoch."""

from collections.abc import Iterator
from typing import Any

import torch
from hydra.utils import to_absolute_path
from schnetpack.data import AtomsDataModule, AtomsLoader
from torch.utils.data import BatchSampler, RandomSampler

from schnetpack_tpainn.data.cache import SampleCache
from schnetpack_tpainn.data.dataset import CachedAtomsData, collate
from schnetpack_tpainn.data.parallel import n_cores

__all__ = ["CachedDataModule", "RepeatedBatches", "automatic_passes", "automatic_workers"]

MAX_WORKERS = 8
EPOCH = 100  # batches that make Lightning's work around an epoch small


class RepeatedBatches(BatchSampler):
    """Several passes over a data set in one epoch, each as an epoch of its own would be.

    Args:
        sampler: as for ``torch.utils.data.BatchSampler``.
        batch_size: frames in a batch; the last of a pass can be smaller.
        drop_last: whether to leave out the last batch of a pass if it is smaller.
        passes: passes in an epoch.
    """

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool, passes: int = 1) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.passes = passes

    def __len__(self) -> int:
        return self.passes * super().__len__()

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.passes):
            yield from super().__iter__()


def automatic_passes(n_batches: int, trainer: Any) -> int:
    """Passes that make an epoch long enough, where nothing is counted in epochs.

    Args:
        n_batches: batches in a pass.
        trainer: Lightning's trainer, or None.

    Returns:
        Passes in an epoch; 1 if validation, budget or learning rate count epochs, and with
        several processes.
    """
    if (
        trainer is None
        or trainer.check_val_every_n_epoch is not None
        or trainer.max_epochs != -1
        or trainer.world_size > 1
        or any(c.interval == "epoch" for c in trainer.lr_scheduler_configs)
    ):
        return 1
    return max(1, EPOCH // n_batches)


def automatic_workers(data: CachedAtomsData, trainer: Any) -> int:
    """Worker processes that help: none if the cache has room for all samples.

    Args:
        data: the data set.
        trainer: Lightning's trainer, or None.

    Returns:
        Workers: at most 8, and one less than the cores that this process may use; processes of
        one trainer on this machine share these.
    """
    processes = 1 if trainer is None else trainer.num_devices
    workers = min(MAX_WORKERS, n_cores() // processes - 1)
    return 0 if workers < 1 or data.fits() else workers


class CachedDataModule(AtomsDataModule):
    """``AtomsDataModule`` whose loaders take preprocessed samples from a cache.

    Args:
        datapath: SchNetPack database.
        batch_size: training batch size.
        cache_gib: memory for preprocessed samples in GiB; 0, with no ``cache_dir``, switches the
            cache off, which random transforms need.
        cache_dir: folder on a local disk for the samples that exceed ``cache_gib``, with as much
            space; they vanish when the run ends. None: they are read and preprocessed every epoch.
        num_workers: worker processes of the loaders; None: none where the cache has room for all
            samples, otherwise 8 or one less than the cores that the process may use.
        pin_memory: put batches into page-locked memory; None: where there is a GPU.
        passes_per_epoch: passes over the training frames in what Lightning calls an epoch; None:
            so many that an epoch has 100 batches, where nothing is counted in epochs.
        **kwargs: further arguments of ``schnetpack.data.AtomsDataModule``.
    """

    _train_dataloader: AtomsLoader | None
    _val_dataloader: AtomsLoader | None
    _test_dataloader: AtomsLoader | None

    def __init__(
        self,
        datapath: str,
        batch_size: int,
        cache_gib: float = 2.0,
        cache_dir: str | None = None,
        num_workers: int | None = None,
        pin_memory: bool | None = None,
        passes_per_epoch: int | None = None,
        **kwargs: Any,
    ) -> None:
        pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        super().__init__(
            datapath, batch_size, num_workers=num_workers, pin_memory=pin_memory, **kwargs
        )
        directory = None if cache_dir is None else to_absolute_path(str(cache_dir))
        self.cache = SampleCache(int(cache_gib * 2**30), directory)
        self.passes_per_epoch = passes_per_epoch

    def clear_cache(self) -> None:
        """Forget preprocessed samples, after a transform has changed."""
        self.cache.clear()

    def train_dataloader(self) -> AtomsLoader:
        """Loader of the training frames, shuffled."""
        if self._train_dataloader is None:
            batches = (
                self._setup_sampler(
                    self.train_sampler_cls, self.train_sampler_args, self._train_dataset
                )
                or self._shuffled()
            )
            self._train_dataloader = self._loader(
                self._train_dataset, self.num_workers, batch_sampler=batches
            )
        return self._train_dataloader

    def val_dataloader(self) -> AtomsLoader:
        """Loader of the validation frames, in order."""
        if self._val_dataloader is None:
            self._val_dataloader = self._loader(
                self._val_dataset, self.num_val_workers, batch_size=self.val_batch_size
            )
        return self._val_dataloader

    def test_dataloader(self) -> AtomsLoader:
        """Loader of the test frames, in order."""
        if self._test_dataloader is None:
            self._test_dataloader = self._loader(
                self._test_dataset, self.num_test_workers, batch_size=self.test_batch_size
            )
        return self._test_dataloader

    def _shuffled(self) -> BatchSampler:
        sampler, size = RandomSampler(self._train_dataset), self.batch_size
        passes = self.passes_per_epoch
        if passes is None:
            passes = automatic_passes(-(-len(sampler) // size), self.trainer)
        return RepeatedBatches(sampler, size, False, passes)

    def _loader(self, data: CachedAtomsData, n_workers: int | None, **kwargs: Any) -> AtomsLoader:
        if n_workers is None:
            n_workers = automatic_workers(data, self.trainer)
        if n_workers:
            # Workers inherit the cache, anew for every epoch: were they to live on, they would keep
            # samples that `clear_cache` has made stale.
            data.fill(n_workers)
            kwargs["multiprocessing_context"] = "fork"
        return AtomsLoader(
            data,
            num_workers=n_workers,
            pin_memory=self._pin_memory,
            collate_fn=collate,
            **kwargs,
        )
