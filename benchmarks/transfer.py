"""Strategies of the transfer side by side: errors on three DFT data sets after 10 and 50 labels.

    python benchmarks/transfer.py --published DIR --output docs/benchmarks/transfer.json

It pretrains on MMFF94 (ethanol and 3BPA), chooses the learning rate of each strategy by the
validation forces on the shipped ethanol labels at the smallest number of labels (a grid whose best
rate is its edge is extended), then runs every strategy, data set, number of labels and seed with
the same number of optimiser steps. No test frame takes part in a choice. Finished runs are not
repeated. DIR holds the published data sets (rMD17 ethanol, 3BPA) as extended XYZ; without it, only
the shipped ethanol is run.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schnetpack_tpainn.files import write_json
from schnetpack_tpainn.study.comparison import history, read_run
from schnetpack_tpainn.study.jobs import Job, run_jobs

STRATEGIES = {
    "scratch": ["transfer=scratch"],
    "full": ["transfer=full"],
    "full, no alignment": [
        "transfer=full",
        "transfer.align.mode=none",
        "transfer.final_bias_refit=false",
    ],
    "head_only": ["transfer=head_only"],
    "gradual": ["transfer=gradual"],
    "lora": ["transfer=lora"],
    "anchored": ["transfer=full", "transfer/anchor=ewc"],
    "replay": ["transfer=full", "transfer/replay=frames"],
}
KEYS = ("energy_mae_mev", "forces_mae_mev_per_ang")


@dataclass(frozen=True)
class Labels:
    """A set of DFT labels.

    Attributes:
        title: heading of its table.
        smiles: the molecule, for pretraining.
        files: files to import; the shipped ethanol labels when empty.
        sizes: labels to draw from, validation, test.
    """

    title: str
    smiles: str
    files: tuple[str, ...] = ()
    sizes: tuple[int, int, int] = (0, 50, 500)


LABELS = {
    "ethanol": Labels("ethanol, ωB97X-D3(BJ)/def2-TZVP (shipped)", "CCO"),
    "rmd17": Labels(
        "ethanol, rMD17, PBE/def2-SVP",
        "CCO",
        ("ethanol_rmd17_train.extxyz", "ethanol_rmd17_test.extxyz"),
        (950, 50, 500),
    ),
    "3bpa": Labels(
        "3BPA at 300 K, ωB97X/6-31G(d)",
        "Nc1ncccc1OCc1ccccc1",
        ("3bpa_train_300K.extxyz",),
        (100, 50, 350),
    ),
}


class Study:
    """The runs and what they left.

    Args:
        settings: command line.
    """

    def __init__(self, settings: argparse.Namespace) -> None:
        self.s = settings
        self.root = settings.directory.resolve()
        self.data = settings.data.resolve()
        self.names = [n for n in settings.labels if not LABELS[n].files or settings.published]

    def pretrained(self, smiles: str) -> Path:
        """Directory of the pretraining run of a molecule."""
        return self.root / f"pretrain_{'ethanol' if smiles == 'CCO' else '3bpa'}"

    def pretrain(self) -> None:
        """Sample MMFF94 and learn it, once for every molecule."""
        jobs = []
        for smiles in dict.fromkeys(LABELS[name].smiles for name in self.names):
            directory = self.pretrained(smiles)
            molecule = directory.name.removeprefix("pretrain_")
            overrides = (
                "experiment=tpainn_pretrain",
                f'data.source.structures=["{smiles}"]',
                f"data.datapath={self.data / f'{molecule}_mmff94.db'}",
                "data.num_train=2400",
                "data.num_val=300",
                "data.num_test=300",
                "print_config=false",
            )
            jobs.append(Job(directory, overrides, 4000))
        run_jobs(jobs, parallel=self.s.parallel)

    def split(self, name: str, n: int, seed: int) -> Path:
        """Partition of an imported set: one test part for all, labels drawn by the seed."""
        pool, n_val, n_test = LABELS[name].sizes
        path = self.root / "splits" / f"{name}_n{n}_s{seed}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            n_frames = {"rmd17": 2000, "3bpa": 500}[name]
            first = np.random.default_rng(0).permutation(n_frames)
            rest = np.random.default_rng(seed).permutation(first[n_test : n_test + pool + n_val])
            np.savez(path, train_idx=rest[:n], val_idx=rest[-n_val:], test_idx=first[:n_test])
        return path

    def job(
        self, name: str, strategy: str, n: int, rate: float, seed: int, folder: str = "test"
    ) -> Job:
        """One tuning run."""
        labels = LABELS[name]
        overrides = [
            "experiment=tpainn_autotune",
            *STRATEGIES[strategy],
            f"globals.lr={rate}",
            f"data.num_train={n}",
            f"trainer.max_steps={self.s.steps}",
            f"trainer.val_check_interval={self.s.steps // 4}",
            f"seed={seed}",
            f"run.data_dir={self.data}",
            "print_config=false",
        ]
        if strategy != "scratch":
            overrides.append(f"transfer.checkpoint={self.pretrained(labels.smiles)}")
        if labels.files:
            files = ",".join(str(self.s.published.resolve() / f) for f in labels.files)
            units = ("distance_unit=Ang", "energy_unit=eV", "forces_unit=eV/Ang")
            overrides += [
                "data/source=tpainn_import",
                f"data.source.files=[{files}]",
                *(f"data.source.{unit}" for unit in units),
                f"data.datapath={self.data / f'{name}.db'}",
                f"data.split_file={self.split(name, n, seed)}",
                f"data.num_val={labels.sizes[1]}",
                f"data.num_test={labels.sizes[2]}",
            ]
        run = f"{name}_{strategy.replace(', ', '_').replace(' ', '_')}_n{n}_lr{rate:g}_s{seed}"
        return Job(self.root / folder / run, tuple(overrides), self.s.steps)

    def errors_by_rate(self, strategy: str, rates: Sequence[float]) -> dict[float, float]:
        """Validation force error (meV/Å) of a strategy by learning rate, mean over two seeds."""
        n, seeds = min(self.s.n_train), self.s.seeds[:2]
        grid = {r: [self.job("ethanol", strategy, n, r, s, "rates") for s in seeds] for r in rates}
        run_jobs([j for jobs in grid.values() for j in jobs], parallel=self.s.parallel)
        return {
            r: float(np.mean([history(j.directory)["forces"][-1] for j in jobs]))
            for r, jobs in grid.items()
        }

    def rates(self) -> dict[str, dict[float, float]]:
        """Those errors for every strategy; a grid whose best rate is its edge goes one further."""
        errors = {}
        for strategy in self.s.strategies:
            found = self.errors_by_rate(strategy, self.s.rates)
            while (best := min(found, key=lambda r: found[r])) in (min(found), max(found)):
                beyond = best * 2 if best == max(found) else best / 2
                found |= self.errors_by_rate(strategy, [beyond])
            errors[strategy] = dict(sorted(found.items()))
        return errors

    def run(self) -> dict[str, Any]:
        """Everything; the results in plain values."""
        self.pretrain()
        by_rate = self.rates()
        best = {k: min(errors, key=lambda r: errors[r]) for k, errors in by_rate.items()}
        jobs = {
            (name, k, n): [self.job(name, k, n, best[k], seed) for seed in self.s.seeds]
            for name in self.names
            for n in self.s.n_train
            for k in self.s.strategies
        }
        run_jobs([j for group in jobs.values() for j in group], parallel=self.s.parallel)
        results: dict[str, Any] = {name: {} for name in self.names}
        for (name, k, n), group in jobs.items():
            tests = [read_run(job.directory)["test"] for job in group]
            results[name].setdefault(k, {})[str(n)] = {
                key: [test[key] for test in tests] for key in KEYS
            }
        plain = {k: {f"{rate:g}": e for rate, e in errors.items()} for k, errors in by_rate.items()}
        return {"steps": self.s.steps, "seeds": self.s.seeds, "rates": plain, "test": results}


def _cell(values: Sequence[float]) -> str:
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.1f} ± {spread:.1f}"


def markdown(results: dict[str, Any]) -> str:
    """Tables of the results.

    Args:
        results: what :meth:`Study.run` gave.

    Returns:
        Markdown.
    """
    rates = sorted({r for errors in results["rates"].values() for r in errors}, key=float)
    lines = ["| strategy | " + " | ".join(rates) + " |", "|---|" + "---:|" * len(rates)]
    for strategy, errors in results["rates"].items():
        best = min(errors, key=lambda r: errors[r])
        shown = {r: f"**{e:.1f}**" if r == best else f"{e:.1f}" for r, e in errors.items()}
        cells = [shown.get(r, "") for r in rates]
        lines.append(f"| {strategy} | " + " | ".join(cells) + " |")
    for name, strategies in results["test"].items():
        counts = list(next(iter(strategies.values())))
        heads = [f"N = {n}, {what}" for n in counts for what in ("energy", "forces")]
        lines += ["", f"## {LABELS[name].title}", ""]
        lines += ["| strategy | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
        for strategy, by_n in strategies.items():
            cells = [_cell(by_n[n][key]) for n in counts for key in KEYS]
            lines.append(f"| {strategy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run everything, print tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--published", type=Path, help="folder with the published data sets")
    parser.add_argument("--directory", type=Path, default=Path("runs/transfer"), help="results")
    parser.add_argument("--data", type=Path, default=Path("data"), help="data sets")
    parser.add_argument("--labels", nargs="+", default=list(LABELS), choices=LABELS)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--n-train", type=int, nargs="+", default=[10, 50], help="labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3]
    )
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps")
    parser.add_argument("--parallel", type=int, help="runs at once; null: one per core")
    parser.add_argument("--rates-only", action="store_true", help="stop after the learning rates")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    s = parser.parse_args()
    study = Study(s)
    if s.rates_only:
        study.pretrain()
        print(json.dumps(study.rates(), indent=1))
        return
    results = study.run()
    if s.output:
        write_json(s.output, results)
    print(markdown(results))


if __name__ == "__main__":
    main()
