"""Low-rank adapters: rank, scale, and the layers that get one."""

from typing import Any

import pytest
import torch

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.lora import Lora, merged, merged_state
from tests.fits import build

LAYER = "representation.mixing.0.mu_channel_mix"


def adapters(model: Any) -> dict[str, tuple[int, ...]]:
    """Layer -> shapes of its adapter."""
    names = dict(model.named_parameters())
    return {
        n.removesuffix(".parametrizations.weight.0.up"): (*p.shape, *names[n[:-2] + "down"].shape)
        for n, p in names.items()
        if n.endswith(".up")
    }


def test_every_dense_layer_has_an_adapter_of_the_rank_and_nothing_else_is_tuned() -> None:
    model = build("tpainn")
    dense = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    Lora(rank=3).attach(model)
    found = adapters(model)
    assert found.keys() == dense.keys()
    assert found[LAYER] == (16, 3, 3, 8)
    assert len([p for p in model.parameters() if p.requires_grad]) == 2 * len(dense)


def test_only_the_chosen_layers_have_one() -> None:
    model = build("tpainn")
    Lora(layers=["mixing", "filter_net"]).attach(model)
    assert len(adapters(model)) == 7
    assert all("mixing" in name or "filter_net" in name for name in adapters(model))


def test_a_weight_that_is_tuned_whole_has_none() -> None:
    model = build("tpainn")
    Lora(tune=["outnet", "embedding"]).attach(model)
    names = {n for n, p in model.named_parameters() if p.requires_grad and "outnet" in n}
    assert names == {f"output_modules.0.outnet.{k}.{w}" for k in (0, 1) for w in ("weight", "bias")}
    assert model.representation.embedding.weight.requires_grad
    with pytest.raises(TransferError, match="expected a layer to adapt, got none of"):
        Lora(layers=["outnet"], tune=["outnet"]).attach(build("tpainn"))


@pytest.mark.parametrize(("alpha", "factor"), [(None, 1.0), (4.0, 1.0), (6.0, 1.5)])
def test_alpha_scales_the_correction(alpha: float | None, factor: float) -> None:
    model = build("tpainn")
    before = model.get_submodule(LAYER).weight.detach().clone()
    Lora(rank=4, alpha=alpha, layers=[LAYER]).attach(model)
    layer: Any = model.get_submodule(LAYER)
    adapter = layer.parametrizations.weight[0]
    assert torch.equal(layer.weight, before)
    torch.nn.init.normal_(adapter.up)
    expected = before + factor * adapter.up @ adapter.down
    torch.testing.assert_close(layer.weight, expected)
    torch.testing.assert_close(merged(model).get_submodule(LAYER).weight, expected)
    name = f"{LAYER}.weight"
    torch.testing.assert_close(merged_state(model.state_dict())[name], expected)
    # an assignment, as the alignment's to the head, keeps the adapter
    with torch.no_grad():
        layer.weight *= 2.0
    torch.testing.assert_close(layer.weight, 2.0 * expected)


def test_shared_layers_share_their_adapter() -> None:
    model: Any = build("tpainn", shared_interactions=True)
    Lora(rank=2).attach(model)
    first, second = (m.mu_channel_mix for m in model.representation.mixing)
    assert first is second
    assert len(first.parametrizations.weight) == 1
    plain: Any = merged(model)
    assert plain.representation.mixing[0] is plain.representation.mixing[1]
    assert plain.state_dict().keys() == merged_state(model.state_dict()).keys()


def test_a_model_without_adapters_is_its_own_merger() -> None:
    model = build("tpainn")
    assert merged(model) is model
    state = model.state_dict()
    assert merged_state(state) == dict(state)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(TransferError, match=r"transfer.lora.rank of 1 or more, got 0"):
        Lora(rank=0)
    with pytest.raises(TransferError, match=r"transfer.lora.alpha above 0, got 0"):
        Lora(alpha=0)
