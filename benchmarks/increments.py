"""Teachers of QM9's energies in closed form: increments, beside xTB, GFN-FF and MMFF94.

    python benchmarks/increments.py --output docs/benchmarks/increments.json

For every number of labels and seed, increments are fitted to U0 of the labelled molecules less the
teacher's energy, free-atom energies taken out of both where the teacher has them, and without a
teacher the labels' mean binding energy per atom too; the error is that on the same other molecules
for all. No network takes part. Needs the extras qm9, xtb, molecules.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from schnetpack_tpainn.data import QM9, DisplacementSampler
from schnetpack_tpainn.data.additive import free_atoms, read_labelled
from schnetpack_tpainn.data.increments import SCHEMES, features, linear_baseline
from schnetpack_tpainn.files import write_json

RDKIT = "schnetpack_tpainn.data.rdkit.RDKitForceField"
TEACHERS: dict[str, dict[str, Any]] = {
    "GFN2-xTB": {"_target_": "tblite.ase.TBLite", "method": "GFN2-xTB", "verbosity": 0},
    "GFN-FF": {"_target_": "gfnff.ase_calculator.GFNFF"},
    "MMFF94": {"_target_": RDKIT, "force_field": "MMFF94"},
}
MEV = 1e3  # meV in an eV


def atomised(path: Path) -> dict[int, float]:
    """Energy of every molecule in eV, less that of its free atoms."""
    atoms_ev = free_atoms(path)
    return {
        int(frame.info.get("molecule", row)): frame.get_potential_energy()
        - atoms_ev[frame.numbers].sum()
        for row, frame in enumerate(read_labelled(path))
    }


def run(a: argparse.Namespace, folder: Path) -> dict[str, dict[str, list[float]]]:
    """MAE in meV by teacher and scheme for every number of labels, mean over seeds."""
    labels = QM9(max(a.n_train) + a.n_test).make(folder / "labels.db")
    wanted = atomised(labels)
    base = {"none": dict.fromkeys(wanted, 0.0)}
    for name, node in TEACHERS.items():
        source = DisplacementSampler(
            [str(labels)], node, n_displaced=0, max_force=1e3, max_failed=0.0
        )  # GFN-FF has 51 eV/Å in one of them
        base[name] = atomised(source.make(folder / f"{name}.db"))
    n_atoms = np.array([len(frame) for frame in read_labelled(labels)])
    order = np.random.default_rng(0).permutation(len(wanted))
    test, pool = order[: a.n_test], order[a.n_test :]
    errors: dict[str, dict[str, list[float]]] = {name: {} for name in base}
    for scheme in SCHEMES:
        counts = [features(frame, scheme) for frame in read_labelled(labels)]
        for name, energies in base.items():
            rest = np.array([wanted[i] - energies[i] for i in range(len(wanted))])
            unbound = n_atoms if name == "none" else None
            errors[name][scheme] = [
                float(
                    np.mean(
                        [_error(counts, rest, unbound, _draw(pool, s)[:n], test) for s in a.seeds]
                    )
                )
                for n in a.n_train
            ]
    return errors


def _draw(pool: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(pool)


def _error(
    counts: list[Any],
    rest: np.ndarray,
    unbound: np.ndarray | None,
    train: np.ndarray,
    test: np.ndarray,
) -> float:
    """MAE in meV; of molecules that no teacher binds the numbers of atoms are given."""
    if unbound is not None:
        rest = rest - np.mean(rest[train] / unbound[train]) * unbound
    predicted = linear_baseline([counts[i] for i in train], rest[train], [counts[i] for i in test])
    return float(np.abs(predicted - rest[test]).mean()) * MEV


def main() -> None:
    """Run everything, print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--n-train", type=int, nargs="+", default=[50, 100, 250, 500, 1000])
    parser.add_argument("--n-test", type=int, default=2500, help="test molecules")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the labels")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    s = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        errors = run(s, Path(folder))
    if s.output:
        settings = {"n_train": s.n_train, "n_test": s.n_test, "seeds": s.seeds}
        write_json(s.output, {**settings, "mae_mev": errors})
    print("| teacher | increments | " + " | ".join(f"N = {n}" for n in s.n_train) + " |")
    print("|---|---|" + "---:|" * len(s.n_train))
    for name, schemes in errors.items():
        for scheme, values in schemes.items():
            cells = " | ".join(f"{v:.0f}" for v in values)
            print(f"| {name} | {scheme} | {cells} |")


if __name__ == "__main__":
    main()
