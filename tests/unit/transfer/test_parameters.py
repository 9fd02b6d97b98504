"""Which parameters are chosen, frozen and tuned, and how fast."""

from typing import Any

import pytest
import torch

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.gradual import Gradual
from schnetpack_tpainn.transfer.lora import Lora
from schnetpack_tpainn.transfer.parameters import choose, depths, names_of
from schnetpack_tpainn.transfer.tuning import Tuning
from tests.fits import build

DEPTHS = {
    "schnet": {
        "output_modules.0.outnet.0.weight": ("head", 0),
        "representation.interactions.1.filter_network.0.bias": ("interaction 1", 1),
        "representation.interactions.0.in2f.weight": ("interaction 0", 2),
        "representation.embedding.weight": ("embedding", 3),
    },
    "painn": {
        "output_modules.0.outnet.1.bias": ("head", 0),
        "representation.mixing.1.mu_channel_mix.weight": ("interaction 1", 1),
        "representation.interactions.0.interatomic_context_net.0.bias": ("interaction 0", 2),
        "representation.filter_net.weight": ("filter_net", 3),
    },
    "so3net": {
        "representation.so3convs.1.filternet.weight": ("interaction 1", 1),
        "representation.mixings3.0.weight": ("interaction 0", 2),
        "representation.gatings.1.scaling.weight": ("interaction 1", 1),
        "representation.embedding.weight": ("embedding", 3),
    },
}
DEPTHS["tpainn"] = DEPTHS["l2"] = DEPTHS["painn"]


def by_name(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: p for p, names in names_of(model).items() for name in names}


def tuned(model: Any) -> set[str]:
    return {name for name, p in by_name(model).items() if p.requires_grad}


@pytest.mark.parametrize("kind", DEPTHS)
def test_depths_count_from_the_head_down(kind: str) -> None:
    model = build(kind)
    found, owner = depths(model), by_name(model)
    assert len(found) == len(list(model.parameters()))
    for name, expected in DEPTHS[kind].items():
        assert found[owner[name]] == expected
    assert {depth for _, depth in found.values()} == {0, 1, 2, 3}


def test_shared_interactions_are_one_parameter_of_several_names() -> None:
    model = build("tpainn", shared_interactions=True)
    owner = by_name(model)
    first, second = (f"representation.mixing.{k}.mu_channel_mix.weight" for k in (0, 1))
    assert owner[first] is owner[second]
    assert depths(model)[owner[first]] == ("interaction 1", 1)
    Tuning(freeze=[r"mixing\.1\."]).prepare(model)
    assert not owner[first].requires_grad
    # the first pattern that matches the parameter counts, by whichever of its names
    rates = {r"interactions\.1": 0.1, "interactions": 0.5}
    model = build("tpainn", shared_interactions=True)
    with pytest.raises(TransferError, match="does nothing, as the patterns before it match"):
        Tuning(learning_rates=rates).factors(model)
    factors = Tuning(learning_rates={r"interactions\.1": 0.1}, layer_decay=0.5).factors(model)
    owner = by_name(model)
    assert len(factors) == len(list(model.parameters()))
    interaction = "representation.interactions.0.interatomic_context_net.0.weight"
    assert factors[owner[interaction]] == 0.1 * 0.5
    assert factors[owner[first]] == 0.5
    assert factors[owner["representation.embedding.weight"]] == 0.125


def test_equal_biases_are_two_parameters() -> None:
    model = build("tpainn")
    biases = [p for n, p in by_name(model).items() if n.endswith("context_net.1.bias")]
    with torch.no_grad():
        for bias in biases:
            bias.zero_()
    Tuning(freeze=[r"interactions\.0\.interatomic_context_net\.1\.bias"]).prepare(model)
    assert len(biases) == 4
    assert sum(p.requires_grad for p in biases) == 3
    assert sum(p is q for p in Tuning().factors(model) for q in biases) == 3


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["embeding"], r"transfer.freeze: 'embeding' matches nothing; .*representation.embedding"),
        (["filternet"], r"near names: representation.filter_net"),
        (["zzz"], r"'zzz' matches nothing; near names: representation\.\S+, .* \(of 25\)"),
        (["representation", "embedding"], r"'embedding' does nothing, as the patterns before it"),
        (["(unclosed"], r"transfer.freeze: expected a regular expression, got '\(unclosed' \("),
        ([""], r"transfer.freeze leaves no parameter to tune; take a pattern out of \[''\]"),
        (["representation", "outnet"], "leaves no parameter to tune"),
    ],
)
def test_wrong_patterns_are_refused(patterns: list[str], message: str) -> None:
    with pytest.raises(TransferError, match=message):
        Tuning(freeze=patterns).prepare(build("tpainn"))


def test_other_options_say_where_a_pattern_comes_from() -> None:
    model = build("tpainn")
    Tuning(freeze=["embedding"]).prepare(model)
    with pytest.raises(TransferError, match=r"learning_rates, of what is tuned: 'embedding' match"):
        Tuning(learning_rates={"embedding": 0.1}).factors(model)
    with pytest.raises(TransferError, match=r"transfer.lora.layers: 'outnett' .*outnet\.0"):
        Lora(layers=["outnett"]).attach(build("tpainn"))
    with pytest.raises(TransferError, match=r"transfer.lora.tune: 'embeding' .*embedding.weight"):
        Lora(tune=["embeding"]).attach(build("tpainn"))
    for factor in (0.0, -1.0, float("nan")):
        with pytest.raises(TransferError, match=r"expected a factor above 0 for 'a'"):
            Tuning(learning_rates={"a": factor})
    for decay in (0.0, 1.1):
        with pytest.raises(TransferError, match=r"layer_decay above 0 and up to 1, got"):
            Tuning(layer_decay=decay)


def test_patterns_choose_in_their_order() -> None:
    owners = {1: ["a.x", "b.x"], 2: ["b.y"], 3: ["c"]}
    assert choose(owners, ["b", "c"], "o") == {1: "b", 2: "b", 3: "c"}
    assert choose(owners, ["y", "b"], "o") == {1: "b", 2: "y"}


def test_frozen_wins_over_adapters_and_rates() -> None:
    model = build("tpainn")
    tuning = Tuning(freeze=[r"interactions\.0"], lora=Lora(2, tune=["embedding"]), layer_decay=0.5)
    tuning.prepare(model)
    names = tuned(model)
    assert {n for n in names if not n.endswith(("lora_up", "lora_down"))} == {
        "representation.embedding.weight"
    }
    assert not [n for n in names if "interactions.0" in n]
    assert "representation.mixing.0.mu_channel_mix.weight.lora_up" in names
    factors = tuning.factors(model)
    owner = by_name(model)
    assert set(factors) == {owner[n] for n in names}
    assert factors[owner["representation.mixing.0.mu_channel_mix.weight.lora_up"]] == 0.25
    gradual = Gradual()
    gradual.prepare(model)
    waiting = gradual.waiting(model)
    assert {n for n in names if any(owner[n] is p for p in waiting)} == {
        n for n in names if n.startswith("representation.")
    }


def test_levels_with_nothing_to_tune_are_left_out() -> None:
    model = build("schnet")
    Tuning(freeze=["outnet", r"interactions\.0"]).prepare(model)
    gradual = Gradual()
    gradual.prepare(model)
    assert gradual.n_levels == 2
    assert {n for n in tuned(model) if by_name(model)[n] in set(gradual.waiting(model))} == {
        "representation.embedding.weight"
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "epoch"}, "by step or plateau, got 'epoch'"),
        ({"until": 0.0}, r"until above 0 and up to 1, got 0.0"),
        ({"until": 1.5}, r"until above 0 and up to 1, got 1.5"),
        ({"patience": 0}, "patience of 1 or more, got 0"),
    ],
)
def test_wrong_unfreezing_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TransferError, match=message):
        Gradual(**arguments)
