"""TPaiNN on the fused kernel is TPaiNN in plain torch, in every derivative."""

import pytest
import schnetpack.nn as snn
import torch
from fused_models import (
    CUTOFF,
    OPTIONS,
    TOLERANCE,
    assert_close,
    batch,
    make,
    potential,
    results,
    structures,
)
from schnetpack import properties
from schnetpack.representation import PaiNN

from schnetpack_tpainn import testing
from schnetpack_tpainn.representation import TPaiNN


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


def test_tangents_that_are_no_differences_of_positions_give_nan():
    """The kernels' second derivatives hold for antisymmetric tangents only."""
    model = make()[0].double().train()
    inputs = batch(torch.float64)
    i, j = inputs[properties.idx_i], inputs[properties.idx_j]
    r = inputs[properties.R][j] - inputs[properties.R][i] + inputs[properties.offsets]
    inputs[properties.Rij] = r.requires_grad_()
    features = model(inputs)["scalar_representation"].sum()
    (gradient,) = torch.autograd.grad(features, r, create_graph=True)
    weights = list(model.filter_net.parameters())
    odd = torch.autograd.grad((gradient * r.detach()).sum(), weights, retain_graph=True)
    assert all(w.isfinite().all() for w in odd)
    uneven = torch.autograd.grad(gradient[0].sum(), weights)
    assert all(w.isnan().any() for w in uneven)


def test_agrees_with_stock_within_the_stated_bounds():
    torch.manual_seed(0)
    painn = PaiNN(128, 3, snn.GaussianRBF(20, 5.0), snn.CosineCutoff(5.0))
    inputs = testing.batch(structures(), 5.0, torch.float32)
    models = [testing.potential(m).float().eval() for m in (TPaiNN.from_painn(painn), painn)]
    got, expected = (m(dict(inputs)) for m in models)
    assert models[0].representation.backend_used == "numba"
    assert_close({"e": got["energy"]}, {"e": expected["energy"]}, 1e-6)
    assert_close({"f": got["forces"]}, {"f": expected["forces"]}, 1e-5)


def test_a_third_derivative_is_refused():
    model = potential(make()[0], torch.float64, True)
    inputs = batch(torch.float64)
    forces = model(inputs)["forces"]
    weight = model.representation.filter_net.weight
    (gradient,) = torch.autograd.grad(forces.square().sum(), weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='torch'"):
        gradient.square().sum().backward()
