"""Energies and forces by MACE and NequIP beside TPaiNN, on the same structures.

The networks have published sizes and random weights: their time is a fair one, their accuracy is
not compared, and their outputs are not checked. They run as installed, without compilation.

MACE needs another e3nn than TPaiNN. So each package lies in a folder of its own, made by
``pip install --target`` beside the torch of this environment, and runs in a process of its own,
which this module is as a script: it evaluates once for every line it reads, and prints the seconds.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ase import Atoms

from benchmarks.structures import CUTOFF, structure
from benchmarks.timing import Settings, Work, clocked, time_sound

__all__ = ["PACKAGES", "SIZES", "run"]

SIZES = (21, 192)
PACKAGES = {
    "MACE": "mace-torch==0.3.16 e3nn==0.4.4 configargparse gitdb GitPython h5py lmdb orjson pandas "
    "prettytable python-dateutil python-hostlist six smmap wcwidth",
    "NequIP": "nequip==0.19.1 lightning lmdb",
}
ELEMENTS = {"H": 1, "C": 6, "O": 8}


def mace(atoms: Atoms, device: str) -> Callable[[], Any]:
    """MACE as large as its "medium" models: 128x0e + 128x1o, two layers, correlation 3."""
    import numpy as np
    import torch
    from mace import data, modules, tools
    from mace.tools import torch_geometric

    # after MACE, which lets torch read the constants of this e3nn
    from e3nn import o3  # isort: skip

    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(ELEMENTS),
        hidden_irreps=o3.Irreps("128x0e + 128x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(ELEMENTS)),
        avg_num_neighbors=50.0,
        atomic_numbers=list(ELEMENTS.values()),
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    table = tools.AtomicNumberTable(list(ELEMENTS.values()))
    graph = data.AtomicData.from_config(data.config_from_atoms(atoms), table, cutoff=CUTOFF)
    loader = torch_geometric.dataloader.DataLoader([graph], batch_size=1)
    inputs = next(iter(loader)).to(device).to_dict()
    model = model.to(device).eval()
    return lambda: model(dict(inputs))


def nequip(atoms: Atoms, device: str) -> Callable[[], Any]:
    """NequIP with four layers of 64 features up to l = 2."""
    import torch
    from nequip.data import compute_neighborlist_, from_ase
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    model = NequIPGNNModel(
        seed=0,
        model_dtype="float32",
        r_max=CUTOFF,
        type_names=list(ELEMENTS),
        num_layers=4,
        l_max=2,
        parity=False,
        num_features=64,
        avg_num_neighbors=50.0,
    )
    graph = compute_neighborlist_(from_ase(atoms), CUTOFF)
    inputs = {
        key: x.to(device) if torch.is_tensor(x) else x
        for key, x in ChemicalSpeciesToAtomTypeMapper(list(ELEMENTS))(graph).items()
    }
    model = model.to(device).eval()
    return lambda: model(dict(inputs))


NETWORKS = {"MACE": mace, "NequIP": nequip}


def installed(name: str, folder: Path) -> Path:
    """Install a package, unless it is there.

    Args:
        name: out of ``PACKAGES``.
        folder: where packages lie.

    Returns:
        The package's folder.
    """
    target = folder.resolve() / name
    if not target.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*command, "--target", target, *PACKAGES[name].split()], check=True)
    return target


def start(name: str, atoms: int, settings: Settings) -> Work:
    """Start the process of a package and make its evaluation a work.

    Args:
        name: out of ``PACKAGES``.
        atoms: size of the structure.
        settings: how to measure.

    Returns:
        The work.

    Raises:
        RuntimeError: the process ended.
    """
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(installed(name, settings.peers)), str(root)])
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers", name, str(atoms), settings.device],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(settings.threads)},
    )

    def work() -> float:
        process.stdin.write("\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{name}: the process ended with status {process.wait()}")
        return float(answer)

    return work


def run(atoms: int, settings: Settings) -> dict[str, Any]:
    """Check our model, then let all take turns.

    Args:
        atoms: one of ``SIZES``.
        settings: how to measure; without ``peers`` the row is left out.

    Returns:
        ``models``: model -> what was found, or ``note``.
    """
    from benchmarks import energy, models  # e3nn of this environment, so not in the processes

    if settings.peers is None:
        return {"note": "not run: give --peers FOLDER, where MACE and NequIP are or get installed"}
    found: dict[str, dict[str, Any]] = {}
    for name in (models.STOCK, *settings.variants):
        model = models.potential(name).to(settings.device)
        found[name] = energy.check(model, atoms, settings.device)
        found[name]["backend"] = models.backend(model)
    others = {}
    for name in PACKAGES:
        try:
            others[name] = start(name, atoms, settings)
            others[name]()
            found[name] = {"correct": True}
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            found[name] = {"note": f"not run: {error}"}

    def works(names: list[str]) -> dict[str, Work]:
        own = [name for name in names if name not in others]
        return energy.works(own, atoms, settings.device) | {
            name: others[name] for name in names if name in others
        }

    return time_sound(found, works, settings, models.STOCK)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("atoms", type=int)
    parser.add_argument("device")
    given = parser.parse_args()
    answers = sys.stdout
    with redirect_stdout(sys.stderr):  # packages greet
        evaluate = clocked(NETWORKS[given.name](structure(given.atoms), given.device), given.device)
        for _ in sys.stdin:
            print(evaluate(), file=answers, flush=True)
