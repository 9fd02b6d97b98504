"""The kernel is chosen, and left, where it should be."""

import copy
import pickle

import pytest
import schnetpack.nn as snn
import torch
from fused_models import CUTOFF, assert_close, batch, make, potential, results
from schnetpack import properties

from schnetpack_tpainn.representation import TPaiNN


@pytest.mark.parametrize("spoil", ["half list", "coincident", "nan", "no pairs"])
def test_what_the_kernel_cannot_compute_plain_torch_does(spoil, caplog):
    fused, plain = (potential(m, torch.float32, False) for m in make())
    inputs = batch(torch.float32)
    keep = inputs[properties.idx_i] < inputs[properties.idx_j]
    if spoil == "no pairs":
        keep[:] = False
    if spoil in ("half list", "no pairs"):
        for key in (properties.idx_i, properties.idx_j, properties.offsets):
            inputs[key] = inputs[key][keep]
    else:
        new = inputs[properties.R][1] if spoil == "coincident" else torch.tensor(float("nan"))
        inputs[properties.R][0] = new
    got, expected = (results(m, inputs) for m in (fused, plain))
    assert fused.representation.backend_used == "torch"
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=0, atol=0, equal_nan=True)
    told = [r.message for r in caplog.records if "slower" in r.message]
    assert len(told) == (spoil != "no pairs")


@pytest.mark.parametrize("how", ["in place", "data", "load", "replace"])
def test_tables_follow_the_weights(how):
    model = potential(make()[0], torch.float64, False)
    before = results(model, batch(torch.float64))
    weight = model.representation.filter_net.weight
    if how == "in place":
        with torch.no_grad():
            weight *= 1.1
    elif how == "data":  # as moving averages of weights do, which no version counter shows
        weight.data.copy_(weight.data * 1.1)
    elif how == "load":
        state = model.state_dict()
        state["representation.filter_net.weight"] = weight.detach() * 1.1
        model.load_state_dict(state)
    else:
        model.representation.filter_net.weight = torch.nn.Parameter(weight.detach() * 1.1)
    plain = copy.deepcopy(model)
    plain.representation.backend = "torch"
    got, expected = (results(m, batch(torch.float64)) for m in (model, plain))
    assert_close(got, expected, 1e-7)
    assert (got["energy"] - before["energy"]).abs().max() > 1e-4


def test_changed_blocks_run_in_plain_torch(caplog):
    run = potential(make()[0], torch.float32, False)
    model = run.representation
    calls = []
    handle = model.mixing[1].register_forward_hook(lambda *_: calls.append(1))
    results(run, batch(torch.float32))
    assert (calls, model.backend_used) == ([1], "torch")
    assert "hooks" in caplog.text
    handle.remove()
    results(run, batch(torch.float32))
    assert model.backend_used == "numba"
    model.mixing[0].mu_channel_mix = torch.nn.Linear(16, 32, bias=False)
    results(run, batch(torch.float32))
    assert model.backend_used == "torch"


def test_mixed_precision_runs_in_plain_torch():
    model = potential(make()[0], torch.float32, False)
    with torch.autocast("cpu", torch.bfloat16):
        results(model, batch(torch.float32))
    assert model.representation.backend_used == "torch"


def test_automatic_choice():
    model = potential(make()[0], torch.float32, False)
    model.representation.backend = "auto"
    results(model, batch(torch.float32))
    assert model.representation.backend_used == "numba"
    model.double()
    results(model, batch(torch.float64))
    assert model.representation.backend_used == "torch"


def test_copies_and_pickles_carry_no_tables():
    model = potential(make()[0], torch.float32, False)
    size = len(pickle.dumps(model))
    expected = results(model, batch(torch.float32))
    assert len(pickle.dumps(model)) < size + 100
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert_close(results(other, batch(torch.float32)), expected, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cuda"}, "expected one of"),
        ({"backend": "numba", "form": "e3nn"}, "form is 'e3nn'"),
        ({"backend": "numba", "activation": torch.tanh}, "activation"),
        ({"backend": "numba", "n_atom_basis": 640}, "above 512"),
        ({"backend": "triton", "hidden_irreps": "8x0e + 8x1o + 4x2e"}, "form"),
    ],
)
def test_a_backend_that_cannot_be_is_refused(options, message):
    radial = {"radial_basis": snn.GaussianRBF(8, CUTOFF), "cutoff_fn": snn.CosineCutoff(CUTOFF)}
    with pytest.raises(ValueError, match=message):
        TPaiNN(**{"n_atom_basis": 8, **radial, **options})


def test_triton_needs_a_gpu():
    model = potential(make()[0], torch.float32, False)
    model.representation.backend = "triton"
    with pytest.raises(RuntimeError, match="runs on a GPU"):
        model(batch(torch.float32))
