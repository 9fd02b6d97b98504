"""Make the liquid water that schnetpack-tpainn ships: real DFT labels, 4 CPU hours.

    apt-get install quantum-espresso quantum-espresso-data libopenblas0-serial
    pip install 'schnetpack-tpainn[water,espresso]'
    python datasets/water.py work/

Boxes of 32 molecules from iAMOEBA at 280, 330 and 400 K and 0.85 to 1.15 g/cm³, labelled with
revPBE-D3(BJ), whose water is closer to experiment in structure and diffusion than that of PBE
(Marsalek and Markland, J. Phys. Chem. Lett. 8, 1545, 2017). Training pool and test set come from
different trajectories. A second round labels boxes from the dynamics, at 1 bar, of a network tuned
on the first. Every step resumes where it was killed.
"""

import argparse
import json
import logging
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from ase.units import Pascal

from schnetpack_tpainn.data.additive import read_labelled
from schnetpack_tpainn.data.embedded import EmbeddedWater
from schnetpack_tpainn.data.espresso import QuantumEspresso
from schnetpack_tpainn.data.label import label_frames
from schnetpack_tpainn.data.liquid import density, waters
from schnetpack_tpainn.data.openmm_sampling import OpenMMSampler
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import LabelError
from schnetpack_tpainn.md import MTKNPT, MDSettings, TPaiNNCalculator, run_md

log = logging.getLogger(__name__)

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
TEMPERATURES_K = (280.0, 330.0, 400.0)
N_MOLECULES = 32
PRETRAINING = ("experiment=tpainn_pretrain_water", "trainer.max_steps=30000")
TUNING = ("experiment=tpainn_autotune_water", "data.num_train=50", "globals.lr=5e-4")


def sample(work: Path, part: str) -> list[Atoms]:
    """Boxes of one part, shuffled, in the float32 numbers that are shipped."""
    path = work / f"{part}_iamoeba.db"
    n_frames, seed = PARTS[part]
    if not path.exists():
        OpenMMSampler(
            "iamoeba",
            n_molecules=N_MOLECULES,
            n_frames=n_frames,
            temperatures_k=TEMPERATURES_K,
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


def pressure_error(atoms: Atoms, densities: tuple[float, float] = (0.9, 1.0)) -> float:
    """How far the labels' pressure is from that at 90 Ry in bar, molecules moved apart whole."""
    volumes, errors = [], []
    for value in densities:
        box = waters(N_MOLECULES).at_density(atoms, value)
        tight = {"conv_thr_ry": 1e-8}
        coarse, fine = results(box, **tight), results(box, **{**FINE, **tight})
        errors.append(coarse["energy"] - fine["energy"])
        volumes.append(box.get_volume())
    return -(errors[1] - errors[0]) / (volumes[1] - volumes[0]) / (1e5 * Pascal)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def own_dynamics(work: Path, first: Path, starts: Sequence[Atoms]) -> list[Atoms]:
    """Boxes from dynamics at 1 bar of a network that is tuned on the first round, every ps.

    A trajectory ends where a molecule dissociates.
    """
    source = (f"+data.source.path={first}", "data.source.parts=[pool,test]")
    _train(work, "pretrained", PRETRAINING)
    _train(work, "tuned", (*TUNING, *source, "transfer.checkpoint=runs/pretrained"))
    calculator = TPaiNNCalculator(work / "runs/tuned/best_model", stress=True)
    frames: list[Atoms] = []
    for temperature_k in TEMPERATURES_K:
        settings = MDSettings(
            MTKNPT(),
            duration_ps=8.0,
            equilibration_ps=2.0,
            temperature_k=temperature_k,
            trajectory_interval=2000,
        )
        start = _first(starts, (temperature_k, 0.95))
        result = run_md(settings, start, calculator, work / f"md_{temperature_k:g}")
        for atoms in read(result.trajectory, ":")[1:]:
            try:
                atoms.positions = waters(N_MOLECULES).whole(atoms)
            except LabelError as error:
                log.warning("%g K, after %d frames: %s", temperature_k, len(frames), error)
                break
            atoms.info = {"temperature_k": temperature_k, "density_g_per_cm3": density(atoms)}
            frames.append(_bare(atoms))
    return frames


def _first(frames: Sequence[Atoms], state: tuple[float, float]) -> Atoms:
    """The first box of a temperature (K) and a density (g/cm³)."""
    found = (tuple(round(a.info[key], 3) for key in KEPT) for a in frames)
    return next(a for a, own in zip(frames, found, strict=True) if own == state)


def _train(work: Path, name: str, overrides: Sequence[str]) -> None:
    """A run of spktrain, unless it is there."""
    if not (work / "runs" / name / "best_model").exists():
        place = (f"run.id={name}", "print_config=false")
        subprocess.run(["spktrain", *overrides, *place], check=True, cwd=work)  # noqa: S603, S607


def label(work: Path, part: str, frames: Sequence[Atoms]) -> dict[str, np.ndarray]:
    """Labels of one part, as arrays to ship."""
    path = work / f"{part}_dft.db"
    calculator = {"_target_": "schnetpack_tpainn.data.espresso.QuantumEspresso", **LEVEL}
    if not path.exists():
        label_frames(frames, calculator, path)
    labels = list(read_labelled(path))
    if len(labels) < len(frames):
        raise SystemExit(f"{len(frames) - len(labels)} boxes failed: see the folder of {path}")
    return {
        f"{part}_positions": np.array([a.positions for a in labels], dtype=np.float32),
        f"{part}_edge_ang": np.array([a.cell.lengths()[0] for a in labels]),
        f"{part}_energy": np.array([a.get_potential_energy() for a in labels]),
        f"{part}_forces": np.array([a.get_forces() for a in labels], dtype=np.float32),
        **{f"{part}_{key}": np.array([a.info[key] for a in labels]) for key in KEPT},
    }


def main() -> None:
    """Sample, label, check, tune, sample and label again, and pack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for intermediate files")
    work = parser.parse_args().work.absolute()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    frames = {part: sample(work, part) for part in PARTS}
    first = work / "first.npz"
    if not first.exists():
        arrays = {"numbers": frames["pool"][0].numbers}
        for part in PARTS:
            arrays |= label(work, part, frames[part])
        metadata = {
            "name": "liquid water, revPBE-D3(BJ)",
            "level_of_theory": QuantumEspresso(**LEVEL).level_of_theory(),
            "units": {"positions": "Ang", "energy": "eV", "forces": "eV/Ang"},
            "sampling": "iAMOEBA, 280/330/400 K, 0.85 to 1.15 g/cm³, every ps; second: dynamics of "
            "a tuned network at these temperatures and 1 bar, every ps; datasets/water.py",
            "checks": {
                **checks(frames["test"][0]),
                "pressure_from_90_ry_bar": pressure_error(_first(frames["pool"], (330.0, 0.95))),
            },
            "versions": software_versions(),
        }
        np.savez_compressed(first, metadata=json.dumps(metadata), **arrays)
    second = label(work, "second", own_dynamics(work, first, frames["pool"]))
    np.savez_compressed(TARGET, **np.load(first), **second)
    print(TARGET, TARGET.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
