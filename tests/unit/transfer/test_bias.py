"""The last fit of the offsets, around the weights that are kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ase.db import connect
from pytorch_lightning import Callback, Trainer
from schnetpack.train import ModelCheckpoint
from schnetpack.transform import AddOffsets

from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.transfer.ema import WeightAverage
from schnetpack_tpainn.transfer.offsets import get_offsets
from schnetpack_tpainn.transfer.task import TransferTask
from tests.fits import build, data_module, make_labels, make_task, save_pretrained, strategy

pytestmark = pytest.mark.filterwarnings("ignore")
OFFSETS = "model.postprocessors.0.split"


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labels(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pretrained(tmp_path_factory.mktemp("pretrained"), "schnet")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # split files and `best_model` are written to where one is


def checkpoints(folder: str, **settings: Any) -> ModelCheckpoint:
    """SchNetPack's callback; it keeps the last weights."""
    settings = {"monitor": "step", "mode": "max", "save_last": True, **settings}
    return ModelCheckpoint("best_model", dirpath=folder, filename="best", **settings)


def train(
    labels: Path, task: TransferTask, *callbacks: Callback, steps: int = 4, resume: Any = None
) -> Trainer:
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        callbacks=[WeightAverage(), *callbacks],
        enable_checkpointing=bool(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        num_sanity_val_steps=0,
    )
    trainer.fit(task, datamodule=data_module(labels), ckpt_path=resume)
    return trainer


def stored(path: str) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def bias(model: Any, trainer: Any, labels: Path) -> float:
    """Mean error of total energies per atom on the training frames (eV), labels straight read."""
    datamodule = trainer.datamodule
    found = []
    with connect(labels) as db:
        for index in datamodule.train_idx:
            row = db.get(int(index) + 1)
            batch = next(iter(task_batches(trainer, int(index))))
            energy = model.eval()(batch)["energy"].item()
            found.append((energy - row.data["energy"].item()) / row.natoms)
    return sum(found) / len(found)


def task_batches(trainer: Any, index: int) -> Any:
    from schnetpack_tpainn.transfer.context import Context

    datamodule = trainer.datamodule
    place = datamodule.train_idx.index(index)
    dataset = torch.utils.data.Subset(datamodule.train_dataset, [place])
    return Context(None, datamodule, "energy", "forces").batches(dataset)


@pytest.mark.parametrize("name", ["full", "lora", "scratch"])
def test_kept_weights_have_no_mean_error(name: str, labels: Path, pretrained: Path) -> None:
    biases, states = {}, {}
    for refit in (False, True):
        folder = f"refit_{refit}"
        task = make_task("schnet", {**strategy(name, pretrained), "final_bias_refit": refit})
        trainer = train(labels, task, checkpoints(folder))
        content = stored(f"{folder}/best.ckpt")
        states[refit] = content["state_dict"]
        loaded = TransferTask.load_from_checkpoint(f"{folder}/best.ckpt")
        biases[refit] = bias(loaded.model, trainer, labels)
        assert ("final_bias_refit" in content["tpainn"]["record"]["alignment"]) == refit
    assert abs(biases[True]) < 1e-6 < 1e-4 < abs(biases[False])
    record = content["tpainn"]["record"]["alignment"]["final_bias_refit"]
    error = {when: record[when]["energy_bias_mev_per_atom"] for when in ("before", "after")}
    assert error["before"] == pytest.approx(1e3 * biases[False], rel=1e-3)
    assert error["after"] == pytest.approx(0.0, abs=1e-3)
    changed = [k for k in states[True] if not torch.equal(states[False][k], states[True][k])]
    assert changed == [OFFSETS]
    # the last checkpoint, the model in memory, the data, and SchNetPack's `best_model` follow
    assert torch.equal(stored("refit_True/last.ckpt")["state_dict"][OFFSETS], states[True][OFFSETS])
    best = torch.load("best_model", weights_only=False)
    offsets = get_offsets(loaded.model, "energy")
    for model in (task.model, best):
        assert torch.equal(get_offsets(model, "energy"), offsets)
    remover = trainer.datamodule.train_transforms[1]  # type: ignore[attr-defined]
    assert torch.allclose(remover.atomref, offsets, rtol=0, atol=1e-10)


def test_the_fit_is_around_the_kept_weights_not_the_last(labels: Path, pretrained: Path) -> None:
    task = make_task("schnet", strategy("full", pretrained))
    trainer = train(labels, task, checkpoints("c", mode="min", save_top_k=2))
    kept, last = stored("c/best.ckpt"), stored("c/last.ckpt")
    assert (kept["global_step"], last["global_step"]) == (2, 4)
    assert abs(bias(TransferTask.load_from_checkpoint("c/best.ckpt").model, trainer, labels)) < 1e-6
    assert "final_bias_refit" not in last["tpainn"]["record"]["alignment"]
    assert not torch.equal(last["state_dict"][OFFSETS], kept["state_dict"][OFFSETS])
    held = task.state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in kept["state_dict"].items())
    assert task.optimiser_steps == kept["tpainn"]["optimiser_steps"] == 2


def test_a_resumed_run_fits_once_for_the_same_weights(labels: Path, pretrained: Path) -> None:
    train(labels, make_task("schnet", strategy("full", pretrained)), checkpoints("c"))
    before = stored("c/best.ckpt")
    again = make_task("schnet", strategy("full", pretrained))
    train(labels, again, checkpoints("c"), resume="c/last.ckpt")
    after = stored("c/best.ckpt")
    assert torch.equal(before["state_dict"][OFFSETS], after["state_dict"][OFFSETS])
    assert before["tpainn"] == after["tpainn"]
    assert again.record is not None
    assert again.record.plain() == after["tpainn"]["record"]
    longer = make_task("schnet", strategy("full", pretrained))
    trainer = train(labels, longer, checkpoints("c"), steps=6, resume="c/last.ckpt")
    after = stored(trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    assert after["global_step"] == 6
    assert after["tpainn"]["record"]["alignment"] != before["tpainn"]["record"]["alignment"]
    assert abs(bias(longer.model, trainer, labels)) < 1e-6


def test_a_run_killed_between_the_two_files(labels: Path, pretrained: Path) -> None:
    """The best checkpoint has the new offsets, the last one does not yet."""
    task = make_task("schnet", {**strategy("full", pretrained), "final_bias_refit": False})
    train(labels, task, checkpoints("c"))
    unfinished = Path("c/last.ckpt").read_bytes()
    train(
        labels,
        make_task("schnet", strategy("full", pretrained)),
        checkpoints("c"),
        resume="c/last.ckpt",
    )
    Path("c/last.ckpt").write_bytes(unfinished)
    train(
        labels,
        make_task("schnet", strategy("full", pretrained)),
        checkpoints("c"),
        resume="c/last.ckpt",
    )
    best, last = stored("c/best.ckpt"), stored("c/last.ckpt")
    assert torch.equal(best["state_dict"][OFFSETS], last["state_dict"][OFFSETS])
    assert best["tpainn"] == last["tpainn"]
    assert sorted(p.name for p in Path("c").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_without_checkpoints_the_model_is_fitted_in_place(labels: Path, pretrained: Path) -> None:
    task = make_task("schnet", strategy("full", pretrained))
    trainer = train(labels, task)
    assert trainer.checkpoint_callback is None
    assert abs(bias(task.model, trainer, labels)) < 1e-6
    assert task.record is not None
    assert "final_bias_refit" in task.record.alignment


class Ruin(Callback):
    """Makes the weights NaN before the first validation."""

    def on_train_batch_end(self, trainer: Trainer, task: Any, *args: Any) -> None:
        with torch.no_grad():
            task.model.output_modules[0].outnet[-1].weight.fill_(torch.nan)


def test_weights_that_are_nan(labels: Path, pretrained: Path) -> None:
    task = make_task("schnet", strategy("full", pretrained))
    with pytest.raises(CheckpointError, match="expected finite energies and forces"):
        train(labels, task, checkpoints("c"), Ruin())
    assert "final_bias_refit" not in stored("c/best.ckpt")["tpainn"]["record"]["alignment"]


def test_offsets_of_a_stock_pickle_are_not_copied(labels: Path, pretrained: Path) -> None:
    model = build("schnet")
    stock = AddOffsets("energy", add_mean=True, add_atomrefs=True)
    stock.mean, stock.atomref = torch.tensor([77.0]), torch.full((100,), -1e3)
    model.postprocessors = torch.nn.ModuleList([stock])
    torch.save(model, "stock_model")
    found = []
    for source in (pretrained, Path("stock_model")):  # the same weights
        node = {**strategy("full", source), "trust_pickle": True}
        task = make_task("schnet", node)
        train(labels, task, steps=2)
        found.append(get_offsets(task.model, "energy"))
    assert torch.equal(*found)
    assert found[0].abs().max() < 10
