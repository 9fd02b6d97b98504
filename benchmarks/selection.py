"""What selected labels buy over random ones: test errors by method and seed.

    make demo                                                     # pretrains
    python benchmarks/selection.py runs/demo/pretrain             # one or two hours on two cores

Every method and seed begins with the same labels, buys further ones from a pool that is labelled
already, and tunes the same pretrained model on all of them with the same steps and learning rate;
`--rounds` spreads the purchase over as many rounds. Test frames are the same for all, and no label
but those bought takes part in a choice. `--set 3bpa --published DIR` takes 3BPA at 300 K from a
folder of published data and a run that was pretrained on 3BPA. Finished runs are not repeated.
"""

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ase.db import connect

from schnetpack_tpainn.data.embedded import EmbeddedEthanol
from schnetpack_tpainn.data.importer import TrajectoryImport
from schnetpack_tpainn.data.parallel import n_cores
from schnetpack_tpainn.data.structures import read_frames
from schnetpack_tpainn.files import write_json
from schnetpack_tpainn.selection.labels import Oracle, read_labels
from schnetpack_tpainn.selection.loop import Loop, LoopSettings
from schnetpack_tpainn.selection.select import METHODS, SelectionSettings
from schnetpack_tpainn.study.jobs import Job, run_jobs

KEYS = {"energy_mae_mev": "energy (meV)", "forces_mae_mev_per_ang": "forces (meV/Å)"}
CONTROL = "random"
SIZES = {"ethanol": (50, 500), "3bpa": (20, 200)}  # validation and test frames
FILE_3BPA = "3bpa_train_300K.extxyz"


def database(s: argparse.Namespace) -> Path:
    """The labelled pool as a database, made where it is absent."""
    path = s.data.resolve() / f"selection_{s.set}.db"
    if path.exists():
        return path
    if s.set == "ethanol":
        return EmbeddedEthanol().make(path)
    files = [str(s.published.resolve() / FILE_3BPA)]
    units = {"distance_unit": "Ang", "energy_unit": "eV", "forces_unit": "eV/Ang"}
    return TrajectoryImport(files, **units).make(path)


def split(s: argparse.Namespace, path: Path, seed: int) -> Path:
    """First labels and validation frames of a seed; the test frames do not depend on it."""
    n_val, n_test = SIZES[s.set]
    file = s.directory.resolve() / "splits" / f"n{s.start}_s{seed}.npz"
    if file.exists():
        return file
    with connect(str(path), use_lock_file=False) as db:
        parts = [row.get("part") for row in db.select(include_data=False)]
    marked = [i for i, part in enumerate(parts) if part == "test"]
    tests = marked or np.random.default_rng(0).permutation(len(parts))[:n_test].tolist()
    rest = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(parts)), tests))
    file.parent.mkdir(parents=True, exist_ok=True)
    train, val = rest[: s.start], rest[len(rest) - n_val :]
    np.savez(file, train_idx=train, val_idx=val, test_idx=tests[:n_test])
    return file


def one_thread(jobs: Sequence[Job]) -> None:
    """Run jobs one after the other, for several loops go on at once."""
    for job in jobs:
        run_jobs([job], parallel=n_cores())


def run(s: argparse.Namespace, path: Path, method: str, seed: int) -> dict[str, Any]:
    """One loop; the content of its ``loop.json``."""
    overrides = (
        "experiment=tpainn_autotune",
        f"globals.lr={s.rate}",
        f"trainer.max_steps={s.steps}",
        f"trainer.val_check_interval={max(1, s.steps // 4)}",
        *s.overrides,
    )
    settings = LoopSettings(
        directory=s.directory.resolve() / f"{method}_s{seed}",
        rounds=s.rounds,
        selection=SelectionSettings(s.number // s.rounds, method, seed, device="cpu"),
        checkpoint=s.pretrained.resolve(),
        overrides=overrides,
        steps=s.steps,
        members=s.members,
    )
    pool = read_frames(path)
    start = read_labels(path, split(s, path, seed), None, None)
    identity = {"set": s.set, "start": s.start}
    return Loop(settings, pool, start, Oracle(path, len(pool)), identity, one_thread).run()


def table(test: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Errors after the last round, and how many times larger those of random labels are.

    Args:
        test: method -> seed -> errors.

    Returns:
        Markdown; ratios are geometric means over seeds, their range in brackets.
    """
    heads = [h for name in KEYS.values() for h in (name, f"{CONTROL} / this")]
    lines = ["| method | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for method, by_seed in test.items():
        cells = []
        for key in KEYS:
            errors = np.array([by_seed[seed][key] for seed in by_seed])
            spread = errors.std(ddof=1) if len(errors) > 1 else 0.0
            cells.append(f"{errors.mean():.1f} ± {spread:.1f}")
            if CONTROL not in test:
                cells.append("")
                continue
            ratio = np.array([test[CONTROL][seed][key] for seed in by_seed]) / errors
            low, high = ratio.min(), ratio.max()
            cells.append(f"{np.exp(np.log(ratio).mean()):.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("pretrained", type=Path, help="pretraining run of the molecule")
    parser.add_argument("--set", default="ethanol", choices=SIZES, help="labelled pool")
    parser.add_argument("--published", type=Path, help="folder with the published 3BPA")
    parser.add_argument("--directory", type=Path, default=Path("runs/selection"), help="results")
    parser.add_argument("--data", type=Path, default=Path("data"), help="data sets")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--start", type=int, default=10, help="random labels to begin with")
    parser.add_argument("--number", type=int, default=25, help="labels to buy")
    parser.add_argument("--rounds", type=int, default=1, help="rounds to buy them in")
    parser.add_argument("--members", type=int, default=4, help="models of a committee")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--parallel", type=int, default=n_cores(), help="loops at once")
    parser.add_argument("--overrides", nargs="*", default=[], help="further Hydra overrides")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    s = parser.parse_args()
    if s.number % s.rounds:
        parser.error(f"--number {s.number} is no multiple of --rounds {s.rounds}")
    if s.set == "3bpa" and s.published is None:
        parser.error(f"--set 3bpa needs --published, the folder with {FILE_3BPA}")
    path = database(s)
    cells = [(method, seed) for seed in s.seeds for method in s.methods]
    with ThreadPoolExecutor(s.parallel) as pool:
        found = list(pool.map(lambda cell: run(s, path, *cell), cells))
    loops = dict(zip(cells, found, strict=True))
    rounds = {m: {str(x): loops[m, x]["rounds"] for x in s.seeds} for m in s.methods}
    last = {m: {seed: r[-1]["test"] for seed, r in rows.items()} for m, rows in rounds.items()}
    if s.output:
        names = ("set", "start", "number", "rounds", "members", "seeds", "steps", "rate")
        chosen = {name: getattr(s, name) for name in names}
        write_json(s.output, {"schema": 1, "settings": chosen, "test": last, "rounds": rounds})
    print(table(last))


if __name__ == "__main__":
    main()
