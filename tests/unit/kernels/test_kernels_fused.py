"""TPaiNN on the fused kernel is TPaiNN in plain torch, in every derivative."""

import copy
import pickle

import numpy as np
import pytest
import schnetpack.nn as snn
import torch
from schnetpack import properties
from schnetpack.representation import PaiNN

from schnetpack_tpainn import testing
from schnetpack_tpainn.representation import TPaiNN

CUTOFF = 4.0
OPTIONS = {
    "default": {},
    "shared filters": {"shared_filters": True},
    "shared interactions": {"shared_interactions": True},
    "epsilon": {"epsilon": 1e-3},
}
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-7}


def make(n=16, layers=3, **options):
    """The same TPaiNN on the fused kernel and in plain torch, no parameter zero."""
    torch.manual_seed(0)
    radial = {"radial_basis": snn.GaussianRBF(8, CUTOFF), "cutoff_fn": snn.CosineCutoff(CUTOFF)}
    model = TPaiNN(n, layers, backend="numba", **radial, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    plain = copy.deepcopy(model)
    plain.backend = "torch"
    return model, plain


def structures():
    rng = np.random.default_rng(0)
    found = [atoms.copy() for atoms in testing.systems()]
    for atoms in found:
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    return found


def batch(dtype):
    return testing.batch(structures(), CUTOFF, dtype)


def potential(representation, dtype, training):
    return testing.potential(representation).to(dtype).train(training)


def assert_close(got, expected, tolerance):
    for key, value in expected.items():
        scale = value.abs().max().clamp(min=1e-3)
        second = 30 if key.endswith("gradient") else 1  # their rounding in float32 is larger
        assert got[key].dtype == value.dtype
        assert (got[key] - value).abs().max() / scale <= second * tolerance, key


def results(model, inputs):
    """Energy, forces, features, and the gradients of a loss of energies and forces."""
    model.zero_grad()
    inputs = {key: x.clone() for key, x in inputs.items()}
    outputs = model(inputs)
    found = {key: outputs[key] for key in ("energy", "forces")}
    found |= {key: inputs[key] for key in ("scalar_representation", "vector_representation")}
    loss = found["energy"].square().mean() + found["forces"].square().mean()
    if model.training:
        loss = loss + found["vector_representation"].square().mean()
        loss.backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found["weights' gradient"] = torch.cat(gradients)
        found["positions' gradient"] = inputs[properties.R].grad
    return {key: x.detach() for key, x in found.items()}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_is_the_plain_model(options, dtype, training):
    fused, plain = (potential(m, dtype, training) for m in make(**options))
    got, expected = (results(m, batch(dtype)) for m in (fused, plain))
    assert (fused.representation.backend_used, plain.representation.backend_used) == (
        "numba",
        "torch",
    )
    assert got.keys() == expected.keys()
    assert_close(got, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_first_and_second_derivatives(training):
    """Against finite differences; with respect to positions, pairs are symmetric."""
    model = make(n=3, layers=2)[0].double().train(training)
    inputs = testing.batch(structures()[:1], CUTOFF, torch.float64)
    idx_i, idx_j = inputs[properties.idx_i], inputs[properties.idx_j]
    offsets = inputs[properties.offsets]

    def features(positions, weight):
        given = dict(inputs)
        given[properties.Rij] = positions[idx_j] - positions[idx_i] + offsets
        with torch.no_grad():
            kept = model.embedding.weight.clone()
        outputs = torch.func.functional_call(model, {"embedding.weight": kept * weight}, (given,))
        return outputs["scalar_representation"].sum(0), outputs["vector_representation"].sum(0)

    given = (inputs[properties.R].requires_grad_(), torch.ones(1, 3).double().requires_grad_())
    assert torch.autograd.gradcheck(features, given, atol=1e-7)
    assert torch.autograd.gradgradcheck(features, given, atol=1e-6)


def test_evaluation_mode_gives_any_gradient_that_is_asked_for():
    found = []
    for model in make():
        model = model.double().eval()
        inputs = batch(torch.float64)
        given = dict(inputs)
        positions = inputs[properties.R].requires_grad_()
        i, j = inputs[properties.idx_i], inputs[properties.idx_j]
        given[properties.Rij] = positions[j] - positions[i] + inputs[properties.offsets]
        energy = model(given)["scalar_representation"].square().sum()
        (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
        (curvature,) = torch.autograd.grad(gradient.square().sum(), positions, retain_graph=True)
        energy.backward(inputs=list(model.parameters()))
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append({"gradient": gradient, "curvature": curvature} | grads)
    assert len(found[0]) > 30
    assert_close(*found, 1e-7)


def test_any_order_of_pairs_gives_the_same():
    model = potential(make()[0], torch.float64, False)
    inputs = batch(torch.float64)
    shuffled = dict(inputs)
    order = torch.randperm(
        len(inputs[properties.idx_i]), generator=torch.Generator().manual_seed(0)
    )
    for key in (properties.idx_i, properties.idx_j, properties.offsets):
        shuffled[key] = inputs[key][order]
    expected, got = results(model, inputs), results(model, shuffled)
    assert model.representation.backend_used == "numba"
    assert_close(got, expected, 1e-12)


def test_threads_share_the_work(monkeypatch):
    from schnetpack_tpainn.nn.kernels import numba_kernel

    model = potential(make()[0], torch.float64, True)
    n_threads = torch.get_num_threads()
    found = []
    try:
        for n, worth in ((1, 1000), (3, 1)):
            monkeypatch.setattr(numba_kernel, "WORTH_A_THREAD", worth)
            torch.set_num_threads(n)
            found.append(results(model, batch(torch.float64)))
    finally:
        torch.set_num_threads(n_threads)
    assert_close(found[1], found[0], 1e-10)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_pair_vectors_may_be_leaves(training):
    found = []
    for model in make():
        model = model.double().train(training)
        inputs = batch(torch.float64)
        i, j = inputs[properties.idx_i], inputs[properties.idx_j]
        r = inputs[properties.R][j] - inputs[properties.R][i] + inputs[properties.offsets]
        inputs[properties.Rij] = r.requires_grad_()
        outputs = model(inputs)["scalar_representation"].sum()
        found.append({"gradient": torch.autograd.grad(outputs, r)[0]})
    assert_close(*found, 1e-7)


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


def test_agrees_with_stock_within_the_stated_bounds():
    torch.manual_seed(0)
    painn = PaiNN(128, 3, snn.GaussianRBF(20, 5.0), snn.CosineCutoff(5.0))
    inputs = testing.batch(structures(), 5.0, torch.float32)
    models = [testing.potential(m).float().eval() for m in (TPaiNN.from_painn(painn), painn)]
    got, expected = (m(dict(inputs)) for m in models)
    assert models[0].representation.backend_used == "numba"
    assert_close({"e": got["energy"]}, {"e": expected["energy"]}, 1e-6)
    assert_close({"f": got["forces"]}, {"f": expected["forces"]}, 1e-5)


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


def test_a_third_derivative_is_refused():
    model = potential(make()[0], torch.float64, True)
    inputs = batch(torch.float64)
    forces = model(inputs)["forces"]
    weight = model.representation.filter_net.weight
    (gradient,) = torch.autograd.grad(forces.square().sum(), weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='torch'"):
        gradient.square().sum().backward()
