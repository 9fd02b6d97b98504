"""Loaders: worker processes, page-locked memory, several passes in an epoch."""

import os
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from distorted import frames_of
from modules import ready
from schnetpack import properties
from torch.utils.data import RandomSampler, SequentialSampler

from schnetpack_tpainn.data import TPaiNNDataModule
from schnetpack_tpainn.data.loader import RepeatedBatches
from schnetpack_tpainn.data.parallel import n_cores


class Recorder(pl.LightningModule):
    """Notes the frames of every batch, and when validation comes."""

    def __init__(self, interval: str = "step") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.interval = interval
        self.batches: list[list[int]] = []
        self.validated_after: list[int] = []

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        self.batches.append(batch[properties.idx].tolist())
        return self.weight * batch["energy"].mean()

    def validation_step(self, batch: dict[str, torch.Tensor], index: int) -> None:
        pass

    def on_validation_start(self) -> None:
        self.validated_after.append(self.global_step)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.0)
        scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": self.interval}]


BY_STEPS = {
    "max_epochs": -1,
    "max_steps": 40,
    "val_check_interval": 10,
    "check_val_every_n_epoch": None,
}


def fit(datamodule: TPaiNNDataModule, module: Recorder, **settings: Any) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "accelerator": "cpu",
    }
    trainer = pl.Trainer(**quiet | BY_STEPS | settings)
    trainer.fit(module, datamodule=datamodule)
    return trainer


def test_an_epoch_holds_many_passes_and_validation_keeps_its_steps(database) -> None:
    datamodule, module = ready(database(), num_train=12), Recorder()
    fit(datamodule, module)
    assert len(datamodule.train_dataloader()) == 33 * 3  # 12 frames, 5 to a batch
    assert module.validated_after == [10, 20, 30, 40]
    assert [len(b) for b in module.batches[:6]] == [5, 5, 2, 5, 5, 2]
    passes = [list(chain(*module.batches[k : k + 3])) for k in range(0, 39, 3)]
    frames = sorted(datamodule.train_idx)
    assert all(sorted(p) == frames for p in passes)
    assert len({tuple(p) for p in passes}) == len(passes)  # each shuffled anew


@pytest.mark.parametrize(
    ("trainer", "interval"),
    [
        ({"check_val_every_n_epoch": 1, "val_check_interval": 1.0}, "step"),
        ({"max_epochs": 30}, "step"),
        ({}, "epoch"),
    ],
)
def test_what_is_counted_in_epochs_stays(database, trainer, interval: str) -> None:
    datamodule, module = ready(database()), Recorder(interval)
    fit(datamodule, module, **{"max_steps": 8} | trainer)
    assert len(datamodule.train_dataloader()) == 2


def test_passes_can_be_given(database) -> None:
    datamodule = ready(database(), passes_per_epoch=3)
    assert len(datamodule.train_dataloader()) == 6
    assert len(ready(database()).train_dataloader()) == 2


def test_a_pass_draws_as_an_epoch_does() -> None:
    def batches(passes: int) -> list[list[int]]:
        torch.manual_seed(0)
        repeated = RepeatedBatches(RandomSampler(range(7)), 3, False, passes)
        return [list(b) for _ in range(6 // passes) for b in repeated]

    assert batches(6) == batches(1)
    assert len(RepeatedBatches(SequentialSampler(range(7)), 3, True, 2)) == 4


class Shared(Recorder):
    """Leaves the frames that each process has seen in a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_train_end(self) -> None:
        frames = torch.tensor(list(chain(*self.batches)))
        torch.save(frames, self.folder / f"{self.global_rank}.pt")


def test_two_processes_share_the_frames(database, tmp_path: Path) -> None:
    datamodule = ready(database(), num_train=12)
    fit(
        datamodule,
        Shared(tmp_path),
        strategy="ddp_fork",
        devices=2,
        max_steps=4,
        val_check_interval=4,
    )
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert [len(half) for half in halves] == [12, 12]  # two epochs of six, by five and one
    for epoch in (slice(0, 6), slice(6, 12)):
        seen = [*halves[0][epoch].tolist(), *halves[1][epoch].tolist()]
        assert sorted(seen) == sorted(datamodule.train_idx)


def test_workers_by_themselves(database, monkeypatch) -> None:
    path = database(frames_of(40))

    def workers(cores: int, **settings: Any) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
        datamodule = ready(path, num_train=30, **settings)
        return datamodule.train_dataloader().num_workers

    size = 30 * 3000 / 2**30
    assert workers(64) == 0  # everything fits
    assert workers(64, cache_gib=size / 2) == 8
    assert workers(4, cache_gib=size / 2) == 3
    assert workers(1, cache_gib=size / 2) == 0
    assert workers(4, cache_gib=0) == 3
    assert workers(4, cache_gib=0, cache_dir="cache") == 0
    assert workers(1, num_workers=2) == 2


def test_workers_stay_within_the_cores_of_this_process(database) -> None:
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert n_cores() == 1
        loader = ready(database(), cache_gib=0).train_dataloader()
        assert loader.num_workers == 0
    finally:
        os.sched_setaffinity(0, cores)


def test_workers_do_not_keep_what_is_stale(database) -> None:
    datamodule = ready(database(), num_workers=1)
    loader = datamodule.val_dataloader()
    before = next(iter(loader))["energy"]
    datamodule.val_transforms[1].atomref = torch.zeros(100, dtype=torch.float64)
    datamodule.clear_cache()
    after = next(iter(loader))["energy"]
    assert (before - after).min() > 4000


def test_memory_is_page_locked_where_there_is_a_gpu(database) -> None:
    expected = torch.cuda.is_available()
    assert ready(database()).train_dataloader().pin_memory is expected
    assert ready(database(), pin_memory=False).val_dataloader().pin_memory is False
