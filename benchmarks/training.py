"""One optimiser step on energies and forces of a batch of ethanol molecules."""

from typing import Any

import torch
from schnetpack.model import NeuralNetworkPotential

from benchmarks.checks import Tensors, errors, gradient_errors, gradients, within
from benchmarks.models import STOCK, backend, potential
from benchmarks.structures import CUTOFF, ethanol
from benchmarks.timing import Settings, Work, clocked, time_sound
from schnetpack_tpainn.testing import batch

__all__ = ["BATCHES", "check", "inputs_of", "loss_of", "run", "works"]

BATCHES = (10, 100)
WEIGHTS = {"energy": 0.01, "forces": 0.99}
EXACT = 10  # molecules up to which float64 is checked too


def inputs_of(molecules: int, device: str, dtype: torch.dtype = torch.float32) -> Tensors:
    """A batch with random labels, under ``energy_label`` and ``forces_label``.

    Args:
        molecules: batch size.
        device: ``cpu`` or ``cuda``.
        dtype: precision.

    Returns:
        SchNetPack batch.
    """
    inputs = batch(ethanol(molecules), CUTOFF, dtype)
    generator = torch.Generator().manual_seed(0)
    for key, shape in (("energy", (molecules,)), ("forces", inputs["_positions"].shape)):
        inputs[f"{key}_label"] = torch.randn(shape, generator=generator, dtype=torch.float64)
    return {
        key: x.to(device, dtype if x.is_floating_point() else None) for key, x in inputs.items()
    }


def loss_of(results: Tensors, inputs: Tensors) -> torch.Tensor:
    """0.01 times the mean squared error of the energies plus 0.99 times that of the forces.

    Args:
        results: of the model.
        inputs: with the labels.

    Returns:
        A scalar.
    """
    return sum(
        weight * (results[key] - inputs[f"{key}_label"]).square().mean()
        for key, weight in WEIGHTS.items()
    )


def check(model: NeuralNetworkPotential, molecules: int, device: str) -> dict[str, Any]:
    """Compare outputs and gradients of the loss with stock, in float32 and in float64.

    Args:
        model: a potential in float32; it is one afterwards too.
        molecules: batch size.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``errors`` (in float32), ``errors_float64`` for small batches, ``correct``.
    """
    report: dict[str, Any] = {"correct": True}
    for dtype in (torch.float64, torch.float32):
        if dtype == torch.float64 and molecules > EXACT:
            continue
        inputs = inputs_of(molecules, device, dtype)
        got, got_gradients = _step(model.to(dtype), inputs)
        expected, expected_gradients = _step(potential(STOCK).to(device, dtype), inputs)
        found = errors(got, expected) | gradient_errors(got_gradients, expected_gradients)
        report["errors" if dtype == torch.float32 else "errors_float64"] = found
        report["correct"] &= within(found, dtype)
    return report


def works(names: list[str], molecules: int, device: str) -> dict[str, Work]:
    """One AdamW step of each model, forward and backward.

    Args:
        names: of the models.
        molecules: batch size.
        device: ``cpu`` or ``cuda``.

    Returns:
        Model -> work.
    """
    inputs = inputs_of(molecules, device)

    def work(name: str) -> Work:
        model = potential(name).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            loss_of(model(dict(inputs)), inputs).backward()
            optimizer.step()

        return clocked(step, device)

    return {name: work(name) for name in names}


def run(molecules: int, settings: Settings) -> dict[str, Any]:
    """Check, then time.

    Args:
        molecules: batch size.
        settings: how to measure.

    Returns:
        ``models``: model -> what was found.
    """
    models = {}
    for name in (STOCK, *settings.variants):
        model = potential(name).to(settings.device)
        models[name] = check(model, molecules, settings.device) | {"backend": backend(model)}
    return time_sound(
        models, lambda names: works(names, molecules, settings.device), settings, STOCK
    )


def _step(model: NeuralNetworkPotential, inputs: Tensors) -> tuple[Tensors, Tensors]:
    """Energies and forces of all molecules, and the gradients of the loss."""
    model.train()
    model.zero_grad()
    results = model(dict(inputs))
    loss_of(results, inputs).backward()
    return {key: results[key].detach() for key in WEIGHTS}, gradients(model)
