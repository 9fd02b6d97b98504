"""``tpainn-demo``: pretrain, autotune, compare with scratch and run MD, on ethanol, in minutes."""

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.logging import RichHandler

from schnetpack_tpainn.cli.demo_training import LEARNING_RATES, Training, has_xtb
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import TPaiNNError
from schnetpack_tpainn.files import claim_directory, write_json
from schnetpack_tpainn.study.comparison import (
    force_field_predictions,
    history,
    markdown,
    read_run,
    summary,
    table,
)

__all__ = ["main"]

log = logging.getLogger(__name__)

FORCE_FIELD = {
    "_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField",
    "force_field": "MMFF94",
    "smiles": "CCO",
}
DFT = {"_target_": "schnetpack_tpainn.data.pyscf.PySCF", "n_threads": 1}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line.

    Args:
        argv: arguments; the process's own when None.

    Returns:
        The settings.
    """
    parser = argparse.ArgumentParser(
        prog="tpainn-demo",
        description="The whole path on ethanol: MMFF94 -> pretrain -> autotune on a few wB97X-D3BJ "
        "labels; with GFN2-xTB between, refitted to the labels, where tblite is installed; from "
        "scratch; evaluation, MD. Steps that are done are not repeated, a killed demo goes on "
        "where it was.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--directory", type=Path, default=Path("runs/demo"), help="results")
    parser.add_argument("--data", type=Path, default=Path("data"), help="data sets")
    parser.add_argument("--n-train", type=int, default=10, help="DFT labels to train on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    parser.add_argument("--pretrain-steps", type=int, default=4000, help="optimiser steps")
    parser.add_argument("--pretrain-frames", type=int, default=3000, help="MMFF94 frames")
    parser.add_argument("--xtb-steps", type=int, default=3000, help="optimiser steps; 0: no xTB")
    parser.add_argument("--tune-steps", type=int, default=1000, help="optimiser steps")
    parser.add_argument("--md-ps", type=float, default=10.0, help="length of the MD in ps")
    parser.add_argument(
        "--md-reference", type=int, default=4, help="MD frames to compare with DFT; 0: none"
    )
    return parser.parse_args(argv)


class Demo:
    """The steps of the demo and what they leave behind.

    Args:
        settings: command-line settings.
    """

    def __init__(self, settings: argparse.Namespace) -> None:
        self.s = settings
        self.root = settings.directory.resolve()
        self.seconds: dict[str, float] = {}
        self.xtb = settings.xtb_steps > 0 and has_xtb()
        plain = {k: str(v) for k, v in vars(settings).items() if k not in ("directory", "data")}
        claim_directory(self.root, plain, "demo")
        finished = self.root / "report.json"
        self.earlier = read_run(self.root)["wall_time_s"] if finished.is_file() else {}

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Announce a step and keep its time."""
        log.info(title)
        start = time.monotonic()
        yield
        # a step that was done before keeps its time
        self.seconds[name] = max(round(time.monotonic() - start, 1), self.earlier.get(name, 0.0))

    def dynamics(self, model: Path) -> dict[str, Any]:
        """NVE of the best model, and its forces against DFT along the way."""
        from schnetpack_tpainn.md import (
            MDSettings,
            TPaiNNCalculator,
            compare_with_reference,
            read_structure,
            run_md,
        )

        settings = MDSettings(duration_ps=self.s.md_ps, equilibration_ps=min(1.0, self.s.md_ps))
        calculator = TPaiNNCalculator(str(model))
        result = run_md(settings, read_structure("CCO"), calculator, self.root / "md")
        (self.root / "md_energy.png").write_bytes(result.figure.read_bytes())
        report: dict[str, Any] = {
            "duration_ps": result.survival_ps,
            "steps_per_s": result.steps_per_s,
            "mean_temperature_k": result.mean_temperature_k,
            "drift": None if result.drift is None else asdict(result.drift),
        }
        if self.s.md_reference:
            against = compare_with_reference(result.trajectory, DFT, self.s.md_reference)
            report["against_dft"] = asdict(against)
        return report

    def evaluate(self, runs: dict[str, list[Path]]) -> dict[str, Any]:
        """Errors of force field and networks on the same test frames, and figures."""
        from schnetpack_tpainn.study.figures import bars, curves, parity, save

        classical = force_field_predictions(runs["autotune"][0], FORCE_FIELD)
        reports = {name: [read_run(d) for d in seeds] for name, seeds in runs.items()}
        predictions: dict[str, Any] = {"force field": classical}
        for name, seeds in runs.items():
            predictions[name] = dict(np.load(seeds[0] / "test_predictions.npz"))
        test = summary(classical, reports)
        errors = {name: [r["test"] for r in seeds] for name, seeds in reports.items()}
        histories = {name: [history(d) for d in seeds] for name, seeds in runs.items()}
        save(parity(predictions), self.root / "parity.png")
        save(curves(histories), self.root / "learning.png")
        save(bars({"force field": [test["force_field"]], **errors}), self.root / "errors.png")
        return test

    def run(self, console: Console) -> None:
        """All steps, then the report."""
        training = Training(self.s, self.root)
        with self.step("pretrain", "1/5 sampling MMFF94 and pretraining on it"):
            training.pretrain()
        with self.step("xtb", f"2/5 {'GFN2-xTB on the same frames' if self.xtb else 'no xTB'}"):
            if self.xtb:
                training.xtb()
        n = self.s.n_train
        with self.step("tune", f"3/5 autotuning on {n} DFT labels, and training from scratch"):
            runs = training.tune(self.xtb)
        with self.step("evaluate", "4/5 evaluating on the held-out DFT frames"):
            test = self.evaluate(runs)
        best = "recipe" if self.xtb else "autotune"
        with self.step("md", f"5/5 {self.s.md_ps:g} ps of molecular dynamics"):
            md = self.dynamics(runs[best][0] / "best_model")
        self.write(runs, test, md)
        first = read_run(runs["autotune"][0])
        title = f"ethanol, {n} DFT labels, {len(self.s.seeds)} seeds, {first['n_test']} test frames"
        console.print(table(title, test))
        console.print(f"report, plots, models: {self.root}")

    def write(self, runs: dict[str, list[Path]], test: dict[str, Any], md: dict[str, Any]) -> None:
        """Write ``report.json`` and ``report.md``."""
        first = read_run(runs["autotune"][0])
        report = {
            "schema": 2,
            "stage": "demo",
            "n_train": self.s.n_train,
            "seeds": self.s.seeds,
            "optimiser_steps": self.s.tune_steps,
            "learning_rates": {name: LEARNING_RATES[name] for name in runs},
            "test": test,
            "zero_shot": [read_run(d)["zero_shot"] for d in runs["autotune"]],
            "pretrain_test": read_run(self.root / "pretrain")["test"],
            "md": md,
            "wall_time_s": self.seconds,
            "data": first["data"],
            "versions": software_versions(),
        }
        figures = ["errors.png", "parity.png", "learning.png", "md_energy.png"]
        title = f"T-PaiNN on ethanol, {self.s.n_train} DFT labels"
        (self.root / "report.md").write_text(markdown(title, test, self.notes(md), figures))
        write_json(self.root / "report.json", report)

    def notes(self, md: dict[str, Any]) -> list[str]:
        """Paragraphs of the Markdown report."""
        notes = [
            f"Mean absolute errors on the held-out frames; mean ± standard deviation over seeds "
            f"{self.s.seeds}, which choose the labels and the random start. The force field's "
            f"zero of energy is fitted to the same {self.s.n_train} labels. All networks took "
            f"{self.s.tune_steps} optimiser steps on the labels."
        ]
        drift = md["drift"]
        if drift:
            notes.append(
                f"NVE dynamics of the last model of the table: {md['duration_ps']:g} ps at "
                f"{md['steps_per_s']:.0f} steps/s, total energy drifts by "
                f"{drift['slope_mev_per_atom_per_ps']:.3g} meV/atom/ps, mean temperature "
                f"{md['mean_temperature_k']:.0f} K (of nine atoms, it scatters by a fifth)."
            )
        if "against_dft" in md:
            notes.append(
                f"Forces of that model along that trajectory against DFT: MAE "
                f"{md['against_dft']['force_mae_mev_per_ang']:.0f} meV/Å."
            )
        return notes


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo.

    Args:
        argv: command line; the process's own when None.

    Raises:
        SystemExit: something failed; its text says what to do.
    """
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        datefmt="[%X]",
        handlers=[RichHandler(show_path=False, show_level=False)],
    )
    try:
        Demo(parse(argv)).run(Console())
    except TPaiNNError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
