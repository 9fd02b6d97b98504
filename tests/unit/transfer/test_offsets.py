"""Energy offsets through casts, scripts, checkpoints, model and data."""

import io
from types import SimpleNamespace

import pytest
import schnetpack.properties as properties
import torch
from schnetpack.transform import AddOffsets, RemoveOffsets
from torch import nn

from schnetpack_tpainn.errors import TPaiNNError
from schnetpack_tpainn.transfer.offsets import AddAtomicOffsets, get_offsets, set_offsets

EXACT = -13.605693122994
OFFSETS = torch.zeros(100, dtype=torch.float64)
OFFSETS[[1, 6, 8]] = torch.tensor([EXACT, -1036.2381234567, -2041.8407654321], dtype=torch.float64)


def batch(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Ethanol and an oxygen atom."""
    return {
        "energy": torch.tensor([0.25, -0.5], dtype=dtype),
        properties.Z: torch.tensor([6, 6, 8, 1, 1, 1, 1, 1, 1, 8]),
        properties.idx_m: torch.tensor([0] * 9 + [1]),
    }


def expected() -> list[float]:
    h, c, o = OFFSETS[[1, 6, 8]].tolist()
    return [0.25 + 2 * c + o + 6 * h, -0.5 + o]


@pytest.mark.parametrize("cast", [torch.float32, torch.float64])
def test_no_cast_costs_digits(cast: torch.dtype) -> None:
    layer = AddAtomicOffsets("energy")
    layer.set_offsets(OFFSETS)
    layer.to(torch.float64).to(torch.float32).to(cast)
    energy = layer(batch())["energy"]
    assert energy.dtype == torch.float64
    assert energy.tolist() == pytest.approx(expected(), abs=1e-9, rel=0)


def test_stock_offsets_do_lose_digits_when_cast() -> None:
    """The reason for a class of our own; when this fails, it can go."""
    stock = AddOffsets("energy", add_atomrefs=True, atomrefs=OFFSETS.clone()).to(torch.float32)
    energy = stock(batch(torch.float64))["energy"]
    assert abs(energy[0].item() - expected()[0]) > 1e-6


def test_scripts_and_pickles() -> None:
    layer = AddAtomicOffsets("energy")
    layer.set_offsets(OFFSETS)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(layer), buffer)
    buffer.seek(0)
    scripted = torch.jit.load(buffer)
    assert scripted(batch())["energy"].tolist() == pytest.approx(expected(), abs=1e-9, rel=0)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False).offsets(), layer.offsets())


def test_what_the_data_lose_the_model_adds() -> None:
    cleared = []
    remover = RemoveOffsets("energy", remove_mean=True)
    data = SimpleNamespace(
        train_transforms=[remover],
        val_transforms=[remover],
        test_transforms=[remover],
        clear_cache=lambda: cleared.append(True),
    )
    adder = AddAtomicOffsets("energy")
    model = nn.Sequential(adder)
    set_offsets(model, data, "energy", OFFSETS)
    sample = batch(torch.float64)
    one = {k: v[:1] if k == "energy" else v[:9] for k, v in sample.items()}
    one[properties.n_atoms] = torch.tensor([9])
    removed = remover({**one, "energy": one["energy"].clone()})
    assert removed["energy"].item() == pytest.approx(2 * 0.25 - expected()[0])
    assert adder(removed)["energy"].item() == pytest.approx(0.25, abs=1e-9)
    assert torch.allclose(get_offsets(model, "energy"), OFFSETS, rtol=0, atol=1e-10)
    assert cleared == [True]
    set_offsets(model, data, "energy", get_offsets(model, "energy"))  # another in the last digits
    set_offsets(model, data, "energy", get_offsets(model, "energy"))
    assert cleared == [True, True]  # nothing changed the last time


def test_missing_transforms() -> None:
    model = nn.Sequential(AddAtomicOffsets("energy"))
    with pytest.raises(TPaiNNError, match=r"expected one postprocessor .* got 0"):
        get_offsets(nn.Sequential(AddOffsets("energy", add_mean=True)), "energy")
    with pytest.raises(TPaiNNError, match="RemoveOffsets for 'energy'"):
        set_offsets(model, SimpleNamespace(train_transforms=[]), "energy", OFFSETS)
