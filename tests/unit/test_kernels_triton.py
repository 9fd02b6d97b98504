"""The Triton kernel: interpreted, on a GPU, and compiled for one that need not be there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from schnetpack_tpainn.nn.kernels import (  # noqa: E402
    triton_loops,
    triton_pairs,
    triton_tangents,
    triton_update,
)
from schnetpack_tpainn.nn.kernels.triton_kernel import tiling  # noqa: E402

HOPPER = GPUTarget("cuda", 90, 32)
LOOPS = [
    getattr(module, name) for module in (triton_loops, triton_tangents) for name in module.__all__
]
UPDATES = [getattr(triton_update, name) for name in triton_update.__all__]


ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"TRITON_INTERPRET": "1"}, pytest.param({}, marks=ON_GPU)])
def test_is_the_numba_kernel(settings):
    child = Path(__file__).with_name("triton_checks.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", child],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def compiled(kernel, n=128):
    """A kernel compiled for single precision and n features."""
    settings = tiling(n, itemsize=4)
    warps = settings.pop("num_warps")
    constants = settings | {"with_y": True, "closest": 0.2, "at_once": 128}
    types = {"epsilon": "fp32", "grid": "*fp64", "balance": "*fp64"}
    types |= dict.fromkeys(("starts", "idx_i", "idx_j"), "*i64")
    types |= dict.fromkeys(("n_atoms", "n_pairs", "n_intervals"), "i32")
    types |= dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*fp32") for name in kernel.arg_names}
    aligned = {
        (k,): [["tt.divisibility", 16]] for k, t in enumerate(signature.values()) if "*" in t
    }
    constants = {name: value for name, value in constants.items() if name in signature}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=HOPPER, options={"num_warps": warps})


@pytest.mark.parametrize(
    "kernel", [*LOOPS, *UPDATES, triton_pairs.inspect], ids=lambda k: k.__name__
)
def test_compiles_without_spilling_registers(kernel, tmp_path):
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled(kernel).asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    command = [tool, "--dump-resource-usage", binary]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "STACK:0 " in usage
    assert "LOCAL:0 " in usage


@pytest.mark.parametrize("kernel", LOOPS + UPDATES, ids=lambda k: k.__name__)
def test_each_lane_reads_four_features_at_once(kernel):
    assert "ld.global.v4" in compiled(kernel).asm["ptx"]
