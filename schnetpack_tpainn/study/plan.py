"""The runs of a study: names, folders, overrides."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from schnetpack_tpainn.errors import StudyError
from schnetpack_tpainn.study.jobs import Job, claim_jobs
from schnetpack_tpainn.study.settings import Branch, StudySettings

__all__ = ["SHARED", "Compose", "Plan"]

Compose = Callable[[Sequence[str]], DictConfig]
# what a user sets for tuning and pretraining alike
SHARED = ("model", "globals.cutoff", "run.data_dir", "trainer.accelerator", "trainer.devices")


class Plan:
    """Makes the runs of a study, and refuses what an earlier call ran otherwise.

    Args:
        settings: the study.
        overrides: Hydra overrides of every tuning run, ``experiment=...`` among them.
        splits: number of labels and seed -> file with the indices.
        compose: makes the configuration of a run from its overrides.
    """

    def __init__(
        self,
        settings: StudySettings,
        overrides: Sequence[str],
        splits: Mapping[tuple[int, int], Path],
        compose: Compose,
    ) -> None:
        self.s = settings
        self.overrides = tuple(overrides)
        self.splits = splits
        self.compose = compose
        self._steps: dict[tuple[str, ...], int] = {}

    def stage(self, name: str, n: int, seed: int) -> Job:
        """Run of a stage; one for all labels where it does not depend on them.

        Args:
            name: the stage.
            n: number of labels.
            seed: seed of the run that begins from it.

        Returns:
            The run.
        """
        stage = self.s.stages[name]
        of_labels = self.s.of_labels(stage)
        folder = f"{name}_n{n}_s{seed}" if of_labels else name
        shared = [o for o in self.overrides if o.lstrip("+~").startswith(SHARED)]
        return self._job(stage, n, seed, f"stages/{folder}", (*stage.overrides, *shared))

    def tuning(self, name: str, n: int, rate: float, seed: int) -> Job:
        """Run of a strategy.

        Args:
            name: the strategy.
            n: number of labels.
            rate: learning rate.
            seed: seed of labels, random start and batches.

        Returns:
            The run.
        """
        strategy = self.s.strategies[name]
        own = (
            f"globals.lr={rate:g}",
            f"data.num_train={n}",
            f"data.split_file={self.splits[n, seed]}",
            f"seed={seed}",
        )
        words = (*self.overrides, *strategy.overrides, *own)
        return self._job(strategy, n, seed, f"runs/{name}_n{n}_lr{rate:g}_s{seed}", words)

    def _job(self, branch: Branch, n: int, seed: int, folder: str, overrides: Sequence[str]) -> Job:
        values = {"{n_train}": str(n), "{seed}": str(seed), "{split}": str(self.splits[n, seed])}
        words = [*overrides, "print_config=false"]
        if branch.checkpoint is not None:
            words.append(f"transfer.checkpoint={self._start(branch.checkpoint, n, seed)}")
        for placeholder, value in values.items():
            words = [word.replace(placeholder, value) for word in words]
        return Job(self.s.directory / folder, tuple(words), self._max_steps(branch, words))

    def _start(self, checkpoint: str, n: int, seed: int) -> Path:
        if checkpoint in self.s.stages:
            return self.stage(checkpoint, n, seed).directory
        return Path(checkpoint).resolve()

    def _max_steps(self, branch: Branch, overrides: Sequence[str]) -> int:
        """Optimiser steps, by composing the configuration once for each branch."""
        key = (branch.name, *branch.overrides)
        if key not in self._steps:
            config = self.compose(overrides)
            steps = OmegaConf.select(config, "trainer.max_steps")
            if not isinstance(steps, int) or steps < 1:
                raise StudyError(
                    f"expected trainer.max_steps for {branch.name}, got {steps}: the strategies "
                    "are compared after the same number of optimiser steps"
                )
            self._steps[key] = steps
        return self._steps[key]

    def check_models(self) -> None:
        """Refuse a strategy or stage whose network is not that of the stage it begins from.

        Raises:
            StudyError: they differ, which else would show only after that stage's training.
        """
        n, seed = next(iter(self.splits))
        jobs = {name: self.stage(name, n, seed) for name in self.s.stages}
        for name, strategy in self.s.strategies.items():
            jobs[f"study.strategies.{name}"] = self.tuning(name, n, self.s.rates[0], seed)
            self._check_model(jobs, f"study.strategies.{name}", strategy.checkpoint)
        for name, stage in self.s.stages.items():
            self._check_model(jobs, name, stage.checkpoint)

    def _check_model(self, jobs: Mapping[str, Job], name: str, start: str | None) -> None:
        if start not in self.s.stages:
            return
        own, first = (
            OmegaConf.to_container(self.compose(jobs[k].overrides).model.representation)
            for k in (name, start)
        )
        if own != first:
            raise StudyError(
                f"expected {name} to have the network of stage {start}, which it begins from; its "
                f"model.representation is {own}, the stage's {first}: set model... on the command "
                "line, which holds for both, or in both"
            )

    def claim(self, jobs: Sequence[Job]) -> None:
        """Remember the overrides of runs; refuses with ``StudyError`` another run of their names.

        Args:
            jobs: the runs.
        """
        claim_jobs(self.s.directory, jobs, "study.directory", StudyError)
