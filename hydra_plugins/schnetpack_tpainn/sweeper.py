"""Sweepers whose runs a section of the configuration describes, through any Hydra launcher.

Hydra imports this module in every Hydra application of the environment, so it imports Hydra only.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

__all__ = ["EnsembleSweeper", "LadderSweeper", "StudySweeper"]


class SectionSweeper(Sweeper):
    """Runs what one section of the configuration describes.

    With Hydra's basic launcher the runs are processes of this machine, side by side; any other
    launcher (``hydra/launcher=joblib``, ``submitit_slurm``, ``ray``) gets them as its jobs.
    """

    config: Any
    hydra_context: Any
    launcher: Any
    section: str
    sweeps: str  # what may have several values
    error: str  # name of the class of its errors

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what the jobs need.

        Args:
            hydra_context: gives the loader of configurations.
            task_function: SchNetPack's training.
            config: the configuration, Hydra's included.
        """
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._n_launched = 0

    @abstractmethod
    def run(
        self,
        section: dict[str, Any],
        overrides: list[str],
        compose: Callable[[Sequence[str]], DictConfig],
        execute: Callable[[Sequence[Any], int | None], None],
    ) -> Any:
        """Run what the section describes, and show the results.

        Args:
            section: the section, plain.
            overrides: overrides of every run.
            compose: makes the configuration of a run from its overrides.
            execute: trains jobs, so many at once on this machine, and waits.

        Returns:
            The results.
        """

    def sweep(self, arguments: list[str]) -> Any:
        """Run all.

        Args:
            arguments: overrides of the command line, Hydra's own left out.

        Returns:
            The results.

        Raises:
            SystemExit: something cannot be run; its text says what to do.
        """
        from schnetpack_tpainn.errors import TPaiNNError
        from schnetpack_tpainn.study.jobs import run_jobs

        HydraConfig.instance().set_config(self.config)  # for the resolver `hydra:`
        last = {a.partition("=")[0]: a for a in arguments}  # of each key, as Hydra takes it
        own = (self.section, f"transfer/{self.section}")
        overrides = [a for k, a in last.items() if not k.lstrip("+~").startswith(own)]
        loader: ConfigLoader = self.hydra_context.config_loader
        basic = self.config.hydra.launcher._target_.endswith("BasicLauncher")
        cwd = Path(self.config.hydra.runtime.cwd)

        def execute(jobs: Sequence[Any], parallel: int | None) -> None:
            if basic:
                run_jobs(jobs, cwd, parallel)
            else:
                self._launch(jobs)

        def compose(words: Sequence[str]) -> DictConfig:
            return loader.load_sweep_config(self.config, list(words))

        try:
            self._refuse_sweeps(overrides)
            section: Any = OmegaConf.to_container(self.config[self.section], resolve=True)
            return self.run(section, overrides, compose, execute)
        except TPaiNNError as error:
            raise SystemExit(f"{type(error).__name__}: {error}") from error

    def _refuse_sweeps(self, overrides: list[str]) -> None:
        """A comma is a sweep to Hydra, and no run could be named after it."""
        from schnetpack_tpainn import errors

        kind = getattr(errors, self.error)
        for override in OverridesParser.create().parse_overrides(overrides):
            if override.is_sweep_override():
                raise kind(f"expected one value, got {override.input_line}; {self.sweeps}")

    def _launch(self, jobs: Sequence[Any]) -> None:
        """Hand jobs to the launcher and wait for them."""
        batch = [
            [
                *job.overrides,
                f"run.path={job.directory.parent}",
                f"run.id={job.directory.name}",
                f"hydra.sweep.dir={job.directory.parent}",
                f"hydra.sweep.subdir={job.directory.name}",
            ]
            for job in jobs
        ]
        for result in self.launcher.launch(batch, initial_job_idx=self._n_launched):
            _ = result.return_value  # raises what the job raised
        self._n_launched += len(batch)


class StudySweeper(SectionSweeper):
    """Runs the data-efficiency study that the ``study`` section describes."""

    section, error = "study", "StudyError"
    sweeps = "a study sweeps over study.n_train, study.seeds, study.rates and study.compare"

    def run(
        self,
        section: dict[str, Any],
        overrides: list[str],
        compose: Callable[[Sequence[str]], DictConfig],
        execute: Callable[[Sequence[Any], int | None], None],
    ) -> Any:
        """Run the study; see the base class."""
        from schnetpack_tpainn.study.results import show
        from schnetpack_tpainn.study.settings import StudySettings
        from schnetpack_tpainn.study.study import Study

        settings = StudySettings.read(section)

        def train(jobs: Sequence[Any]) -> None:
            execute(jobs, settings.parallel)

        results = Study(settings, overrides, compose, train).run()
        show(results, settings.directory)
        return results


class EnsembleSweeper(SectionSweeper):
    """Trains and calibrates the ensemble that the ``ensemble`` section describes."""

    section, error = "ensemble", "EnsembleError"
    sweeps = "the members of an ensemble differ by seed and, with ensemble.resampling, by labels"

    def run(
        self,
        section: dict[str, Any],
        overrides: list[str],
        compose: Callable[[Sequence[str]], DictConfig],
        execute: Callable[[Sequence[Any], int | None], None],
    ) -> Any:
        """Train the ensemble; see the base class."""
        from schnetpack_tpainn.ensemble.ensemble import Ensemble
        from schnetpack_tpainn.ensemble.results import show
        from schnetpack_tpainn.ensemble.settings import EnsembleSettings

        settings = EnsembleSettings.read(section)

        def train(jobs: Sequence[Any]) -> None:
            execute(jobs, settings.parallel)

        results = Ensemble(settings, overrides, compose, train).run()
        show(results, settings.directory)
        return results


class LadderSweeper(SectionSweeper):
    """Climbs the ladder of teachers that the ``ladder`` section describes."""

    section, error = "ladder", "LadderError"
    sweeps = "a ladder has one run for each of ladder.rungs"

    def run(
        self,
        section: dict[str, Any],
        overrides: list[str],
        compose: Callable[[Sequence[str]], DictConfig],
        execute: Callable[[Sequence[Any], int | None], None],
    ) -> Any:
        """Climb the ladder; see the base class."""
        from schnetpack_tpainn.ladder.ladder import Ladder
        from schnetpack_tpainn.ladder.results import show_results
        from schnetpack_tpainn.ladder.settings import LadderSettings

        settings = LadderSettings.read(section)

        def train(jobs: Sequence[Any]) -> None:
            execute(jobs, None if len(jobs) > 1 else 1)  # one run alone has all cores

        results = Ladder(settings, overrides, compose, train).run()
        show_results(results, settings.directory)
        return results
