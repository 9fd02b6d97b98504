"""Fixtures that more than one folder of tests uses."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig

os.environ.setdefault("OMP_NUM_THREADS", "1")


def potential_config(n_atom_basis: int = 8, cutoff: float = 4.0, n_rbf: int = 6) -> dict[str, Any]:
    """Hydra node of a tiny T-PaiNN potential."""
    return {
        "_target_": "schnetpack.model.NeuralNetworkPotential",
        "input_modules": [{"_target_": "schnetpack.atomistic.PairwiseDistances"}],
        "representation": {
            "_target_": "schnetpack_tpainn.representation.TPaiNN",
            "n_atom_basis": n_atom_basis,
            "n_interactions": 2,
            "radial_basis": {
                "_target_": "schnetpack.nn.radial.GaussianRBF",
                "n_rbf": n_rbf,
                "cutoff": cutoff,
            },
            "cutoff_fn": {"_target_": "schnetpack.nn.cutoff.CosineCutoff", "cutoff": cutoff},
        },
        "output_modules": [
            {
                "_target_": "schnetpack.atomistic.Atomwise",
                "n_in": n_atom_basis,
                "output_key": "energy",
            },
            {"_target_": "schnetpack.atomistic.Forces"},
        ],
        "postprocessors": [
            {
                "_target_": "schnetpack_tpainn.transfer.offsets.AddAtomicOffsets",
                "property": "energy",
            }
        ],
    }


@pytest.fixture(autouse=True)
def hydra_as_it_was() -> Iterator[None]:
    """Forget a composed config: other tests of the process ask Hydra for the start directory."""
    yield
    HydraConfig.instance().cfg = None


Spktrain = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def spktrain() -> Spktrain:
    """Run SchNetPack's `spktrain` in a process of its own, as a user does."""

    def run(cwd: Path, *overrides: str, check: bool = True) -> subprocess.CompletedProcess:
        command = [Path(sys.executable).with_name("spktrain"), *overrides, "print_config=false"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PWD": str(cwd)}
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"spktrain failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    return run
