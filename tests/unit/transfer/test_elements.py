"""Elements that pretraining never saw: refused, or given an embedding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import nn

from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import copy_parameters, network_state, plan_copy
from schnetpack_tpainn.transfer.elements import admit_elements, nearest_element
from schnetpack_tpainn.transfer.formats import Pretrained
from schnetpack_tpainn.transfer.portable import save_portable
from tests.fits import KINDS, build, fit, make_labels, make_task, strategy

H, C, N, O, S, CL = 1, 6, 7, 8, 16, 17  # noqa: E741
NUCLEAR = {
    "nuclear_embedding": {
        "_target_": "schnetpack.nn.embedding.NuclearEmbedding",
        "max_z": 101,
        "num_features": 8,
        "zero_init": False,
    }
}


def admit(
    source: nn.Module, target: nn.Module, mode: str, seen: list[int] | None, *here: int, **plan: Any
) -> dict[str, str]:
    card = {} if seen is None else {"elements": seen}
    pretrained = Pretrained(Path("x"), network_state(source), card)
    planned = plan_copy(pretrained.state, target, **plan)
    before = {n: p.clone() for n, p in target.named_parameters()}
    state, said = admit_elements(pretrained, planned, here, target, mode)
    assert all(torch.equal(p, before[n]) for n, p in target.named_parameters())
    copy_parameters(planned, state, target)
    return said


def table(model: Any) -> torch.Tensor:
    """Embedding of every element, (zmax, F)."""
    embedding = model.eval().representation.embedding
    return embedding(torch.arange(100)).detach().clone()


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_element_gets_the_nearest_ones_embedding(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = build(kind, seed=1), build(kind, seed=2)
    said = admit(source, target, "nearest", [H, C, O], H, C, O, S, CL)
    got, pretrained = table(target), table(source)
    assert torch.equal(got[S], pretrained[O])
    assert said == {"S": "that of O", "Cl": "that of O"}
    assert "pretraining never saw S; its embedding: that of O" in caplog.text
    others = [z for z in range(100) if z not in (S, CL)]
    assert torch.equal(got[others], pretrained[others])


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_element_keeps_the_new_models_random_start(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = build(kind, seed=1), build(kind, seed=2)
    start, pretrained = table(target), table(source)
    assert admit(source, target, "init", [H, C], H, C, N) == {"N": "random start"}
    got = table(target)
    assert torch.equal(got[N], start[N])
    assert not torch.equal(got[N], pretrained[N])
    assert torch.equal(got[[H, C]], pretrained[[H, C]])
    assert "pretraining never saw N; its embedding: random start" in caplog.text


def test_the_embedding_by_electron_configurations() -> None:
    source, target, other = (build("painn", seed=s, **NUCLEAR) for s in (1, 2, 3))
    pretrained = table(source)
    admit(source, other, "nearest", [H, C, O], O, S)
    torch.testing.assert_close(table(other)[S], pretrained[O])
    assert torch.equal(table(other)[O], pretrained[O])
    own = target.representation.embedding.element_embedding[N].detach().clone()
    admit(source, target, "init", [H, C, O], O, N)
    embedding = target.representation.embedding
    learned = embedding.config_linear(embedding.electron_config.float())[N]
    torch.testing.assert_close(table(target)[N], own + learned)


def test_a_renamed_embedding() -> None:
    source, target = build("tpainn", seed=1), build("tpainn", seed=2)
    renamed = nn.Module()
    renamed.net = source.representation
    renamed.output_modules = source.output_modules
    rename = {r"^net\.": "representation."}
    admit(renamed, target, "nearest", [H, C, O], O, S, rename=rename)
    assert torch.equal(table(target)[S], table(source)[O])


def test_an_embedding_that_starts_anew_is_left_alone() -> None:
    source, target = build("tpainn", seed=1), build("tpainn", seed=2)
    start = table(target)
    admit(source, target, "nearest", [H, C, O], O, S, reinitialise=["embedding"])
    assert torch.equal(table(target), start)


def test_new_elements_are_refused() -> None:
    message = r"the data hold N, S, which the pretraining never saw \(it saw H, C\)"
    with pytest.raises(CheckpointError, match=message):
        admit(build("tpainn"), build("tpainn"), "refuse", [H, C], H, N, S)
    assert admit(build("tpainn"), build("tpainn"), "refuse", [H, C], H) == {}


def test_an_unknown_past(caplog: pytest.LogCaptureFixture) -> None:
    assert admit(build("tpainn"), build("tpainn"), "refuse", None, H) == {}
    assert "does not say which elements it has seen" in caplog.text
    with pytest.raises(CheckpointError, match="new_elements=init needs a checkpoint that says"):
        admit(build("tpainn"), build("tpainn"), "init", None, H)


def test_an_element_beyond_the_embedding() -> None:
    with pytest.raises(CheckpointError, match=r"expected elements up to number 99, .* got Md"):
        admit(build("tpainn"), build("tpainn"), "nearest", [H], H, 101)


def test_a_model_without_such_an_embedding() -> None:
    source = build("tpainn")
    source.representation.embedding = nn.Linear(1, 8)
    with pytest.raises(CheckpointError, match="expected an embedding by atomic number"):
        admit(source, source, "init", [H], N)


@pytest.mark.parametrize(
    ("z", "known", "expected"),
    [
        ("S", "H C O", "O"),  # the same group
        ("Se", "O S Br", "S"),  # the nearer period
        ("S", "O Se", "O"),  # both as near
        ("Cl", "H C N O", "O"),  # none of the group: the nearest number
        ("F", "H Ne O", "O"),
        ("Na", "H C", "C"),  # hydrogen is no alkali metal
        ("H", "Li He C", "He"),
        ("K", "H Na Ar", "Na"),
        ("Ne", "He F", "He"),
        ("Mg", "He Na Ca", "Ca"),
        ("Al", "B Mg", "B"),
        ("Zr", "Ti Y Nb", "Ti"),
        ("Ag", "Cu Pd", "Cu"),
        ("U", "Nd Ac", "Nd"),
        ("Hf", "Zr Lu", "Zr"),
    ],
)
def test_which_element_is_nearest(z: str, known: str, expected: str) -> None:
    found = nearest_element(atomic_numbers[z], [atomic_numbers[k] for k in known.split()])
    assert chemical_symbols[found] == expected


def test_in_a_fit_it_is_done_and_recorded(tmp_path: Path) -> None:
    model = build("tpainn")
    card = {"architecture": describe(model), "elements": [H, C]}
    save_portable(tmp_path / "m.safetensors", network_state(model), card)
    transfer = strategy("full", tmp_path / "m.safetensors")
    labels = make_labels(tmp_path)
    with pytest.raises(CheckpointError, match="the data hold O, which the pretraining never saw"):
        fit(tmp_path, labels, make_task("tpainn", transfer))
    done = fit(
        tmp_path, labels, make_task("tpainn", {**transfer, "new_elements": "nearest"}), steps=2
    )
    assert done.task.record is not None
    assert done.task.record.new_elements == {"O": "that of C"}
    start = done.watch.weights[0]["representation.embedding.weight"]
    assert torch.equal(start[O], start[C])
