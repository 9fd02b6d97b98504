"""Make the golden checkpoints of the present format: ``python tests/checkpoints/make.py``.

A tiny T-PaiNN is pretrained on MMFF94 ethanol and autotuned on the shipped labels, a few steps
each. What later versions must be able to read goes into ``tests/checkpoints/v<FORMAT>``, with the
energies and forces that the models gave. Run it once for each format, by the code that writes it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ase.build import molecule

from schnetpack_tpainn.md import TPaiNNCalculator
from schnetpack_tpainn.transfer.task import FORMAT

SMALL = (
    "model.representation.n_atom_basis=8",
    "model.representation.n_interactions=2",
    "model.representation.radial_basis.n_rbf=6",
    "data.num_train=10",
    "data.num_val=5",
    "data.num_test=5",
    "trainer.max_steps=20",
    "trainer.val_check_interval=10",
    "~callbacks.ema",
    "task.optimizer_cls=torch.optim.SGD",  # Adam's state would take half of the space
    "+task.optimizer_args.momentum=0.9",
    "print_config=false",
)
SOURCE = ("data.source.n_frames=20", "data.source.equilibration_fs=20")
RUN_FILES = ("model.safetensors", "config.yaml", "report.json")


def main() -> None:
    """Train, and keep the files."""
    target = Path(__file__).with_name(f"v{FORMAT}")
    with tempfile.TemporaryDirectory(prefix="golden") as folder:
        place = Path(folder)
        spktrain(place, "experiment=tpainn_pretrain", "run.id=pretrain", *SOURCE, *SMALL)
        spktrain(place, "experiment=tpainn_autotune", "run.id=autotune", *SMALL)
        runs = place / "runs"
        expected = {
            "pretrain": results(runs / "pretrain" / "best_model"),
            "autotune.ckpt": results(runs / "autotune" / "best_model"),
        }
        shutil.rmtree(target, ignore_errors=True)
        (target / "pretrain").mkdir(parents=True)
        for name in RUN_FILES:
            shutil.copy(runs / "pretrain" / name, target / "pretrain")
        (checkpoint,) = (runs / "autotune" / "checkpoints").glob("epoch*.ckpt")
        shutil.copy(checkpoint, target / "autotune.ckpt")
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def spktrain(place: Path, *overrides: str) -> None:
    """Run ``spktrain`` in a folder."""
    command = [str(Path(sys.executable).with_name("spktrain")), *overrides]
    env = {**os.environ, "PWD": str(place), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=place, env=env, check=True)


def results(model: Path) -> dict[str, object]:
    """Energy (eV) and forces (eV/Å) of an ethanol molecule, in float64."""
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    atoms.calc = TPaiNNCalculator(model, dtype="float64", device="cpu")
    return {
        "symbols": str(atoms.symbols),
        "positions_ang": atoms.positions.tolist(),
        "energy_ev": atoms.get_potential_energy(),
        "forces_ev_per_ang": atoms.get_forces().tolist(),
    }


if __name__ == "__main__":
    main()
