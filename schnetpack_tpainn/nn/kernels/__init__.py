"""Fused message kernels: one interface, one file per backend."""

import os
from functools import lru_cache
from importlib.util import find_spec

import torch

from schnetpack_tpainn.nn.kernels.base import Kernel

__all__ = ["MAX_FEATURES", "Kernel", "load_kernel"]

MAX_FEATURES = 512


def load_kernel(name: str, device: torch.device, required: bool) -> Kernel | None:
    """Give the kernel of a backend.

    Args:
        name: "numba" (CPU) or "triton" (CUDA, or any device in Triton's interpreter).
        device: where the tensors are.
        required: whether to raise an error where the kernel cannot run.

    Returns:
        The kernel, or None.

    Raises:
        RuntimeError: it is required, and cannot run on the device or is not installed.
    """
    reason = None
    if name == "numba" and device.type != "cpu":
        reason = f"it runs on the CPU, and the tensors are on {device}"
    elif name == "triton" and not _has_triton():
        reason = "triton 3.3 or newer is not installed"
    elif name == "triton" and device.type != "cuda" and not _interpreted():
        reason = f"it runs on a GPU, and the tensors are on {device}"
    if reason is None:
        return _kernel(name)
    if required:
        raise RuntimeError(f"backend {name!r}: {reason}; use backend='auto' or 'torch'")
    return None


def _has_triton() -> bool:
    if find_spec("triton") is None:
        return False
    import triton

    return tuple(int(x) for x in triton.__version__.split(".")[:2]) >= (3, 3)


def _interpreted() -> bool:
    """Tell whether Triton interprets kernels instead of compiling them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache
def _kernel(name: str) -> Kernel:
    if name == "numba":
        from schnetpack_tpainn.nn.kernels.numba_kernel import NumbaKernel

        return NumbaKernel()
    from schnetpack_tpainn.nn.kernels.triton_kernel import TritonKernel

    return TritonKernel()
