"""How close a force field comes to DFT as it is, and refitted to few labels. No network takes part.

    python benchmarks/refit.py --output docs/benchmarks/refit.json
    python benchmarks/refit.py --train ethanol_train.extxyz --test ethanol_test.extxyz
    python benchmarks/refit.py --teacher GFN2-xTB

Without files: the shipped ethanol. For every number of labels and seed, the labels are drawn from
the training frames; errors are those on the same test frames, for the teacher with a constant added
that the labels give, and refitted. Needs the extra molecules, or xtb.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from schnetpack_tpainn.data import EmbeddedEthanol
from schnetpack_tpainn.data.additive import read_labelled
from schnetpack_tpainn.data.bondgraph import group_by_graph
from schnetpack_tpainn.data.label import compute_label
from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.refit import Residuals, fit_correction
from schnetpack_tpainn.files import write_json

MEV = 1e3  # meV in an eV


def shipped() -> tuple[list[Atoms], list[Atoms]]:
    """Pool and test frames of the package's ethanol."""
    with tempfile.TemporaryDirectory() as folder:
        frames = list(read_labelled(EmbeddedEthanol().make(Path(folder) / "ethanol.db")))
    parts = [[a for a in frames if a.info["part"] == part] for part in ("pool", "test")]
    return parts[0], parts[1]


def engine_of(teacher: str) -> Calculator:
    """The teacher as a calculator."""
    if teacher == "MMFF94":
        return RDKitForceField()
    from tblite.ase import TBLite

    return TBLite(method=teacher, verbosity=0)


def lacking(frames: list[Atoms], teacher: str) -> list[tuple[Atoms, float, np.ndarray]]:
    """Structures, and what the teacher lacks of their labels in eV and eV/Å."""
    engine, found = engine_of(teacher), []
    for atoms in frames:
        bare = Atoms(atoms.numbers, atoms.positions)
        taught = compute_label(bare, engine)
        energy = atoms.get_potential_energy() - taught.get_potential_energy()
        found.append((bare, energy, atoms.get_forces() - taught.get_forces()))
    return found


def residuals(frames: list[tuple[Atoms, float, np.ndarray]]) -> list[Residuals]:
    """The same by molecule."""
    return [
        Residuals(
            graph,
            indices,
            np.stack([frames[k][0].positions for k in indices]),
            np.array([frames[k][1] for k in indices]),
            np.stack([frames[k][2] for k in indices]),
        )
        for graph, indices in group_by_graph([a for a, _, _ in frames], "frames")
    ]


def measure(s: argparse.Namespace, train: list[Any], test: list[Any], n: int, seed: int) -> dict:
    """Errors of one fit on the test frames, in meV and meV/Å."""
    drawn = [train[k] for k in np.random.default_rng(seed).permutation(len(train))[:n]]
    start = time.perf_counter()
    fit = fit_correction(residuals(drawn), s.radii)
    seconds = time.perf_counter() - start
    before, after = np.mean([energy for _, energy, _ in drawn]), []
    for r in residuals(test):
        energies, forces = fit.apply(r.graph, r.positions)
        after.append((r.energies_ev - energies, (r.forces_ev_per_ang - forces).ravel()))
    cross_validated = fit.summary["cross_validation_mev"]["after"]
    return {
        "used": fit.summary["used"],
        "energy_before": MEV * float(np.mean([abs(energy - before) for _, energy, _ in test])),
        "energy": MEV * float(np.abs(np.concatenate([e for e, _ in after])).mean()),
        "forces": MEV * float(np.abs(np.concatenate([f for _, f in after])).mean()),
        "energy_cross_validated": cross_validated["energy_mae"],
        "forces_cross_validated": cross_validated["forces_mae"],
        "seconds": seconds,
    }


def main() -> None:
    """Run everything, print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--teacher", default="MMFF94", choices=["MMFF94", "GFN1-xTB", "GFN2-xTB"])
    parser.add_argument("--train", type=Path, help="frames with labels in eV and Å; with --test")
    parser.add_argument("--test", type=Path, help="the same, to test on")
    parser.add_argument("--n-test", type=int, default=500, help="the first so many test frames")
    parser.add_argument("--n-train", type=int, nargs="+", default=[5, 10, 25, 50])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the labels")
    parser.add_argument("--radii", type=int, nargs="+", default=[0, 1], help="of the types")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    s = parser.parse_args()
    if (s.train is None) != (s.test is None):
        parser.error("expected --train and --test, got one of them")
    pool, tests = shipped() if s.train is None else (ase.io.read(f, ":") for f in (s.train, s.test))
    train, test = lacking(pool, s.teacher), lacking(tests[: s.n_test], s.teacher)
    plain = MEV * float(np.abs(np.concatenate([f.ravel() for _, _, f in test])).mean())
    rows = {n: [measure(s, train, test, n, seed) for seed in s.seeds] for n in s.n_train}
    if s.output:
        settings = {"teacher": s.teacher, "seeds": s.seeds, "radii": s.radii, "n_test": len(test)}
        write_json(s.output, {**settings, "forces_before": plain, "n_train": rows})
    print(f"| N | {s.teacher}, energy | refitted | forces | refitted | expected | fit, s |")
    print("|---:|" + "---:|" * 6)
    for n, found in rows.items():
        mean = {key: float(np.mean([row[key] for row in found])) for key in found[0]}
        print(
            f"| {n} | {mean['energy_before']:.0f} | {mean['energy']:.0f} | {plain:.0f} | "
            f"{mean['forces']:.0f} | {mean['forces_cross_validated']:.0f} | {mean['seconds']:.2f} |"
        )


if __name__ == "__main__":
    main()
