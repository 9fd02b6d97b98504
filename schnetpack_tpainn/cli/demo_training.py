"""The training runs of the demo."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from schnetpack_tpainn.study.jobs import Job, run_jobs, validation_interval

__all__ = ["LEARNING_RATES", "Training", "has_xtb"]

# by validation forces (benchmarks/ethanol.py, docs/benchmarks/teachers.md)
LEARNING_RATES = {"scratch": 1e-3, "autotune": 5e-4, "recipe": 5e-4}
STRATEGIES = {
    "scratch": ("transfer=scratch",),
    "autotune": ("transfer=full", "transfer.checkpoint={root}/pretrain"),
    "recipe": ("transfer=full", "transfer.checkpoint={root}/xtb", "transfer/replay=refitted"),
}


def has_xtb() -> bool:
    """Whether GFN2-xTB can be computed here."""
    return find_spec("tblite") is not None


class Training:
    """Runs below the demo's directory, which are not repeated when they are finished.

    Args:
        settings: command-line settings of the demo.
        root: the demo's directory.
    """

    def __init__(self, settings: argparse.Namespace, root: Path) -> None:
        self.s = settings
        self.root = root
        self.frames = root / "ethanol_mmff94.db"

    def job(self, name: str, experiment: str, steps: int, *overrides: str) -> Job:
        """A training run."""
        common = (
            f"run.data_dir={self.s.data.resolve()}",
            f"trainer.max_steps={steps}",
            "print_config=false",
        )
        return Job(self.root / name, (f"experiment={experiment}", *common, *overrides), steps)

    def pretrain(self) -> None:
        """Sample MMFF94 and learn it."""
        self._teach("pretrain", self.s.pretrain_steps, f"data.datapath={self.frames}")

    def xtb(self) -> None:
        """Label the same frames with GFN2-xTB, and go on with them."""
        self._teach(
            "xtb",
            self.s.xtb_steps,
            "data/source=tpainn_relabel",
            f"data.datapath={self.root / 'ethanol_gfn2.db'}",
            f"data.source.frames={self.frames}",
            "data.source.max_failed=0",
            "transfer=full",
            f"transfer.checkpoint={self.root / 'pretrain'}",
            "globals.lr=1e-3",
        )

    def _teach(self, name: str, steps: int, *overrides: str) -> None:
        n = self.s.pretrain_frames
        job = self.job(
            name,
            "tpainn_pretrain",
            steps,
            *overrides,
            f"data.source.n_frames={n}",
            f"data.num_train={n - 2 * (n // 10)}",
            f"data.num_val={n // 10}",
            f"data.num_test={n // 10}",
            f"trainer.val_check_interval={validation_interval(steps, 8)}",
        )
        run_jobs([job])

    def tune(self, with_xtb: bool) -> dict[str, list[Path]]:
        """Autotune and train from scratch, for every seed.

        Args:
            with_xtb: also from GFN2-xTB, refitted to the labels.

        Returns:
            Run directories of each strategy, one per seed.
        """
        steps = self.s.tune_steps
        jobs: dict[str, list[Job]] = {
            name: [
                self.job(
                    f"{name}_{seed}",
                    "tpainn_autotune",
                    steps,
                    *(word.format(root=self.root) for word in overrides),
                    f"globals.lr={LEARNING_RATES[name]}",
                    f"data.num_train={self.s.n_train}",
                    f"trainer.val_check_interval={validation_interval(steps, 20)}",
                    f"seed={seed}",
                )
                for seed in self.s.seeds
            ]
            for name, overrides in STRATEGIES.items()
            if with_xtb or name != "recipe"
        }
        run_jobs([job for pair in zip(*jobs.values(), strict=True) for job in pair])
        return {name: [job.directory for job in seeds] for name, seeds in jobs.items()}
