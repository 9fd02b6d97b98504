"""Energy and forces of one structure: time, and the peak memory they add."""

from typing import Any

import torch
from schnetpack.model import NeuralNetworkPotential

from benchmarks.checks import Tensors, errors, outputs, within
from benchmarks.memory import available, peak
from benchmarks.models import STOCK, backend, potential
from benchmarks.structures import CUTOFF, WATER_BOX, repeats, structure
from benchmarks.timing import Settings, Work, clocked, time_sound
from schnetpack_tpainn.testing import batch

__all__ = ["SIZES", "check", "inputs_of", "reference", "run", "works"]

SIZES = (21, 192, 1536, 12288)
EXACT = 192  # atoms up to which float64 is checked too


def inputs_of(atoms: int, device: str, dtype: torch.dtype = torch.float32) -> Tensors:
    """The batch of one structure.

    Args:
        atoms: one of ``SIZES``.
        device: ``cpu`` or ``cuda``.
        dtype: precision.

    Returns:
        SchNetPack batch.
    """
    inputs = batch([structure(atoms)], CUTOFF, dtype)
    return {key: x.to(device) for key, x in inputs.items()}


def reference(atoms: int, device: str, dtype: torch.dtype = torch.float32) -> Tensors:
    """Outputs of the stock model; those of large boxes follow from the box they repeat.

    Args:
        atoms: one of ``SIZES``.
        device: ``cpu`` or ``cuda``.
        dtype: precision.

    Returns:
        See :func:`benchmarks.checks.outputs`.
    """
    stock = potential(STOCK).to(device, dtype)
    return outputs(stock, inputs_of(min(atoms, WATER_BOX), device, dtype), repeats(atoms))


def check(model: NeuralNetworkPotential, atoms: int, device: str) -> dict[str, Any]:
    """Compare a model with stock in float32 and, where that is cheap, in float64.

    Args:
        model: a potential in float32; it is one afterwards too.
        atoms: one of ``SIZES``.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``errors`` (in float32), ``errors_float64`` for small structures, ``correct``.
    """
    report: dict[str, Any] = {"correct": True}
    for dtype in (torch.float64, torch.float32):
        if dtype == torch.float64 and atoms > EXACT:
            continue
        got = outputs(model.to(dtype), inputs_of(atoms, device, dtype))
        found = errors(got, reference(atoms, device, dtype))
        report["errors" if dtype == torch.float32 else "errors_float64"] = found
        report["correct"] &= within(found, dtype)
    return report


def works(names: list[str], atoms: int, device: str) -> dict[str, Work]:
    """One evaluation of each model.

    Args:
        names: of the models.
        atoms: one of ``SIZES``.
        device: ``cpu`` or ``cuda``.

    Returns:
        Model -> work.
    """
    inputs = inputs_of(atoms, device)

    def work(name: str) -> Work:
        model = potential(name).to(device)
        return clocked(lambda: model(dict(inputs)), device)

    return {name: work(name) for name in names}


def run(atoms: int, settings: Settings) -> dict[str, Any]:
    """Measure memory, check, time.

    Args:
        atoms: one of ``SIZES``.
        settings: how to measure.

    Returns:
        ``models``: model -> what was found.
    """
    models = {name: _memory(name, atoms, settings.device) for name in (STOCK, *settings.variants)}
    for name, entry in models.items():
        if "note" not in entry:
            model = potential(name).to(settings.device)
            entry |= check(model, atoms, settings.device) | {"backend": backend(model)}
    for entry in models.values():
        if "memory_mib" in entry and "memory_mib" in models[STOCK]:
            entry["memory_ratio"] = models[STOCK]["memory_mib"] / max(entry["memory_mib"], 1.0)
    return time_sound(models, lambda names: works(names, atoms, settings.device), settings, STOCK)


def _memory(name: str, atoms: int, device: str) -> dict[str, Any]:
    """Peak memory in MiB, or a note that the structure does not fit."""
    if atoms > 1536:
        estimate, free = 8 * peak(name, atoms // 8, device), available(device)
        if estimate > 0.9 * free:
            need, have = (f"{mib / 1024:.0f} GiB" for mib in (estimate, free))
            return {"note": f"not run: needs about {need}, {have} are free"}
    return {"memory_mib": peak(name, atoms, device)}
