"""A TPaiNN on the fused kernel and in plain torch, and what both compute."""

import copy

import numpy as np
import schnetpack.nn as snn
import torch
from schnetpack import properties

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
