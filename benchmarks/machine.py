"""What the figures were measured on."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

__all__ = ["describe"]

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "schnetpack", "numba", "triton", "ase", "vesin", "schnetpack-tpainn")


def describe() -> dict[str, str]:
    """Processor, cores, memory, versions, and the commit.

    Returns:
        Name -> value.
    """
    found = {
        "CPU": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "Python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(commit, cwd=ROOT, capture_output=True, text=True, check=False)
    return found | {"commit": done.stdout.strip() or "unknown"}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()
