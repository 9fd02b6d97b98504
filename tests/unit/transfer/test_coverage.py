"""Frames inside and outside the pretraining distribution, for representations of every kind."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from schnetpack.interfaces import AtomsConverter

from schnetpack_tpainn.data.neighbors import VesinNeighbors
from schnetpack_tpainn.transfer.context import Context, TransferRecord
from schnetpack_tpainn.transfer.coverage import coverage, descriptors, find_coverage
from tests.fits import CUTOFF, build, data_module, make_labels
from tests.teachers import pretraining_frames, sample


@pytest.fixture(scope="module")
def pretraining() -> list[Atoms]:
    return pretraining_frames()


@pytest.fixture(scope="module")
def labels(pretraining: list[Atoms]) -> dict[str, list[Atoms]]:
    """Frames by where they come from; those of `inside` are of other trajectories."""
    inside = [f for seed, t in enumerate((300, 450, 600), 10) for f in sample(t, 12, seed)]
    compressed = [frame.copy() for frame in inside]
    for frame in compressed:
        frame.positions *= 0.9
    return {
        "inside": inside,
        "compressed": compressed,
        "hot": sample(900, 24, seed=20),
        "acetaldehyde": sample(300, 12, seed=30, smiles="CC=O"),
    }


def batches(frames: Sequence[Atoms], size: int = 50) -> list[dict[str, torch.Tensor]]:
    convert = AtomsConverter(neighbor_list=VesinNeighbors(CUTOFF), dtype=torch.float32)
    return [convert(list(frames[k : k + size])) for k in range(0, len(frames), size)]


@pytest.mark.parametrize("kind", ["schnet", "painn", "so3net", "tpainn"])
def test_inside_and_outside_are_told_apart(
    pretraining: list[Atoms], labels: dict[str, list[Atoms]], kind: str
) -> None:
    model = build(kind)
    found = {k: coverage(model, batches(pretraining), batches(v)) for k, v in labels.items()}
    assert found["inside"]["outside"] < 0.2
    assert found["hot"]["outside"] > 2 * found["inside"]["outside"]
    assert found["compressed"]["outside"] > 0.8
    assert found["acetaldehyde"]["outside"] > 0.7
    for element in found["inside"]["elements"].values():
        assert 0 < element["distance"] < 1
    assert found["compressed"]["elements"]["C"]["distance"] > 1
    atoms = {e: v["n_atoms"] for e, v in found["inside"]["elements"].items()}
    assert atoms == {"H": 6 * 36, "C": 2 * 36, "O": 36}
    assert model.training


def test_the_shares_of_elements_add_up(
    pretraining: list[Atoms], labels: dict[str, list[Atoms]]
) -> None:
    found = coverage(build("painn"), batches(pretraining), batches(labels["hot"]))
    groups = found["elements"].values()
    n_outside = sum(g["n_atoms"] * g["outside"] for g in groups)
    assert found["outside"] == pytest.approx(n_outside / sum(g["n_atoms"] for g in groups))
    assert found["why"] is None


def test_the_frames_themselves_are_inside(pretraining: list[Atoms]) -> None:
    some = batches(pretraining)
    assert coverage(build("schnet"), some, some)["outside"] < 0.05


def test_an_element_that_pretraining_lacks_is_outside(pretraining: list[Atoms]) -> None:
    amine = sample(300, 8, smiles="CN")
    found = coverage(build("painn"), batches(pretraining), batches(amine))
    assert found["elements"]["N"] == {"n_atoms": 8, "outside": 1.0, "distance": None}
    json.dumps(found, allow_nan=False)


def test_frames_that_are_all_alike_are_no_trouble() -> None:
    frame = sample(300, 1)[0]
    found = coverage(build("painn"), batches([frame] * 12), batches([frame] * 2))
    assert found["outside"] == 0.0


def test_too_few_pretraining_frames_tell_nothing(pretraining: list[Atoms]) -> None:
    found = coverage(build("painn"), batches(pretraining[:7]), batches(pretraining[:2]))
    assert found["outside"] is None
    assert "fewer than 8 pretraining frames" in found["why"]


def test_descriptors_are_those_of_the_representation(pretraining: list[Atoms]) -> None:
    model, frames = build("painn"), pretraining[:5]
    x, z, frame = descriptors(model, batches(frames, size=2))
    seen: dict[str, Any] = {}
    model.representation.register_forward_hook(lambda _m, _i, out: seen.update(out))
    model.eval()(batches(frames)[0])
    assert x == pytest.approx(seen["scalar_representation"].detach().numpy(), abs=1e-5)
    assert z.tolist() == [n for f in frames for n in f.numbers]
    assert frame.tolist() == np.repeat(np.arange(5), 9).tolist()


@pytest.mark.parametrize("frames", [None, "gone.db"])
def test_frames_that_are_not_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    module = data_module(make_labels(tmp_path))
    module.setup()
    context = Context(build("painn"), module, "energy", "forces")
    found = find_coverage(context, TransferRecord("full", frames=frames))
    assert found["outside"] is None
    assert "transfer.frames" in found["why"]
