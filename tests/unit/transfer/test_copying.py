"""Every parameter is copied, renamed, or reinitialised as asked, or nothing is."""

import logging
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from schnetpack.representation import PaiNN
from torch import nn

from schnetpack_tpainn.errors import CheckpointError, TransferError
from schnetpack_tpainn.transfer.architecture import compare_architecture, describe
from schnetpack_tpainn.transfer.copying import (
    copy_parameters,
    count_blocks,
    network_state,
    plan_copy,
)
from schnetpack_tpainn.transfer.lora import Lora
from tests.fits import KINDS, build, model_config

WIDTHS = "representation.radial_basis.widths"


def fill(target: nn.Module, state: dict[str, Any], **options: Any) -> Any:
    plan = plan_copy(state, target, **options)
    copy_parameters(plan, state, target)
    return plan


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_arrives_and_no_offset(kind: str) -> None:
    source, target = build(kind, seed=1), build(kind, seed=2)
    source.postprocessors[0].split.fill_(-1.0)
    target.postprocessors[0].split.fill_(3.0)
    plan = fill(target, network_state(source))
    assert same(source, target)
    assert plan.copied == {name: name for name, _ in target.named_parameters()}
    assert plan.renamed == {}
    assert plan.reinitialised == plan.differences == []
    assert (target.postprocessors[0].split == 3.0).all()


def test_stock_painn_exchanges_weights() -> None:
    ours, stock = build("tpainn"), build("painn", seed=1)
    assert isinstance(stock.representation, PaiNN)
    assert compare_architecture(describe(stock), describe(ours)) == []
    fill(ours, network_state(stock))
    assert same(ours, stock)
    back = build("painn", seed=2)
    fill(back, network_state(ours))
    assert same(back, stock)


@pytest.mark.parametrize("kind", ["painn", "so3net"])
def test_shared_interactions(kind: str) -> None:
    source, target = (build(kind, seed=s, shared_interactions=True) for s in (1, 2))
    fill(target, network_state(source))
    assert same(source, target)
    single = build(kind, seed=3)
    fill(single, network_state(source))  # the same function, with more to tune
    before = {n: p.clone() for n, p in source.named_parameters()}
    other = build(kind, seed=4)
    with pytest.raises(
        CheckpointError, match=r"\.1\.\S+ +the same as \S+\.0\.\S+, which is shared"
    ):
        fill(source, network_state(other))
    assert all(torch.equal(p, before[n]) for n, p in source.named_parameters())


def test_missing_left_over_and_misshapen_parameters_are_listed() -> None:
    state = network_state(build("tpainn"))
    state["extra"] = state.pop("representation.embedding.weight")
    state["output_modules.0.outnet.0.weight"] = torch.zeros(1, 1)
    target, before = build("tpainn", seed=1), build("tpainn", seed=1)
    with pytest.raises(CheckpointError) as error:
        fill(target, state)
    table = [" ".join(line.split()) for line in str(error.value).splitlines()]
    assert table[1:-1] == [
        "parameter expected got",
        "extra not part of this model (100, 8)",
        "output_modules.0.outnet.0.weight (4, 8) (1, 1)",
        "representation.embedding.weight (100, 8) missing",
    ]
    assert same(before, target)


def test_a_rule_renames_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    source, target = build("tpainn"), build("tpainn", seed=1)
    state = {k.replace("representation.", "net."): v for k, v in network_state(source).items()}
    with caplog.at_level(logging.INFO):
        plan = fill(target, state, rename={r"^net\.": "representation."})
    assert same(source, target)
    assert plan.renamed["net.embedding.weight"] == "representation.embedding.weight"
    assert "net.embedding.weight is copied to representation.embedding.weight" in caplog.text


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"^nte": "x"}, "matches nothing; near names"),
        ({"(": "x"}, "expected a regular expression"),
        ({"embedding": r"\g<no>"}, "expected a replacement as re.sub takes it"),
        ({r"outnet\.1": "outnet.0"}, "gives .*outnet.0.weight and .*outnet.1.weight the same name"),
    ],
)
def test_a_wrong_rule(rule: dict[str, str], message: str) -> None:
    model = build("tpainn")
    with pytest.raises(TransferError, match=message):
        plan_copy(network_state(model), model, rename=rule)


def test_reinitialised_parameters_keep_their_start(caplog: pytest.LogCaptureFixture) -> None:
    source, target = build("schnet"), build("schnet", seed=1)
    state = network_state(source)
    del state["output_modules.0.outnet.1.weight"]  # need not be there, nor fit
    state["output_modules.0.outnet.0.weight"] = torch.zeros(1, 1)
    before = [p.clone() for p in target.output_modules.parameters()]
    with caplog.at_level(logging.INFO):
        plan = fill(target, state, reinitialise=["^output_modules"])
    assert all(
        torch.equal(p, q) for p, q in zip(before, target.output_modules.parameters(), strict=True)
    )
    assert same(source.representation, target.representation)
    assert len(plan.reinitialised) == len(before) == 4
    assert "outnet.1.bias keeps its random start" in caplog.text
    blocks = count_blocks(target, plan)
    assert (blocks["head"]["copied"], blocks["head"]["reinitialised"]) == (0, 41)
    assert blocks["embedding"]["copied"] == 800
    with pytest.raises(TransferError, match=r"transfer\.reinitialise: 'ouput' matches nothing"):
        plan_copy(state, target, reinitialise=["ouput"])


def test_a_shared_parameter_is_reinitialised_by_any_of_its_names() -> None:
    source, target = (build("painn", seed=s, shared_interactions=True) for s in (1, 2))
    before = [p.clone() for p in target.representation.interactions.parameters()]
    plan = fill(target, network_state(source), reinitialise=[r"interactions\.1\."])
    after = target.representation.interactions.parameters()
    assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))
    assert len(plan.reinitialised) == 8  # both names of each


def test_adapters_stay_and_the_weights_below_them_are_filled() -> None:
    source, target = build("tpainn"), build("tpainn", seed=1)
    Lora(rank=2).attach(target)
    plan = fill(target, network_state(source))
    restored = network_state(target)  # merged; the adapters are zero at first
    assert all(torch.equal(t, restored[n]) for n, t in network_state(source).items())
    blocks = count_blocks(target, plan)
    assert blocks["head"]["adapter"] == 2 * (8 + 4) + 2 * (4 + 1)
    assert sum(b["copied"] for b in blocks.values()) == sum(p.numel() for p in source.parameters())


def test_a_model_with_adapters_gives_its_merged_weights() -> None:
    source, target = build("tpainn"), build("tpainn", seed=1)
    Lora(rank=2).attach(source)
    layer = source.output_modules[0].outnet[0]
    with torch.no_grad():
        layer.parametrizations.weight[0].up.fill_(1.0)
    fill(target, network_state(source))
    assert torch.equal(target.output_modules[0].outnet[0].weight, layer.weight)


def test_another_basis_of_the_same_size_is_refused() -> None:
    target = build("tpainn")
    target.representation.radial_basis.widths *= 1.5
    state = network_state(build("tpainn"))
    with pytest.raises(CheckpointError, match=rf"{WIDTHS} +its own values +others"):
        fill(target, state)
    plan = fill(target, state, accept_fixed=True)
    (line,) = plan.differences
    assert line.startswith(WIDTHS)
    assert not torch.equal(target.representation.radial_basis.widths, state[WIDTHS])


BESSEL = {"_target_": "schnetpack.nn.radial.BesselRBF", "n_rbf": 6, "cutoff": 4.0}
MOLLIFIER = {"_target_": "schnetpack.nn.cutoff.MollifierCutoff", "cutoff": 4.0}


@pytest.mark.parametrize(
    ("key", "changes", "n_lines"),
    [
        ("cutoff_ang", model_config("tpainn")["representation"], 1),
        ("radial_basis", {"radial_basis": BESSEL}, 3),
        ("cutoff_fn", {"cutoff_fn": MOLLIFIER}, 1),
    ],
)
def test_accepted_differences_of_fixed_values(
    key: str, changes: dict[str, Any], n_lines: int
) -> None:
    if key == "cutoff_ang":
        changes = {"cutoff_fn": {**changes["cutoff_fn"], "cutoff": 5.0}}
    source, target = build("tpainn"), build("tpainn", seed=1, **changes)
    described = describe(source), describe(target)
    with pytest.raises(CheckpointError, match=f"(?s){key}: expected .*got .*transfer.accept"):
        compare_architecture(*described)
    assert len(compare_architecture(*described, accept=[key])) == 1
    with pytest.raises(CheckpointError, match="nothing was copied"):
        fill(target, network_state(source))
    plan = fill(target, network_state(source), accept_fixed=True)
    assert same(source, target)
    assert len(plan.differences) == n_lines


def test_an_accepted_difference_of_shapes_still_needs_a_decision() -> None:
    more = {**model_config("tpainn")["representation"]["radial_basis"], "n_rbf": 9}
    source, target = build("tpainn"), build("tpainn", seed=1, radial_basis=more)
    assert compare_architecture(describe(source), describe(target), ["n_rbf"]) == [
        "n_rbf: expected 9, got 6"
    ]
    with pytest.raises(CheckpointError, match=r"filter_net.weight +\(48, 9\) +\(48, 6\)"):
        fill(target, network_state(source), accept_fixed=True)
    plan = fill(
        target, network_state(source), accept_fixed=True, reinitialise=["filter_net.weight"]
    )
    assert plan.reinitialised == ["representation.filter_net.weight"]


def test_an_unknown_key_of_accept() -> None:
    described = describe(instantiate(model_config("tpainn")))
    with pytest.raises(TransferError, match=r"accept: expected some of representation.*got cutof"):
        compare_architecture(described, described, ["cutof"])
