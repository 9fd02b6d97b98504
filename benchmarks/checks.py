"""Whether a model computes what the stock one does; nothing is timed that does not."""

import torch
from schnetpack import properties
from schnetpack.model import NeuralNetworkPotential

__all__ = [
    "TOLERANCES",
    "deviation",
    "errors",
    "gradient_errors",
    "gradients",
    "outputs",
    "within",
]

Tensors = dict[str, torch.Tensor]

# Largest deviations from the stock model, relative to its largest value. In dynamics the stock
# calculator adds up energies in float32, and trajectories part ways.
TOLERANCES = {
    torch.float32: {
        "energy": 1e-6,
        "forces": 1e-5,
        "gradients": 1e-4,
        "md_energy": 1e-5,
        "md_forces": 1e-4,
    },
    torch.float64: {"energy": 1e-10, "forces": 1e-10, "gradients": 1e-10},
}


def outputs(model: NeuralNetworkPotential, inputs: Tensors, repeats: int = 1) -> Tensors:
    """Energy and forces, to compare with those of another model.

    Every atom counts as a molecule of its own, for the energies to be added up in float64 here:
    float32 sums over thousands of atoms differ by more than the models do.

    Args:
        model: a potential of :func:`benchmarks.models.potential`.
        inputs: SchNetPack batch.
        repeats: give the outputs of a box that holds this one so many times.

    Returns:
        ``energy`` () in float64 and ``forces`` (repeats * N, 3).
    """
    atoms = torch.arange(len(inputs[properties.Z]), device=inputs[properties.Z].device)
    single = {properties.idx_m: atoms, properties.n_atoms: torch.ones_like(atoms)}
    results = model({**inputs, **single})
    return {
        "energy": repeats * results["energy"].detach().double().sum(),
        "forces": results["forces"].detach().repeat(repeats, 1),
    }


def deviation(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected value; infinite where something is no number.

    Args:
        got: values.
        expected: values of the same shape.

    Returns:
        A number without unit.
    """
    scale = expected.double().abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    worst = ((got.double() - expected.double()).abs().max() / scale).item()
    return worst if worst == worst else float("inf")  # NaN


def errors(got: Tensors, expected: Tensors) -> dict[str, float]:
    """Deviation of each output.

    Args:
        got: outputs of one model.
        expected: outputs of the stock model.

    Returns:
        Output -> deviation.
    """
    return {key: deviation(got[key], value) for key, value in expected.items()}


def gradients(model: torch.nn.Module) -> Tensors:
    """Gradients of all parameters, zero where a parameter has none.

    Args:
        model: a model after ``backward()``.

    Returns:
        Parameter -> gradient.
    """
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def gradient_errors(got: Tensors, expected: Tensors) -> dict[str, float]:
    """Worst deviation of a parameter's gradient, relative to its own largest entry.

    Args:
        got: gradients of one model.
        expected: gradients of the stock model, whose parameters have the same names.

    Returns:
        ``gradients`` -> deviation.
    """
    return {"gradients": max(deviation(got[name], value) for name, value in expected.items())}


def within(found: dict[str, float], dtype: torch.dtype) -> bool:
    """Whether deviations are small enough.

    Args:
        found: output -> deviation.
        dtype: precision the model ran in.

    Returns:
        True if no tolerance is exceeded.
    """
    return all(value <= TOLERANCES[dtype][key] for key, value in found.items())
