"""TPaiNN beside stock PaiNN: time per call, same weights, outputs compared, in one process.

    python benchmarks/representation.py --threads 1

Each figure is the median over repeats in which the two models take turns; quote the ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import schnetpack as spk
import torch
from ase import Atoms
from ase.build import bulk, molecule
from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances
from schnetpack.model import NeuralNetworkPotential
from schnetpack.representation import PaiNN

from schnetpack_tpainn.representation import TPaiNN
from schnetpack_tpainn.testing import batch

CUTOFF = 5.0


def potential(representation: torch.nn.Module) -> NeuralNetworkPotential:
    """Energies and forces on top of a representation."""
    torch.manual_seed(1)
    head = Atomwise(n_in=representation.n_atom_basis, output_key="energy")
    return NeuralNetworkPotential(
        representation, input_modules=[PairwiseDistances()], output_modules=[head, Forces()]
    )


def models() -> dict[str, NeuralNetworkPotential]:
    """Stock PaiNN and ours with its weights."""
    torch.manual_seed(0)
    basis = spk.nn.GaussianRBF(n_rbf=20, cutoff=CUTOFF)
    stock = PaiNN(128, 3, basis, spk.nn.CosineCutoff(CUTOFF))
    ours = TPaiNN.from_painn(stock)
    return {"PaiNN": potential(stock), "TPaiNN": potential(ours)}


def systems() -> dict[str, list[Atoms]]:
    """Structures to compute."""
    rng = np.random.default_rng(0)

    def rattled(atoms: Atoms) -> Atoms:
        copy = atoms.copy()
        copy.positions += rng.normal(scale=0.05, size=copy.positions.shape)
        return copy

    ethanol = molecule("CH3CH2OH")
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    return {
        "1 ethanol": [rattled(ethanol)],
        "100 ethanol": [rattled(ethanol) for _ in range(100)],
        "NaCl, 216 atoms": [rattled(crystal * (3, 3, 3))],
    }


def evaluate(model: NeuralNetworkPotential, inputs: dict[str, torch.Tensor]) -> dict:
    """Energy and forces."""
    return model(dict(inputs))


def train(model: NeuralNetworkPotential, inputs: dict[str, torch.Tensor]) -> dict:
    """Energy, forces and the gradient of a loss of both."""
    results = model(dict(inputs))
    (results["energy"].square().mean() + results["forces"].square().mean()).backward()
    model.zero_grad()
    return results


def compare(
    task: Callable, pair: dict[str, NeuralNetworkPotential], inputs: dict, seconds: float
) -> dict[str, float]:
    """Median time of each model in ms, taking turns for so many seconds."""
    times: dict[str, list[float]] = {name: [] for name in pair}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["TPaiNN"]) < 4:
        for name, model in pair.items():
            start = time.perf_counter()
            task(model, inputs)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--seconds", type=float, default=10.0, help="time per row")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    pair = models()
    print("| work | PaiNN (ms) | TPaiNN (ms) | ratio | energy, rel. | forces, rel. |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, structures in systems().items():
        inputs = batch(structures, CUTOFF, torch.float32)
        stock, ours = (evaluate(model, inputs) for model in pair.values())
        gap = [
            ((stock[k] - ours[k]).abs().max() / stock[k].abs().max()).item()
            for k in ("energy", "forces")
        ]
        for task in (evaluate, train):
            t = compare(task, pair, inputs, settings.seconds)
            ratio = t["PaiNN"] / t["TPaiNN"]
            print(
                f"| {task.__name__}, {name} | {t['PaiNN']:.1f} | {t['TPaiNN']:.1f} | {ratio:.2f} "
                f"| {gap[0]:.1e} | {gap[1]:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
