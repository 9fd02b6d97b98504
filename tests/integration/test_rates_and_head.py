"""Learning rates keep their ratios in every schedule; the head starts as asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from tests.fits import fit, make_task, save_pretrained, strategy

pytestmark = pytest.mark.filterwarnings("ignore")

SCHEDULES: dict[str, dict[str, Any]] = {
    "none": {},
    "warm-up": {"warmup_steps": 4},
    "onecycle": {
        "scheduler_cls": "torch.optim.lr_scheduler.OneCycleLR",
        "scheduler_args": {"max_lr": 1e-2, "total_steps": 8},
    },
    "cosine": {
        "scheduler_cls": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "scheduler_args": {"T_max": 8, "eta_min": 3e-3},
        "warmup_steps": 2,
    },
    "plateau": {
        "scheduler_cls": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "scheduler_args": {"patience": 0, "factor": 0.5, "min_lr": 4e-3, "threshold": 10.0},
        "scheduler_monitor": "val_loss",
        "scheduler_interval": "epoch",
    },
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_keeps_the_ratios(
    name: str, place: Path, labels: Path, pretrained: Callable[[str], Path]
) -> None:
    transfer = strategy("full", pretrained("tpainn"), "transfer.layer_decay=0.5")
    transfer["learning_rates"] = {r"outnet\.1": 10.0}
    settings = {"scheduler_interval": "step", **SCHEDULES[name]}
    run = fit(place / f"rates-{name}", labels, make_task("tpainn", transfer, **settings), 8)
    assert set(run.watch.rates[0]) == {10.0, 1.0, 0.5, 0.25, 0.125}
    common = [rates[1.0] for rates in run.watch.rates]
    for rates in run.watch.rates:
        for factor, rate in rates.items():
            assert rate == pytest.approx(factor * rates[1.0], rel=1e-12)
    expected = {
        "none": [1e-2] * 8,
        "warm-up": [2.5e-3, 5e-3, 7.5e-3, *[1e-2] * 5],
        "onecycle": alone(torch.optim.lr_scheduler.OneCycleLR, max_lr=1e-2, total_steps=8),
        "plateau": [1e-2] * 2 + [5e-3] * 2 + [4e-3] * 4,
        "cosine": [
            5e-3,
            *alone(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=8, eta_min=3e-3)[1:],
        ],
    }[name]
    if name != "cosine":
        assert common == pytest.approx(expected, rel=1e-9)
    else:
        assert common[0] == 5e-3
        assert min(common[2:]) == common[-1] > 3e-3
    assert len(set(common)) > 1 or name == "none"


def alone(cls: Any, **arguments: Any) -> list[float]:
    """What a scheduler gives a single group."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    scheduler = cls(optimizer, **arguments)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.fixture(scope="session")
def teacher(place: Path, labels: Path) -> Path:
    """A model that has learnt a little of the labels, for its forces to point their way."""
    task = make_task("tpainn", strategy("scratch"))
    return fit(place / "teacher", labels, task, 20, validate=20).checkpoint


@pytest.mark.parametrize("head", ["keep", "rescale", "reset"])
def test_the_head_starts_as_asked(head: str, place: Path, labels: Path, teacher: Path) -> None:
    task = make_task("tpainn", strategy("full", teacher, f"transfer.head={head}"))
    run = fit(place / f"head-{head}", labels, task, 1, validate=1)
    source, start, record = load_pretrained(teacher).state, run.watch.weights[0], run.task.record
    random = make_task("tpainn", None).model.state_dict()
    heads = [n for n in start if not n.startswith("representation.")]
    last = {"output_modules.0.outnet.1.weight", "output_modules.0.outnet.1.bias"}
    assert last < set(heads)
    scale = record.alignment["scale"]
    assert (scale == 1.0) == (head != "rescale")
    for name, tensor in start.items():
        if head == "reset" and name in heads:
            assert torch.equal(tensor, random[name])
            assert name in record.reinitialised
        elif head == "rescale" and name in last:
            torch.testing.assert_close(tensor, scale * source[name])
        else:
            assert torch.equal(tensor, source[name]), name
    # the offsets are fitted around whatever head there is
    assert abs(record.alignment["after"]["energy_bias_mev_per_atom"]) < 0.01


def test_a_random_head_must_not_be_frozen(teacher: Path) -> None:
    for options in (["transfer.freeze=[outnet]"], ["transfer/lora=adapters"]):
        task = make_task("tpainn", strategy("full", teacher, "transfer.head=reset", *options))
        with pytest.raises(TransferError, match=r"outnet.*got frozen ones"):
            task.strategy.check(lambda: make_task("tpainn", None).model)


@pytest.mark.parametrize("options", [["transfer.freeze=[embedding]"], ["transfer/lora=adapters"]])
def test_a_random_embedding_must_not_be_frozen(
    options: list[str], tmp_path: Path, labels: Path
) -> None:
    source = save_pretrained(tmp_path, "tpainn", elements=(1, 6))
    task = make_task("tpainn", strategy("full", source, "transfer.new_elements=init", *options))
    with pytest.raises(TransferError, match=r"representation.embedding.weight.* got frozen ones"):
        fit(tmp_path / "run", labels, task)
    task = make_task("tpainn", strategy("full", source, "transfer.new_elements=nearest", *options))
    assert fit(tmp_path / "run", labels, task, 1, 1).task.record.new_elements.keys() == {"O"}


def test_a_wrong_interval_is_refused(labels: Path, tmp_path: Path) -> None:
    settings = {**SCHEDULES["onecycle"], "scheduler_interval": "steps"}
    with pytest.raises(TransferError, match="scheduler_interval step or epoch, got 'steps'"):
        fit(tmp_path, labels, make_task("tpainn", None, **settings), 1)
