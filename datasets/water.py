"""Make the liquid water that schnetpack-tpainn ships: real DFT labels, 3 CPU hours.

    apt-get install quantum-espresso quantum-espresso-data libopenblas0-serial
    pip install 'schnetpack-tpainn[water,espresso]'
    python datasets/water.py work/

Boxes of 32 molecules from iAMOEBA at 280, 330 and 400 K and 0.85 to 1.15 g/cm³, labelled with
revPBE-D3(BJ), whose water is closer to experiment in structure and diffusion than that of PBE
(Marsalek and Markland, J. Phys. Chem. Lett. 8, 1545, 2017). Training pool and test set come from
different trajectories. Every step resumes where it was killed.
"""

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from schnetpack_tpainn.data.additive import read_labelled
from schnetpack_tpainn.data.embedded import EmbeddedWater
from schnetpack_tpainn.data.espresso import QuantumEspresso
from schnetpack_tpainn.data.label import label_frames
from schnetpack_tpainn.data.openmm_sampling import OpenMMSampler
from schnetpack_tpainn.data.versions import software_versions

LEVEL: dict[str, Any] = {
    "xc": "revpbe",
    "dispersion": "d3bj",
    "cutoff_ry": 45.0,
    "conv_thr_ry": 1e-5,
    "input_data": {"electrons": {"mixing_beta": 0.4}},
}
TARGET = Path(__file__).parents[1] / "schnetpack_tpainn" / "data" / EmbeddedWater.shipped.name
FINE = {"cutoff_ry": 90.0, "conv_thr_ry": 1e-9}
KEPT = EmbeddedWater.kept
PARTS = {"pool": (120, 1), "test": (96, 2)}  # boxes, seed


def sample(work: Path, part: str) -> list[Atoms]:
    """Boxes of one part, shuffled, in the float32 numbers that are shipped."""
    path = work / f"{part}_iamoeba.db"
    n_frames, seed = PARTS[part]
    if not path.exists():
        OpenMMSampler(
            "iamoeba",
            n_molecules=32,
            n_frames=n_frames,
            temperatures_k=[280, 330, 400],
            densities_g_per_cm3=[0.85, 0.95, 1.05, 1.15],
            interval_fs=1000.0,
            timestep_fs=1.0,
            seed=seed,
        ).make(path)
    frames = list(read_labelled(path))
    order = np.random.default_rng(seed).permutation(len(frames))
    return [_bare(frames[i]) for i in order]


def _bare(frame: Atoms) -> Atoms:
    positions = frame.positions.astype(np.float32).astype(float)
    atoms = Atoms(frame.numbers, positions, cell=frame.cell, pbc=True)
    atoms.info = {key: frame.info[key] for key in KEPT}
    return atoms


def results(atoms: Atoms, **changes: Any) -> Mapping[str, Any]:
    """Energy and forces of a box at the level of the labels, or one with changes."""
    calculator = QuantumEspresso(**{**LEVEL, **changes})
    calculator.calculate(atoms)
    return calculator.results


def checks(atoms: Atoms, step_ang: float = 0.01) -> dict[str, float]:
    """How far the labels of a box are from converged ones, and from derivatives."""
    own, fine = results(atoms), results(atoms, **FINE)
    tight = results(atoms, conv_thr_ry=FINE["conv_thr_ry"])
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 0] += sign * step_ang
        energies.append(results(moved, conv_thr_ry=FINE["conv_thr_ry"])["energy"])
    numeric = -(energies[0] - energies[1]) / (2 * step_ang)
    molecules = [found["forces"].reshape(-1, 3, 3).sum(1) for found in (own, fine)]
    return {
        "forces_rms_from_90_ry_ev_per_ang": _rms(own["forces"] - fine["forces"]),
        "molecular_forces_rms_from_90_ry_ev_per_ang": _rms(molecules[0] - molecules[1]),
        "forces_rms_from_tight_scf_ev_per_ang": _rms(own["forces"] - tight["forces"]),
        "finite_difference_ev_per_ang": abs(numeric - float(tight["forces"][1, 0])),
    }


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def main() -> None:
    """Sample, label, check and pack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for intermediate files")
    work = parser.parse_args().work
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    calculator = {"_target_": "schnetpack_tpainn.data.espresso.QuantumEspresso", **LEVEL}
    packed: dict[str, np.ndarray] = {}
    for part in PARTS:
        path = work / f"{part}_dft.db"
        frames = sample(work, part)
        if not path.exists():
            label_frames(frames, calculator, path)
        labels = list(read_labelled(path))
        if len(labels) < len(frames):
            raise SystemExit(f"{len(frames) - len(labels)} boxes failed: see the folder of {path}")
        packed |= {
            f"{part}_positions": np.array([a.positions for a in labels], dtype=np.float32),
            f"{part}_edge_ang": np.array([a.cell.lengths()[0] for a in labels]),
            f"{part}_energy": np.array([a.get_potential_energy() for a in labels]),
            f"{part}_forces": np.array([a.get_forces() for a in labels], dtype=np.float32),
            **{f"{part}_{key}": np.array([a.info[key] for a in labels]) for key in KEPT},
        }
    metadata = {
        "name": "liquid water, revPBE-D3(BJ)",
        "level_of_theory": QuantumEspresso(**LEVEL).level_of_theory(),
        "units": {"positions": "Ang", "energy": "eV", "forces": "eV/Ang"},
        "sampling": "iAMOEBA, 280/330/400 K, 0.85 to 1.15 g/cm³, every ps; datasets/water.py",
        "checks": checks(frames[0]),
        "versions": software_versions(),
    }
    np.savez_compressed(TARGET, numbers=frames[0].numbers, metadata=json.dumps(metadata), **packed)
    print(json.dumps(metadata, indent=2), TARGET.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
