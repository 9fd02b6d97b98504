"""Autotuned against scratch on the shipped ethanol labels: errors over labels and seeds.

    make demo                                          # pretrains
    python benchmarks/ethanol.py runs/demo/pretrain    # a quarter of an hour on two cores

For each strategy the learning rate is the one with the lowest validation error at the smallest
number of labels, mean over seeds; no test frame takes part in a choice. Every run takes the same
number of optimiser steps. Finished runs are not repeated.
"""

import argparse
from pathlib import Path

import numpy as np

from schnetpack_tpainn.study.comparison import history, read_run
from schnetpack_tpainn.study.jobs import Job, run_jobs

TRANSFER = {"scratch": "scratch", "autotune": "full"}


def job(s: argparse.Namespace, name: str, n: int, rate: float, seed: int) -> Job:
    """One training run."""
    extra = [f"transfer.checkpoint={s.pretrained.resolve()}"] if name == "autotune" else []
    overrides = (
        "experiment=tpainn_autotune",
        f"transfer={TRANSFER[name]}",
        *extra,
        f"globals.lr={rate}",
        f"data.num_train={n}",
        f"trainer.max_steps={s.steps}",
        f"trainer.val_check_interval={s.steps // 4}",
        f"seed={seed}",
        f"run.data_dir={s.data.resolve()}",
        "print_config=false",
    )
    return Job(s.directory.resolve() / f"{name}_n{n}_lr{rate:g}_s{seed}", overrides, s.steps)


def best_rate(s: argparse.Namespace, name: str) -> float:
    """Learning rate with the lowest validation force error; prints all."""
    n = min(s.n_train)
    means = {}
    for rate in s.rates:
        last = [history(job(s, name, n, rate, x).directory)["forces"][-1] for x in s.seeds]
        means[rate] = float(np.mean(last))
    print(f"{name}, N = {n}, validation forces MAE (meV/Å) by learning rate:")
    print("  " + ", ".join(f"{rate:g}: {error:.1f}" for rate, error in means.items()))
    return min(means, key=lambda rate: means[rate])


def main() -> None:
    """Run everything and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pretrained", type=Path, help="pretraining run")
    parser.add_argument("--directory", type=Path, default=Path("runs/ethanol"), help="results")
    parser.add_argument("--data", type=Path, default=Path("data"), help="data sets")
    parser.add_argument("--n-train", type=int, nargs="+", default=[10, 25, 50], help="labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    parser.add_argument("--rates", type=float, nargs="+", default=[2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3])
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps")
    s = parser.parse_args()
    least = min(s.n_train)
    run_jobs([job(s, k, least, r, x) for k in TRANSFER for r in s.rates for x in s.seeds])
    rates = {name: best_rate(s, name) for name in TRANSFER}
    jobs = {(n, k): [job(s, k, n, rates[k], x) for x in s.seeds] for n in s.n_train for k in rates}
    run_jobs([j for group in jobs.values() for j in group])
    print("\n| N | scratch, energy | autotuned | ratio | scratch, forces | autotuned | ratio |")
    print("|---:|" + "---:|" * 6)
    for n in s.n_train:
        cells = []
        for key in ("energy_mae_mev", "forces_mae_mev_per_ang"):
            values = {
                k: np.array([read_run(j.directory)["test"][key] for j in jobs[n, k]]) for k in rates
            }
            cells += [f"{v.mean():.1f} ± {v.std(ddof=1):.1f}" for v in values.values()]
            cells.append(f"{values['scratch'].mean() / values['autotune'].mean():.2f}")
        print(f"| {n} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
