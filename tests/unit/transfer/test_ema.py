"""The moving average does not touch training, and is what is validated and stored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.ema import WeightAverage

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Regression(LightningModule):
    """A line through four points; remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.model = nn.Linear(3, 1)
        self.trained: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.trained.append(self.model.weight.detach().clone())
        return (self.model(batch[0]) - 1).square().mean()

    def validation_step(self, batch: Any, index: int) -> None:
        self.validated.append(self.model.weight.detach().clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fit(
    folder: Path, callbacks: list[Any], steps: int, checkpoint: str | None = None
) -> Regression:
    """Full-batch training: an epoch is one step, validation comes every five."""
    task = Regression()
    loader = DataLoader(TensorDataset(X), batch_size=4)
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=5,
        check_val_every_n_epoch=None,
        callbacks=[*callbacks, ModelCheckpoint(folder, save_last=True)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        num_sanity_val_steps=0,
    )
    trainer.fit(task, loader, loader, ckpt_path=checkpoint)
    return task


@pytest.mark.filterwarnings("ignore")
def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    plain = fit(tmp_path / "a", [], 20)
    averaged = fit(tmp_path / "b", [WeightAverage(0.9)], 20)
    assert len(plain.trained) == len(averaged.trained) == 20
    pairs = zip(plain.trained, averaged.trained, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.filterwarnings("ignore")
def test_the_average_is_validated_and_stored(tmp_path: Path) -> None:
    task = fit(tmp_path, [WeightAverage(0.9)], 10)
    # torch_ema's decay after n updates: min(0.9, (1 + n) / (10 + n)); weights after each step
    # are those that the next step trains
    shadow = task.trained[0]
    for n, weight in enumerate(task.trained[1:6], start=1):
        decay = min(0.9, (1 + n) / (10 + n))
        shadow = decay * shadow + (1 - decay) * weight
    assert torch.allclose(task.validated[0], shadow, atol=1e-6)
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(stored["state_dict"]["model.weight"], task.validated[-1])


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_trains_on_as_an_unbroken_one(tmp_path: Path) -> None:
    whole = fit(tmp_path / "a", [WeightAverage(0.9)], 20)
    fit(tmp_path / "b", [WeightAverage(0.9)], 10)
    rest = fit(tmp_path / "c", [WeightAverage(0.9)], 20, str(tmp_path / "b" / "last.ckpt"))
    assert len(rest.trained) == 10
    assert all(torch.equal(a, b) for a, b in zip(whole.trained[10:], rest.trained, strict=True))
    assert torch.equal(whole.validated[-1], rest.validated[-1])


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_wrong_decay_is_refused(decay: float) -> None:
    with pytest.raises(TransferError, match=r"decay from 0 to below 1, got"):
        WeightAverage(decay)
