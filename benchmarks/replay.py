"""Does the repulsive wall survive autotuning? Bond and dimer scans with and without replay.

    make demo                                         # pretrains
    python benchmarks/replay.py runs/demo/pretrain    # half an hour on two cores

Autotunes on ethanol labels at 300 K alone, with and without replay, then scans a C-H and an O-H
bond and two approaching molecules with the models, MMFF94 and DFT at the level of the labels.
Finished runs and DFT points are not repeated.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.db import connect
from tqdm import tqdm

from schnetpack_tpainn.data.embedded import EmbeddedEthanol
from schnetpack_tpainn.data.pyscf import PySCF
from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.store import labelled, write_database
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.files import write_json
from schnetpack_tpainn.md import TPaiNNCalculator
from schnetpack_tpainn.study.comparison import read_run
from schnetpack_tpainn.study.jobs import Job, run_jobs

KEYS = ("energy_mae_mev", "forces_mae_mev_per_ang")
VARIANTS = {"without replay": (), "with replay": ("transfer/replay=frames",)}
RATIOS = np.linspace(0.6, 2.0, 141)  # of the equilibrium length
DISTANCES = np.linspace(1.5, 6.0, 181)  # Å
NOISE_EV = 0.01
REACH_EV = 3.0  # hot dynamics does not get further up; breaking a bond takes more
BOUND_EV = -0.5  # two ethanol molecules bind by a quarter of an eV at most


def bond(atom: int, hydrogen: int) -> Callable[[float], Atoms]:
    """Structures of ethanol with one hydrogen at a multiple of its bond's length."""

    def make(ratio: float) -> Atoms:
        atoms = embed_smiles("CCO")
        vector = atoms.positions[hydrogen] - atoms.positions[atom]
        atoms.positions[hydrogen] = atoms.positions[atom] + ratio * vector
        return atoms

    return make


def dimer(atom: int) -> Callable[[float], Atoms]:
    """Two molecules, one the other's image by inversion, that show each other the same atom."""

    def make(distance: float) -> Atoms:
        a = embed_smiles("CCO")
        outwards = a.positions[atom] - a.positions.mean(0)
        outwards /= np.linalg.norm(outwards)
        b = a.copy()
        b.positions = 2 * a.positions[atom] + distance * outwards - a.positions
        order = [*range(3), *range(9, 12), *range(3, 9), *range(12, 18)]  # RDKit's
        joined = (a + b)[order]
        joined.info["smiles"] = "CCO.CCO"
        return joined

    return make


# name -> structures, grid, where the wall begins, zero of the energy, DFT points
SCANS: dict[str, tuple[Callable[[float], Atoms], np.ndarray, float, float, list[float]]] = {
    "C-H bond": (bond(0, 3), RATIOS, 0.85, 1.0, [*np.linspace(0.6, 1.2, 7), 1.4, 1.6, 1.8, 2.0]),
    "O-H bond": (bond(2, 8), RATIOS, 0.85, 1.0, [*np.linspace(0.6, 1.2, 7), 1.4, 1.6, 1.8, 2.0]),
    "O...O": (dimer(2), DISTANCES, 2.4, 6.0, [1.5, 2.0, 2.5, 3.0, 3.5, 6.0]),
    "C...C": (dimer(0), DISTANCES, 2.7, 6.0, [1.5, 2.0, 2.5, 3.0, 3.5, 6.0]),
}


def labels_300k(path: Path) -> Path:
    """The shipped labels with a pool at 300 K alone; the test frames keep their temperatures."""
    if path.exists():
        return path
    whole = EmbeddedEthanol().make(path.with_name(f".{path.name}.all.db"))
    with connect(whole, use_lock_file=False) as db:
        rows = [r for r in db.select() if r.part == "test" or r.temperature_k == 300]
        metadata = db.metadata
    atomrefs = metadata.pop("atomrefs")
    frames = (
        labelled(r.toatoms(), r.data["energy"][0], r.data["forces"], **r.key_value_pairs)
        for r in rows
    )
    write_database(path, frames, metadata, atomrefs)
    whole.unlink()
    return path


def job(s: argparse.Namespace, variant: str, seed: int) -> Job:
    """One autotuning run."""
    overrides = (
        "experiment=tpainn_autotune",
        "data/source=tpainn_database",
        f"data.datapath={labels_300k(s.data.resolve() / 'ethanol_300k.db')}",
        "data.splitting._target_=schnetpack_tpainn.data.split.PartSplit",
        f"transfer.checkpoint={s.pretrained.resolve()}",
        *VARIANTS[variant],
        f"globals.lr={s.rate}",
        f"data.num_train={s.n_train}",
        f"trainer.max_steps={s.steps}",
        f"trainer.val_check_interval={s.steps // 4}",
        f"seed={seed}",
        f"run.data_dir={s.data.resolve()}",
        "print_config=false",
    )
    return Job(s.directory.resolve() / f"{variant.replace(' ', '_')}_s{seed}", overrides, s.steps)


def scan(calculator: Calculator, name: str) -> np.ndarray:
    """Energies on the grid of a scan, its zero at equilibrium or far apart."""
    make, grid, _, zero, _ = SCANS[name]
    energies = [calculator.get_potential_energy(make(x)) for x in (*grid, zero)]
    return np.array(energies[:-1]) - energies[-1]


def flaw(name: str, energies: np.ndarray) -> float:
    """Depth of the deepest minimum or hole that no molecule has, in eV; 0 if there is none.

    Args:
        name: the scan.
        energies: on its grid, zero at equilibrium or far apart.

    Returns:
        The largest fall, to below 3 eV, of the energy on the way inwards from where the wall begins
        (0.85 of the equilibrium length; 2.4 Å between oxygens, 2.7 Å between carbons) or, for
        bonds, on the way outwards from 1.15 times the equilibrium length; or how far it is below
        zero (bonds) or -0.5 eV (molecules) anywhere, if that is more.
    """
    _, grid, wall, zero, _ = SCANS[name]
    is_bond = zero == 1.0

    def fall(e: np.ndarray) -> float:
        falls = np.maximum.accumulate(e) - e
        return float(falls[e < REACH_EV].max(initial=0.0))

    inward = fall(energies[grid <= wall][::-1])
    outward = fall(energies[grid >= 1.15]) if is_bond else 0.0
    too_low = (0.0 if is_bond else BOUND_EV) - float(energies.min())
    deepest = max(inward, outward, too_low)
    return deepest if deepest > NOISE_EV else 0.0


def dft(path: Path) -> dict[str, dict[str, float]]:
    """Energies of DFT, computed where the file has none yet."""
    with np.load(EmbeddedEthanol().path) as archive:
        level = json.loads(str(archive["metadata"]))["level_of_theory"]
    engine = PySCF(**{k: v for k, v in level.items() if k != "engine"})
    found = json.loads(path.read_text()) if path.exists() else {}
    todo = [(n, x) for n in SCANS for x in SCANS[n][4] if f"{x:.3f}" not in found.get(n, {})]
    for name, x in tqdm(todo, "DFT", unit="point"):
        atoms = SCANS[name][0](x)
        engine.calculate(atoms, ["energy"])
        found.setdefault(name, {})[f"{x:.3f}"] = engine.results["energy"]
        write_json(path, found)
    return found


def models(s: argparse.Namespace) -> dict[str, list[Calculator]]:
    """What is scanned: name -> one calculator for every seed."""
    runs = {"pretrained": [s.pretrained]}
    runs |= {v: [job(s, v, seed).directory for seed in s.seeds] for v in VARIANTS}
    return {"MMFF94": [RDKitForceField()]} | {
        name: [TPaiNNCalculator(d / "best_model", device="cpu") for d in directories]
        for name, directories in runs.items()
    }


def table(results: Mapping[str, Any], errors: Mapping[str, np.ndarray]) -> str:
    """Errors on the test frames and flaws of the scans, in Markdown.

    Args:
        results: name -> scan -> curves, one per seed.
        errors: name -> energy and force errors, shape (seeds, 2).

    Returns:
        The table.
    """
    lines = [
        "| | energy MAE (meV) | forces MAE (meV/Å) | " + " | ".join(SCANS) + " |",
        "|---|" + "---:|" * (2 + len(SCANS)),
    ]
    for name, scans in results.items():
        cells = ["–", "–"]
        if name in errors:
            spread = zip(errors[name].mean(0), errors[name].std(0), strict=True)
            cells = [f"{mean:.1f} ± {std:.1f}" for mean, std in spread]
        for curves in scans.values():
            depths = [curve["flaw_ev"] for curve in curves]
            n_bad = sum(depth > 0 for depth in depths)
            cells.append(f"{max(depths):.2f} eV ({n_bad} of {len(depths)})" if n_bad else "none")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(path: Path, results: Mapping[str, Any], points: Mapping[str, Any]) -> None:
    """Curves of all models, and DFT as points."""
    from matplotlib import pyplot as plt

    colours = {"MMFF94": "tab:gray", "pretrained": "tab:orange"}
    colours |= dict(zip(VARIANTS, ("tab:red", "tab:blue"), strict=True))
    fig, axes = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    for ax, (name, (_, grid, *_)) in zip(axes.flat, SCANS.items(), strict=True):
        for label, scans in results.items():
            for k, curve in enumerate(scans[name]):
                named = label if k == 0 else None
                ax.plot(grid, curve["energies_ev"], color=colours[label], label=named, lw=1.2)
        ax.plot(
            [float(x) for x in points[name]], list(points[name].values()), "ko", ms=4, label="DFT"
        )
        ax.set_title(name)
        ax.set_ylim(*((-0.5, 9) if "bond" in name else (-0.5, 6)))
        ax.set_xlabel("length / equilibrium length" if "bond" in name else "distance (Å)")
        ax.set_ylabel("energy (eV)")
    axes.flat[0].legend(fontsize=8)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def main() -> None:
    """Run everything, print the table, and write figure and numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pretrained", type=Path, help="pretraining run")
    parser.add_argument("--directory", type=Path, default=Path("runs/replay"), help="results")
    parser.add_argument("--data", type=Path, default=Path("data"), help="data sets")
    parser.add_argument("--n-train", type=int, default=25, help="labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--parallel", type=int, help="runs at once; as many as cores by default")
    s = parser.parse_args()
    labels_300k(s.data.resolve() / "ethanol_300k.db")
    run_jobs([job(s, v, seed) for v in VARIANTS for seed in s.seeds], parallel=s.parallel)
    points = {}
    for name, energies in dft(s.directory / "dft.json").items():
        zero = energies[f"{SCANS[name][3]:.3f}"]
        points[name] = {x: e - zero for x, e in sorted(energies.items())}
    results: dict[str, Any] = {}
    for label, calculators in models(s).items():
        for name in SCANS:
            curves = [scan(calculator, name) for calculator in calculators]
            results.setdefault(label, {})[name] = [
                {"flaw_ev": flaw(name, e), "energies_ev": e.round(4).tolist()} for e in curves
            ]
    reports = {v: [read_run(job(s, v, x).directory) for x in s.seeds] for v in VARIANTS}
    errors = {
        v: np.array([[r["test"][key] for key in KEYS] for r in found])
        for v, found in reports.items()
    }
    shares = [r["transfer"]["parts"]["replay"]["share"] for r in reports["with replay"]]
    write_json(
        s.directory / "replay.json",
        {"dft_ev": points, "curves": results, "replay_share": shares}
        | {"errors": {v: e.tolist() for v, e in errors.items()}, "keys": KEYS},
    )
    figure(s.directory / "replay.png", results, points)
    print(table(results, errors))
    print(f"\nreplay's share of the loss: {np.mean(shares):.2f}; results in {s.directory}")


if __name__ == "__main__":
    main()
