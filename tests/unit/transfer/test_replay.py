"""Replay: its share in the loss, its own head, what it draws, and that a killed run goes on."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.db import connect
from methanol import UFF, make_frames

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.frames import draw
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from schnetpack_tpainn.transfer.replay import Replay
from tests.fits import Fit, fit, make_labels, make_task, save_pretrained, strategy

pytestmark = pytest.mark.filterwarnings("ignore")

STORED = {"kinds": {"stored": 1.0}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("replay")
    make_labels(place)
    make_frames(place / "frames.db")
    return place


Replayed = Callable[..., Fit]


def node(place: Path, kind: str, name: str, directory: Path, **settings: Any) -> dict[str, Any]:
    """Hydra node of a strategy with replay, without it for `ratio=None`."""
    checkpoint = place / f"{kind}.safetensors"
    if not checkpoint.exists():
        save_pretrained(place, kind)
    transfer = strategy(name, checkpoint, "transfer/replay=frames")
    transfer["frames"] = str(place / "frames.db")
    settings = {"n_frames": 40, "directory": str(directory), **settings}
    replay = {**transfer["replay"], **settings}
    return {**transfer, "replay": None if replay["ratio"] is None else replay}


@pytest.fixture(scope="module")
def replayed(place: Path) -> Replayed:
    """Fits by representation, strategy and settings of the replay, each made once."""
    made: dict[str, Fit] = {}

    def get(kind: str, name: str = "full", stop: int | None = None, **settings: Any) -> Fit:
        key = f"{kind}{name}{stop}{settings}"
        if key not in made:
            folder = place / f"run{len(made)}"
            folder.mkdir()
            task = make_task(kind, node(place, kind, name, folder, **settings))
            made[key] = fit(folder, place / "labels.db", task, stop=stop)
        return made[key]

    return get


def share(run: Fit) -> float:
    return run.stored()["tpainn"]["record"]["parts"]["replay"]["share"]


def test_the_share_of_the_loss_follows_weight_and_ratio(replayed: Replayed) -> None:
    light, heavy = (share(replayed("schnet", weight=w, **STORED)) for w in (1e-3, 1.0))
    assert 0 < light < 0.1 * heavy < 0.1
    drawn = []
    for ratio in (0.25, 2.0):
        part = replayed("schnet", ratio=ratio, **STORED).task.parts[0]
        drawn.append(len(draw(part._frames, round(8 * ratio), 0)["_n_atoms"]))
    assert drawn == [2, 16]
    one, other = (replayed("schnet", ratio=r, **STORED) for r in (0.25, 2.0))
    assert share(one) != share(other)


def test_weights_change_and_without_weight_hardly(replayed: Replayed) -> None:
    ends = [
        replayed("schnet", **settings).watch.weights[-1]
        for settings in ({"ratio": None}, {"weight": 1e-12, **STORED}, {"weight": 1.0, **STORED})
    ]
    for name, without in ends[0].items():
        torch.testing.assert_close(without, ends[1][name], rtol=1e-3, atol=1e-4)
    assert any((ends[2][name] - without).abs().max() > 1e-3 for name, without in ends[0].items())


@pytest.mark.parametrize(
    ("kind", "name"), [("tpainn", "full"), ("schnet", "head_only"), ("so3net", "lora")]
)
def test_the_own_head_starts_as_pretrained_and_is_trained(
    replayed: Replayed, place: Path, kind: str, name: str
) -> None:
    folder = place / f"head-{kind}"
    folder.mkdir()
    transfer = node(place, kind, name, folder, **STORED)
    task = make_task(kind, {**transfer, "head": "reset" if name == "full" else "keep"})
    fit(folder, place / "labels.db", task, stop=0)
    source = load_pretrained(place / f"{kind}.safetensors").state
    heads = dict(task.parts[0].head.named_parameters(prefix="output_modules"))
    assert heads
    for parameter_name, parameter in heads.items():
        assert torch.equal(parameter, source[parameter_name])
    assert task.record.parts["replay"]["head"] == "pretrained"
    of_labels = task.model.output_modules[0].outnet[0].weight
    same = torch.equal(of_labels, heads["output_modules.0.outnet.0.weight"])
    assert same == (name != "full")
    run = replayed(kind, name, **STORED)
    state = run.stored()["state_dict"]
    for parameter_name, parameter in run.task.parts[0].head.named_parameters():
        assert run.optimizer.state[parameter]["exp_avg"].any(), parameter_name
        start = source[f"output_modules.{parameter_name}"]
        assert not torch.equal(state[f"parts.0.head.{parameter_name}"], start)


def test_kinds_are_made_once_and_labelled_by_the_force_field(
    replayed: Replayed, place: Path
) -> None:
    kinds = {"stored": 0.25, "bonds": 0.5, "approaches": 0.25}
    run = replayed("schnet", kinds=kinds)
    part = run.task.parts[0]
    with connect(part.directory / "replay.db") as db:
        rows = list(db.select())
        metadata = db.metadata
    assert metadata["calculator"] == UFF
    counts = {k: sum(row.kind == k for row in rows) for k in ("bonds", "approaches")}
    assert counts["bonds"] > counts["approaches"] > 0
    assert run.task.record.parts["replay"]["n_frames"] == {"stored": 10, "new": len(rows)}
    energy = RDKitForceField("UFF", smiles=rows[0].smiles).get_potential_energy(rows[0].toatoms())
    assert rows[0].data["energy"][0] == pytest.approx(energy, abs=1e-6)
    # both kinds of frames have the stored frames' zero
    stored, made = part._frames
    offsets = next(t.atomref for t in stored.transforms if hasattr(t, "atomref"))
    expected = energy - offsets[rows[0].numbers].sum().item()
    assert made[0]["energy"].item() == pytest.approx(expected, abs=1e-4)
    drawn = draw(part._frames, 30, 3)["_n_atoms"]
    assert {6, 12} == set(drawn.tolist())


def test_what_is_drawn_depends_on_seed_step_and_process(replayed: Replayed) -> None:
    part = replayed("schnet", **STORED).task.parts[0]

    def drawn(step: int, rank: int) -> list[int]:
        return draw(part._frames, 6, 0, step, rank)["_idx"].flatten().tolist()

    assert drawn(1, 0) == drawn(1, 0)
    assert len(set(drawn(1, 0))) == 6
    assert drawn(1, 0) != drawn(2, 0)
    assert drawn(1, 0) != drawn(1, 1)


def test_frames_with_large_forces_count_by_their_relative_error(replayed: Replayed) -> None:
    part = replayed("schnet", **STORED).task.parts[0]
    forces = torch.zeros(4, 3)
    forces[0, 0], forces[2:] = 1.0, 30.0
    frames = {
        "forces": forces,
        "_idx_m": torch.tensor([0, 0, 1, 1]),
        "_n_atoms": torch.tensor([2, 2]),
    }
    scale = part._scale(frames, "forces")
    expected = [1.0, part.force_scale / (30 * 3**0.5)]
    assert scale.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_killed_run_ends_as_an_unbroken_one(replayed: Replayed, place: Path) -> None:
    kinds = {"stored": 0.5, "contacts": 0.5}
    whole = replayed("tpainn", kinds=kinds)
    killed = replayed("tpainn", kinds=kinds, stop=5)
    folder = Path(killed.checkpoint).parent
    time = (folder / "replay.db").stat().st_mtime_ns
    task = make_task("tpainn", node(place, "tpainn", "full", folder, kinds=kinds))
    (place / "tpainn.safetensors").rename(place / "moved.safetensors")  # not read a second time
    rest = fit(folder, place / "labels.db", task, resume=killed.checkpoint)
    (place / "moved.safetensors").rename(place / "tpainn.safetensors")
    assert (folder / "replay.db").stat().st_mtime_ns == time
    a, b = whole.stored()["state_dict"], rest.stored()["state_dict"]
    assert a.keys() == b.keys()
    for name in a:  # the order of frames in a batch may differ, and with it the last digits
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6, msg=name)
    assert share(whole) == pytest.approx(share(rest), rel=1e-4)


def test_the_task_is_pickled_without_the_frames(replayed: Replayed) -> None:
    part = replayed("schnet", **STORED).task.parts[0]
    assert len(part._frames[0]) == 12
    copied = pickle.loads(pickle.dumps(part))  # noqa: S301
    assert copied._frames == []
    assert len(list(copied.head.parameters())) == len(list(part.head.parameters()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.0}, r"replay.ratio above 0, got 0.0; .*transfer/replay=null"),
        ({"weight": -1.0}, r"replay.weight above 0"),
        ({"n_frames": 0}, r"replay.n_frames above 0"),
        ({"force_scale": float("nan")}, r"replay.force_scale above 0"),
        ({"kinds": {"hot": 1.0}}, r"expected some of stored, bonds, contacts, approaches, got hot"),
        ({"kinds": {"stored": -1.0}}, r"expected shares of 0 or more"),
        ({"kinds": {"bonds": 0.0}}, r"expected shares of 0 or more"),
        ({"calculator": RDKitForceField()}, r"set `_recursive_: false`"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TransferError, match=message):
        Replay(**settings)


def test_what_is_missing_is_named(place: Path) -> None:
    with pytest.raises(TransferError, match=r"expected a model with output_modules.*got Linear"):
        Replay().prepare(torch.nn.Linear(1, 1))
    make_frames(place / "unknown.db", 4, source="somewhere")
    folder = place / "unknown"
    transfer = node(place, "schnet", "full", folder)
    unknown = {**transfer, "frames": str(place / "unknown.db")}
    with pytest.raises(TransferError, match=r"does not say which force field .*replay.calculator"):
        fit(folder, place / "labels.db", make_task("schnet", unknown))
    folder.mkdir(exist_ok=True)
    named = {**unknown, "replay": {**unknown["replay"], "calculator": UFF}}
    fit(folder, place / "labels.db", make_task("schnet", named), stop=0)
    assert (folder / "replay.db").exists()
    with pytest.raises(TransferError, match=r"give its path as transfer.frames"):
        fit(folder, place / "labels.db", make_task("schnet", {**transfer, "frames": None}))
