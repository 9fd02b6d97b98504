"""What is frozen stays, what is tuned moves, and nothing is lost when a run is resumed."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.parameters import plain_name
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from tests.fits import Fit, data_module, fit, make_task, strategy

pytestmark = pytest.mark.filterwarnings("ignore")

FROZEN: dict[str, Callable[[str], bool]] = {
    "full": lambda name: False,
    "head_only": lambda name: name.startswith("representation."),
    "frozen_embedding": lambda name: "embedding" in name,
    "frozen_filters": lambda name: "filter" in name,
    "gradual": lambda name: False,
    "lora": lambda name: not name.endswith((".up", ".down")),
    "scratch": lambda name: False,
}
CASES = [
    *(("tpainn", name) for name in FROZEN),
    *((kind, name) for kind in ("schnet", "so3net") for name in FROZEN if name != "scratch"),
    *(("painn", name) for name in ("frozen_filters", "lora")),
]
STEPS = 12


def named(task: Any) -> dict[str, torch.nn.Parameter]:
    return dict(task.model.named_parameters())


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_is_frozen_stays_bit_for_bit(
    kind: str, name: str, fitted: Callable[..., Fit], pretrained: Callable[[str], Path]
) -> None:
    run = fitted(kind, name)
    stored = run.stored()
    start, end = run.watch.weights[0], run.watch.weights[-1]
    frozen = {n for n in start if FROZEN[name](n)}
    assert bool(frozen) == (name not in ("full", "gradual", "scratch"))
    source = load_pretrained(pretrained(kind)).state
    average = stored["callbacks"]["WeightAverage"]["average"]
    for index, (n, parameter) in enumerate(named(run.task).items()):
        assert parameter.requires_grad == (n not in frozen), n
        if n in frozen:
            if n.startswith("representation."):
                assert torch.equal(start[n], source[plain_name(n)]), n
            places = [end[n], parameter, stored["state_dict"][f"model.{n}"]]
            places += [average[key][index] for key in ("shadow_params", "collected_params")]
            assert all(torch.equal(start[n], tensor) for tensor in places), n


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_is_tuned_has_one_group_and_moves(
    kind: str, name: str, fitted: Callable[..., Fit]
) -> None:
    run = fitted(kind, name)
    tuned = {n: p for n, p in named(run.task).items() if not FROZEN[name](n)}
    grouped = [p for group in run.optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(tuned) == len({id(p) for p in grouped})
    assert {id(p) for p in grouped} == {id(p) for p in tuned.values()}
    assert set(run.optimizer.state) == set(tuned.values())  # parameters compare by identity
    first, last, stored = run.watch.weights[0], run.watch.weights[-1], run.stored()["state_dict"]
    for n, parameter in tuned.items():
        assert run.optimizer.state[parameter]["exp_avg"].any(), n  # not by weight decay alone
        assert not torch.equal(first[n], last[n]), n
        assert not torch.equal(first[n], stored[f"model.{n}"]), n


def level(name: str) -> int:
    """Depth from the head, of two interactions."""
    if not name.startswith("representation."):
        return 0
    number = re.search(r"\.([01])\.", name)
    return 3 if number is None else 2 - int(number[1])


@pytest.mark.parametrize("kind", ["tpainn", "schnet", "so3net"])
def test_blocks_wake_from_the_head_down(kind: str, fitted: Callable[..., Fit]) -> None:
    """Half of 12 steps for three more levels: one every two steps."""
    run = fitted(kind, "gradual")
    names = set(run.watch.weights[0])
    assert {level(n) for n in names} == {0, 1, 2, 3}
    for step in range(STEPS):
        awake = {n for n in names if level(n) * 2 <= step}
        assert run.watch.moved(step) == awake, step
        assert run.watch.known[step] == {n for n in names if level(n) * 2 <= step - 1}, step
    levels = run.task.record.parts["gradual"]["levels"]
    assert [len(blocks) for blocks in levels[:3]] == [1, 1, 1]


def test_waiting_blocks_have_no_part_in_the_gradients_norm(
    place: Path, labels: Path, pretrained: Callable[[str], Path]
) -> None:
    """A clipped gradient step of the head has the length that the whole gradient was clipped to."""
    sgd: dict[str, Any] = {"optimizer_cls": "torch.optim.SGD", "optimizer_args": {"lr": 0.5}}
    task = make_task("tpainn", strategy("gradual", pretrained("tpainn")), **sgd)
    run = fit(place / "norm", labels, task, 4, gradient_clip_val=0.1)
    before, after = run.watch.weights[:2]
    assert {level(n) for n in run.watch.moved(0)} == {0}
    assert {level(n) for n in run.watch.moved(2)} == {0, 1, 2, 3}
    length = sum((after[n] - before[n]).square().sum() for n in before) ** 0.5
    assert length.item() == pytest.approx(0.5 * 0.1, rel=1e-4)


def test_a_plateau_wakes_the_next_block(
    place: Path, labels: Path, pretrained: Callable[[str], Path]
) -> None:
    """With a learning rate of 0 the loss never falls: patience 2 gives a block every other time."""
    options = ("transfer/gradual=plateau", "transfer.gradual.patience=2")
    transfer = strategy("gradual", pretrained("tpainn"), *options)
    still = make_task("tpainn", transfer, optimizer_args={"lr": 0.0})
    run = fit(place / "plateau", labels, still, 8, validate=1)
    # the first validation is the lowest, the third and the fifth are two without a lower one
    expected = [set(), {0}, {0}, {0}, {0, 1}, {0, 1}, {0, 1, 2}, {0, 1, 2}]
    assert [{level(n) for n in known} for known in run.watch.known] == expected
    falling = make_task("tpainn", transfer, optimizer_args={"lr": 1e-3})
    run = fit(place / "falling", labels, falling, 8, validate=1)
    assert run.watch.losses == sorted(run.watch.losses, reverse=True)
    assert {level(n) for n in run.watch.known[-1]} == {0}


RESUMED: dict[str, tuple[str, ...]] = {
    "full": (),
    "frozen_filters": (),
    "gradual": (),
    "plateau": ("transfer/gradual=plateau", "transfer.gradual.patience=1"),
    "lora": ("transfer/gradual=step", "transfer.layer_decay=0.5"),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_killed_run_ends_as_an_unbroken_one(
    name: str, place: Path, labels: Path, pretrained: Callable[[str], Path]
) -> None:
    settings: dict[str, Any] = {
        "scheduler_cls": "torch.optim.lr_scheduler.OneCycleLR",
        "scheduler_args": {"max_lr": 1e-2, "total_steps": 8},
        "scheduler_interval": "step",
    }
    if name == "plateau":  # the loss never falls
        settings = {"optimizer_args": {"lr": 0.0}}
    group = "gradual" if name == "plateau" else name

    def task() -> Any:
        return make_task(
            "tpainn", strategy(group, pretrained("tpainn"), *RESUMED[name]), **settings
        )

    whole = fit(place / f"whole-{name}", labels, task(), 8)
    killed = fit(place / f"killed-{name}", labels, task(), 8, stop=5)
    assert len(killed.watch.weights) == 5
    before = killed.stored()
    assert before["global_step"] == 4
    rest = fit(place / f"killed-{name}", labels, task(), 8, resume=killed.checkpoint)
    assert len(rest.watch.weights) == 5  # four more steps, and the end
    assert rest.task.record.zero_shot == before["tpainn"]["record"]["zero_shot"]
    for a, b in zip(whole.watch.weights[4:], rest.watch.weights, strict=True):
        same(a, b)
    assert whole.watch.known[4:] == rest.watch.known
    assert whole.watch.rates[4:] == rest.watch.rates
    one, other = whole.stored(), rest.stored()
    same(one["state_dict"], other["state_dict"])
    for a, b in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
        assert a["state"].keys() == b["state"].keys()
        for key in a["state"]:
            same(a["state"][key], b["state"][key])
    if name == "plateau":
        assert [{level(n) for n in known} for known in rest.watch.known] == [
            {0},
            {0, 1},
            {0, 1},
            {0, 1, 2},
        ]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """The order of frames in a batch may differ, and with it the last digits."""
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6, msg=name)


def test_validation_and_test_change_nothing(
    place: Path, labels: Path, pretrained: Callable[[str], Path]
) -> None:
    options = ("transfer/gradual=plateau", "transfer.gradual.patience=1")
    task = make_task("tpainn", strategy("frozen_filters", pretrained("tpainn"), *options))
    run = fit(place / "tested", labels, task, 4)

    def state() -> tuple[dict, dict]:
        flags = {n: p.requires_grad for n, p in task.named_parameters()}
        return copy.deepcopy(task.state_dict()), flags

    before, flags = state()
    assert not all(flags.values())
    for stage in (run.trainer.test, run.trainer.validate):
        for checkpoint in (None, run.checkpoint):
            stage(task, datamodule=data_module(labels), ckpt_path=checkpoint, verbose=False)
            after, flags_after = state()
            assert flags_after == flags
            assert before.keys() == after.keys()
            assert all(torch.equal(before[key], after[key]) for key in before)
            assert not task.training or stage


def test_the_average_begins_with_the_transferred_weights(
    place: Path, labels: Path, pretrained: Callable[[str], Path]
) -> None:
    task = make_task("tpainn", strategy("full", pretrained("tpainn")))
    run = fit(place / "average", labels, task, 2, validate=1)
    start, first = run.watch.weights[:2]
    source = load_pretrained(pretrained("tpainn")).state
    for name, shadow in run.watch.validated[0].items():
        # torch_ema's decay after one update is 2/11
        torch.testing.assert_close(shadow, start[name] * 2 / 11 + first[name] * 9 / 11)
        if name.startswith("representation."):
            assert torch.equal(start[name], source[name])


def test_everything_at_once_on_higher_irreps(
    place: Path, labels: Path, pretrained: Callable[[str], Path]
) -> None:
    options = ("transfer/gradual=step", "transfer.freeze=[filter]", "transfer.layer_decay=0.5")
    transfer = strategy("lora", pretrained("l2"), *options)
    transfer["lora"]["tune"] = [r"embedding", "filter_net.bias"]
    run = fit(place / "everything", labels, make_task("l2", transfer), 6)
    start = run.watch.weights[0]
    tuned = {n for n in start if n.endswith((".up", ".down")) or "embedding" in n}
    tuned = {n for n in tuned if "filter" not in n}
    assert {level(n) for n in tuned} == {0, 1, 2, 3}
    moved = {n for n in start if not torch.equal(start[n], run.watch.weights[-1][n])}
    assert moved == tuned == {n for n, p in named(run.task).items() if p.requires_grad}
    assert {level(n) for n in run.watch.moved(0)} == {0}
    assert set(run.watch.rates[0]) == {1.0, 0.5, 0.25, 0.125}
    source = load_pretrained(pretrained("l2")).state
    for name in ("filter_net.bias", "filter_net.parametrizations.weight.original"):
        name = f"representation.{name}"
        assert torch.equal(run.watch.weights[-1][name], source[plain_name(name)])


def test_gradual_by_steps_needs_their_number(
    place: Path, labels: Path, pretrained: Callable[[str], Path]
) -> None:
    task = make_task("tpainn", strategy("gradual", pretrained("tpainn")))
    with pytest.raises(TransferError, match=r"by=step needs trainer.max_steps"):
        fit(place / "endless", labels, task, steps=-1)
