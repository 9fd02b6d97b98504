"""Peak memory that one evaluation of energy and forces adds, in a process of its own.

The process builds the model and the batch, evaluates aspirin once (what a first call loads and
compiles is not part of it), and then measures: on the CPU the peak of the resident set, which
Linux resets on request, on the GPU the peak of torch's allocator.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import psutil
import torch

from benchmarks.models import potential
from benchmarks.structures import CUTOFF, structure
from schnetpack_tpainn.testing import batch

__all__ = ["available", "peak"]

MIB = 2**20


def peak(model: str, atoms: int, device: str) -> float:
    """Measure in a fresh process, which inherits this one's allocator and threads.

    Args:
        model: one of :data:`benchmarks.models.VARIANTS`.
        atoms: size of the structure.
        device: ``cpu`` or ``cuda``.

    Returns:
        Memory in MiB above what was held before the evaluation.

    Raises:
        MemoryError: the evaluation failed, or was killed.
    """
    command = [sys.executable, "-m", "benchmarks.memory", model, str(atoms), device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MemoryError(f"status {done.returncode}: {done.stderr.strip()[-300:]}")
    return float(done.stdout.split()[-1])


def available(device: str) -> float:
    """Memory free for an evaluation in MiB.

    Args:
        device: ``cpu`` or ``cuda``.

    Returns:
        What the system, or the GPU's driver, reports.
    """
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    return free / MIB


def _resident(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process in MiB."""
    status = Path("/proc/self/status").read_text().split(f"{field}:")[1]
    return int(status.split()[0]) / 1024


def _added(model: str, atoms: int, device: str) -> float:
    network = potential(model).to(device)
    inputs, small = (
        {key: x.to(device) for key, x in batch([structure(n)], CUTOFF, torch.float32).items()}
        for n in (atoms, 21)
    )
    network(small)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        network(inputs)
        return (torch.cuda.max_memory_allocated() - before) / MIB
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM becomes VmRSS
    before = _resident("VmRSS")
    network(inputs)
    return _resident("VmHWM") - before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("atoms", type=int)
    parser.add_argument("device")
    print(_added(**vars(parser.parse_args())))
