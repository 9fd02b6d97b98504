"""Make the ethanol data set that schnetpack-tpainn ships: real DFT labels, about 85 CPU minutes.

    pip install 'schnetpack-tpainn[molecules,dft,xtb]'
    python datasets/ethanol.py work/

Structures come from Langevin dynamics with GFN2-xTB at 300, 450 and 600 K, so that they favour
neither the classical teacher nor the DFT level. Training pool and test set come from different
trajectories. Every step resumes where it was killed.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
from ase import Atoms

from schnetpack_tpainn.data.label import label_frames
from schnetpack_tpainn.data.pyscf import PySCF
from schnetpack_tpainn.data.sampling import MDSampler
from schnetpack_tpainn.data.versions import software_versions

LEVEL: dict[str, Any] = {"xc": "wb97x-d3bj", "basis": "def2-tzvp", "grid_level": 1}
TARGET = Path(__file__).parents[1] / "schnetpack_tpainn" / "data" / "ethanol_wb97x.npz"
PARTS = {"pool": (400, 1), "test": (500, 2)}  # frames, seed


def sample(work: Path, part: str) -> list[Atoms]:
    """Structures of one part, shuffled, with their temperature."""
    path = work / f"{part}_gfn2.db"
    n_frames, seed = PARTS[part]
    if not path.exists():
        MDSampler(
            structures=["CCO"],
            calculator={"_target_": "tblite.ase.TBLite", "method": "GFN2-xTB", "verbosity": 0},
            n_frames=n_frames,
            temperatures_k=[300, 450, 600],
            n_trajectories=8,
            interval_fs=100.0,
            friction_per_fs=0.01,
            equilibration_fs=1000.0,
            seed=seed,
        ).make(path)
    frames = []
    with ase.db.connect(path) as db:
        for row in db.select():
            atoms = Atoms(row.numbers, row.positions)
            atoms.info["temperature_k"] = row.temperature_k
            frames.append(atoms)
    order = np.random.default_rng(seed).permutation(len(frames))
    return [frames[i] for i in order]


def check_forces(atoms: Atoms, step_ang: float = 0.005) -> float:
    """Largest difference between analytic and central-difference forces of a frame, eV/Å."""
    calculator = PySCF(**LEVEL, conv_tol=1e-10, n_threads=1)
    calculator.calculate(atoms, ["energy", "forces"])
    analytic = calculator.results["forces"]
    worst = 0.0
    for atom, axis in [(0, 0), (2, 1), (8, 2)]:  # C, O, H
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step_ang
            calculator.calculate(moved, ["energy"])
            energies.append(calculator.results["energy"])
        numeric = -(energies[0] - energies[1]) / (2 * step_ang)
        worst = max(worst, abs(numeric - analytic[atom, axis]))
    return float(worst)


def read_labels(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions (M, N, 3), energies (M,), forces (M, N, 3) and temperatures (M,) of a database."""
    with ase.db.connect(path) as db:
        rows = list(db.select())
    return (
        np.array([r.positions for r in rows]),
        np.array([r.data["energy"][0] for r in rows]),
        np.array([r.data["forces"] for r in rows]),
        np.array([r.temperature_k for r in rows]),
    )


def main() -> None:
    """Sample, label, check and pack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for intermediate files")
    work = parser.parse_args().work
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    calculator = {"_target_": "schnetpack_tpainn.data.pyscf.PySCF", **LEVEL, "n_threads": 1}
    arrays: dict[str, np.ndarray] = {}
    for part in PARTS:
        path = work / f"{part}_dft.db"
        frames = sample(work, part)
        if not path.exists():
            label_frames(frames, calculator, path)
        fields = read_labels(path)
        if len(fields[0]) < len(frames):
            raise SystemExit(f"{len(frames) - len(fields[0])} failed: see the folder of {path}")
        names = ("positions", "energy", "forces", "temperature_k")
        arrays |= {f"{part}_{n}": a for n, a in zip(names, fields, strict=True)}
    numbers = frames[0].numbers
    engine = PySCF(**LEVEL)
    check = Atoms(numbers, arrays["test_positions"][0])
    forces = np.concatenate([arrays["pool_forces"], arrays["test_forces"]])
    metadata = {
        "name": "ethanol, wB97X-D3BJ/def2-TZVP",
        "level_of_theory": engine.level_of_theory(),
        "units": {"positions": "Ang", "energy": "eV", "forces": "eV/Ang"},
        "sampling": "Langevin MD, GFN2-xTB, 300/450/600 K, every 100 fs; datasets/ethanol.py",
        "isolated_atoms_ev": engine.isolated_atom_energies(["H", "C", "O"]),
        "checks": {
            "net_force_rms_ev_per_ang": float(np.sqrt((forces.sum(1) ** 2).mean())),
            "net_force_max_ev_per_ang": float(np.abs(forces.sum(1)).max()),
            "finite_difference_max_ev_per_ang": check_forces(check),
        },
        "versions": software_versions(),
    }
    packed = {k: v if "forces" not in k else v.astype(np.float32) for k, v in arrays.items()}
    np.savez_compressed(TARGET, numbers=numbers, metadata=json.dumps(metadata), **packed)
    print(json.dumps(metadata, indent=2), TARGET.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
