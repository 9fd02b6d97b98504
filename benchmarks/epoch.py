"""One epoch of 1,000 ethanol frames through ``spktrain``, the loader included.

Every run is a process of its own: SchNetPack's shipped ``md17`` experiment on our frames, with its
own data module, beside ours. Both validate on ten frames after each pass over the 1,000; an epoch
is the time from one validation to the next.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT

from benchmarks.models import STOCK
from benchmarks.structures import ethanol
from benchmarks.timing import Settings, Work, time_sound
from schnetpack_tpainn.data.store import labelled, write_database

__all__ = ["BATCHES", "RUNS", "run", "train"]

BATCHES = (10, 100)
FRAMES = 1000
EPOCHS = 3  # the first only starts the clock


def _stock(batch_size: int, epochs: int, *extra: str) -> list[str]:
    return [
        "experiment=md17",
        "run.experiment=stock",
        "data._target_=schnetpack.data.AtomsDataModule",
        "~data.molecule",
        "data.property_units={energy:eV,forces:eV/Ang}",
        f"trainer.max_epochs={epochs}",
        *extra,
    ]


def _ours(batch_size: int, epochs: int, *extra: str) -> list[str]:
    batches = FRAMES // batch_size
    return [
        "experiment=tpainn_autotune",
        "transfer=scratch",
        "data/source=tpainn_database",
        "model.representation.n_atom_basis=128",
        f"trainer.max_steps={epochs * batches}",
        f"trainer.val_check_interval={batches}",
        *extra,
    ]


RUNS: dict[str, Callable[[int, int], list[str]]] = {
    STOCK: _stock,
    "stock, no workers": lambda *sizes: _stock(*sizes, "data.num_workers=0"),
    "stock with model/representation=tpainn": lambda *sizes: _stock(
        *sizes, "model/representation=tpainn"
    ),
    "TPaiNN": _ours,
    "TPaiNN compiled": lambda *sizes: _ours(*sizes, "model.compile=true"),
}


def make_frames(path: Path) -> None:
    """Write 1,000 frames to train on and a few to validate and test, with ASE's EMT as labels.

    Args:
        path: SchNetPack database.
    """

    def label(atoms: Atoms) -> Atoms:
        atoms.calc = EMT()
        return labelled(atoms, atoms.get_potential_energy(), atoms.get_forces())

    write_database(path, map(label, ethanol(FRAMES + 20)), {})


def train(
    overrides: list[str], batch_size: int, database: Path, settings: Settings
) -> dict[str, Any]:
    """Run ``spktrain`` and read the clock.

    Args:
        overrides: which model and data module.
        batch_size: molecules in a batch.
        database: the frames.
        settings: device and threads.

    Returns:
        What :class:`benchmarks.clock.EpochClock` wrote.

    Raises:
        RuntimeError: training failed. That of SchNetPack 2.2 may end with an error, once trained.
    """
    with tempfile.TemporaryDirectory(dir=database.parent) as folder:
        clock = Path(folder) / "clock.json"
        command = [
            Path(sys.executable).with_name("spktrain"),
            *overrides,
            f"data.datapath={database}",
            f"data.batch_size={batch_size}",
            f"data.num_train={FRAMES}",
            "data.num_val=10",
            "data.num_test=10",
            f"run.data_dir={folder}",
            f"run.path={folder}",
            f"trainer.accelerator={'gpu' if settings.device == 'cuda' else 'cpu'}",
            "logger=csv",
            "print_config=false",
            f"+callbacks.clock={{_target_:benchmarks.clock.EpochClock,path:{clock}}}",
        ]
        env = {**os.environ, "OMP_NUM_THREADS": str(settings.threads), "PWD": folder}
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        if not clock.exists():
            raise RuntimeError(f"spktrain: no epoch was finished:\n{done.stderr[-2000:]}")
        return json.loads(clock.read_text())


def run(batch_size: int, settings: Settings) -> dict[str, Any]:
    """Check that all runs see as many frames, batches and parameters, then time.

    Args:
        batch_size: molecules in a batch.
        settings: how to measure.

    Returns:
        ``models``: run -> what was found.
    """
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "frames.db"
        make_frames(database)

        def once(name: str, epochs: int) -> dict[str, Any]:
            return train(RUNS[name](batch_size, epochs), batch_size, database, settings)

        def work(name: str) -> Work:
            return lambda: mean(np.diff(once(name, EPOCHS)["validations"]).tolist())

        seen = {name: {**once(name, 1), "validations": None} for name in RUNS}
        models = {name: {"correct": found == seen[STOCK]} for name, found in seen.items()}
        return time_sound(
            models,
            lambda names: {name: work(name) for name in names},
            replace(settings, least=2),
            STOCK,
        )
