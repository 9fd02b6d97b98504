"""Test errors of a study's runs, for molecules with and without an element.

    python benchmarks/elements.py runs/study_tpainn_qm9 F

An element that no training label has keeps the offset of the prior; this shows what that costs.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers
from ase.db import connect

MEV = 1e3  # meV in an eV


def has_element(database: Path, z: int) -> np.ndarray:
    """Whether each row of a database has atoms of an element, shape (n_rows,)."""
    with connect(str(database), use_lock_file=False) as db:
        return np.array([z in row.numbers for row in db.select(include_data=False)])


def main() -> None:
    """Print a table in Markdown, one line for each strategy, number of labels and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder with study.json")
    parser.add_argument("element", help="symbol")
    s = parser.parse_args()
    study = json.loads((s.study / "study.json").read_text())
    present = has_element(Path(study["data"]["path"]), atomic_numbers[s.element])
    print(f"| strategy | N | seed | labels with {s.element} | all | with | without |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for strategy, cells in study["strategies"].items():
        for n, cell in cells.items():
            for seed in cell["energy"]["by_seed"]:
                run = s.study / "runs" / f"{strategy}_n{n}_lr{cell['rate']:g}_s{seed}"
                with np.load(s.study / "splits" / f"n{n}_s{seed}.npz") as split:
                    train, test = present[split["train_idx"]], present[split["test_idx"]]
                with np.load(run / "test_predictions.npz") as found:
                    error = MEV * np.abs(found["energy"] - found["energy_label"])
                means = (error.mean(), error[test].mean(), error[~test].mean())
                cost = " | ".join(f"{mean:.0f}" for mean in means)
                print(f"| {strategy} | {n} | {seed} | {train.sum()} | {cost} |")


if __name__ == "__main__":
    main()
