"""Anchors: what holds the weights, how strongly, and against an exact Gauss-Newton matrix."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from methanol import make_frames
from schnetpack.data import AtomsLoader

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.anchor import EWC, L2SP, gauss_newton
from schnetpack_tpainn.transfer.frames import force_field_frames
from tests.fits import Fit, data_module, fit, make_labels, make_task, save_pretrained, strategy

pytestmark = pytest.mark.filterwarnings("ignore")

L2, EW = "l2sp", "ewc"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("anchor")
    make_labels(place)
    make_frames(place / "frames.db")
    return place


def node(
    place: Path, kind: str, name: str, anchor: str | None = None, strength: float = 1.0
) -> dict[str, Any]:
    """Hydra node of a strategy with an anchor."""
    checkpoint = place / f"{kind}.safetensors"
    if not checkpoint.exists():
        save_pretrained(place, kind)
    transfer = strategy(name, checkpoint, f"transfer/anchor={anchor or L2}")
    held = None if anchor is None else {**transfer["anchor"], "strength": strength}
    return {**transfer, "anchor": held, "frames": str(place / "frames.db")}


@pytest.fixture(scope="module")
def anchored(place: Path) -> Callable[..., Fit]:
    """Fits by representation, strategy and further options, each made once."""
    made: dict[str, Fit] = {}

    def get(
        kind: str, name: str, anchor: str | None = None, strength: float = 1.0, **options: Any
    ) -> Fit:
        key = f"{kind}{name}{anchor}{strength}{options}"
        if key not in made:
            transfer = node(place, kind, name, anchor, strength)
            stop = options.pop("stop", None)
            task = make_task(kind, {**transfer, **options})
            made[key] = fit(place / f"run{len(made)}", place / "labels.db", task, stop=stop)
        return made[key]

    return get


def distance(run: Fit) -> float:
    start, end = run.watch.weights[0], run.watch.weights[-1]
    return float(sum((end[n] - start[n]).square().sum() for n in start) ** 0.5)


def drift(run: Fit) -> float:
    return run.stored()["tpainn"]["record"]["parts"]["anchor"]["drift"]


def test_the_diagonal_is_that_of_exact_gradients(place: Path) -> None:
    """Of energy and every force component; within the scatter of random projections."""
    task = make_task("schnet", None)
    module = data_module(place / "labels.db")
    module.setup()
    frames = force_field_frames(place / "frames.db", module, 1)
    (batch,) = AtomsLoader(frames, batch_size=1)
    n = 300
    found = gauss_newton(task, [batch] * n)
    task.train()
    parameters = list(task.model.parameters())
    results = task.predict_without_postprocessing(dict(batch))
    expected = torch.zeros(len(found))
    outputs = [(0.1, results["energy"]), (0.9, results["forces"])]
    for weight, y in outputs:
        for component in y.flatten():
            g = torch.autograd.grad(component, parameters, retain_graph=True, allow_unused=True)
            flat = [torch.zeros_like(p) if x is None else x for p, x in zip(parameters, g)]  # noqa: B905
            vector = torch.nn.utils.parameters_to_vector(flat)
            expected += 2 * weight / y.numel() * vector.square()
    assert torch.equal(found == 0, expected == 0)
    known = expected > 0
    ratio = found[known] / expected[known]
    # the square of a normal number scatters by sqrt(2)
    assert ratio.mean().item() == pytest.approx(1, abs=0.1)
    assert (ratio - 1).abs().max() < 6 * (2 / n) ** 0.5
    again = gauss_newton(task, [batch] * 3, seed=1)
    assert torch.equal(again, gauss_newton(task, [batch] * 3, seed=1))
    assert not torch.equal(again, gauss_newton(task, [batch] * 3, seed=2))


def test_a_loss_without_weight_has_no_part_in_the_diagonal(place: Path) -> None:
    task = make_task("schnet", None)
    module = data_module(place / "labels.db")
    module.setup()
    frames = force_field_frames(place / "frames.db", module, 3)
    both = gauss_newton(task, AtomsLoader(frames, batch_size=1))
    task.outputs[0].loss_weight = 0.0
    forces = gauss_newton(task, AtomsLoader(frames, batch_size=1))
    assert both[-1] > 0  # the last bias moves the energy, and no force
    assert forces[-1] == 0
    assert forces.sum() > 0


@pytest.mark.parametrize(("kind", "anchor"), [("tpainn", L2), ("schnet", EW), ("so3net", EW)])
def test_a_stronger_anchor_holds_the_weights(
    anchored: Callable[..., Fit], kind: str, anchor: str
) -> None:
    free = distance(anchored(kind, "full"))
    runs = [anchored(kind, "full", anchor, s) for s in (1e-9, 100.0)]
    weak, strong = map(distance, runs)
    assert weak == pytest.approx(free, rel=1e-3)
    assert strong < 0.9 * free
    assert 0 < drift(runs[1]) < drift(runs[0])


def test_the_penalty_is_half_the_strength_times_the_squared_distance(
    anchored: Callable[..., Fit],
) -> None:
    run = anchored("tpainn", "full", L2, 100.0)
    task = run.task
    task._log = []
    task.log = lambda name, value, **_: task._log.append((name, float(value)))
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.copy_(parameter + 0.01)
    here = torch.nn.utils.parameters_to_vector(task.model.parameters()).detach()
    start = [run.watch.weights[0][name] for name, _ in task.model.named_parameters()]
    squared = (here - torch.nn.utils.parameters_to_vector(start)).square().sum().item()
    total = task.parts[0].loss(task, {}, torch.ones(()))
    assert total.item() == pytest.approx(1 + 50 * squared, rel=1e-4)
    assert task._log == [("train_anchor", pytest.approx(50 * squared, rel=1e-4))]


def test_what_was_not_transferred_is_free(anchored: Callable[..., Fit]) -> None:
    run = anchored("tpainn", "full", L2, reinitialise=["output_modules.*bias"])
    part = run.task.parts[0]
    sizes = {n: p.numel() for n, p in run.task.model.named_parameters()}
    free = sum(size for n, size in sizes.items() if "output_modules" in n and "bias" in n)
    assert free > 0
    assert part.importance.sum() == sum(sizes.values()) - free
    parts = run.stored()["tpainn"]["record"]["parts"]["anchor"]
    assert parts["kind"] == "L2SP"
    assert parts["parameters"] == sum(sizes.values()) - free


def test_adapters_are_held_at_their_start(anchored: Callable[..., Fit]) -> None:
    run = anchored("tpainn", "lora", L2, 1e4)
    adapters = [p for p in run.task.model.parameters() if p.requires_grad]
    assert len(run.task.parts[0].origin) == sum(p.numel() for p in adapters)
    assert distance(run) < 0.9 * distance(anchored("tpainn", "lora"))


def test_a_killed_run_ends_as_an_unbroken_one(anchored: Callable[..., Fit], place: Path) -> None:
    options = {"layer_decay": 0.9}
    whole = anchored("tpainn", "full", EW, 10.0, **options)
    killed = anchored("tpainn", "full", EW, 10.0, stop=5, **options)
    transfer = {**node(place, "tpainn", "full", EW, 10.0), **options, "checkpoint": "gone"}
    task = make_task("tpainn", transfer)
    resumed = fit(place / "more", place / "labels.db", task, resume=killed.checkpoint)
    assert torch.equal(resumed.task.parts[0].origin, whole.task.parts[0].origin)
    assert torch.equal(resumed.task.parts[0].importance, whole.task.parts[0].importance)
    for name, end in whole.watch.weights[-1].items():
        # the order of frames in a batch may differ, and with it the last digits
        torch.testing.assert_close(end, resumed.watch.weights[-1][name], rtol=1e-4, atol=1e-6)
    assert drift(resumed) == pytest.approx(drift(whole), rel=1e-4)


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_an_anchor_without_strength_is_refused(strength: float) -> None:
    for anchor in (L2SP, EWC):
        with pytest.raises(TransferError, match=r"strength above 0.*transfer/anchor=null"):
            anchor(strength)
    with pytest.raises(TransferError, match=r"n_frames of 1 or more, got 0"):
        EWC(n_frames=0)


def test_elastic_weights_need_the_pretraining_frames(place: Path) -> None:
    task = make_task("painn", {**node(place, "painn", "full", EW), "frames": None})
    with pytest.raises(TransferError, match=r"give its path as transfer.frames"):
        fit(place / "none", place / "labels.db", task)
