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
    def parts(self) -> tuple[Any, Any, Callable[[Any, Path], None]]:
        """What the section is read by, what runs it, and what shows its results."""

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

        def compose(words: Sequence[str]) -> DictConfig:
            return loader.load_sweep_config(self.config, list(words))

        try:
            self._refuse_sweeps(overrides)
            section: Any = OmegaConf.to_container(self.config[self.section], resolve=True)
            reader, runner, show = self.parts()
            settings = reader.read(section)

            def execute(jobs: Sequence[Any]) -> None:
                if basic:
                    run_jobs(jobs, cwd, settings.parallel)
                else:
                    self._launch(jobs)

            results = runner(settings, overrides, compose, execute).run()
        except TPaiNNError as error:
            raise SystemExit(f"{type(error).__name__}: {error}") from error
        show(results, settings.directory)
        return results

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

    def parts(self) -> tuple[Any, Any, Callable[[Any, Path], None]]:
        """See the base class."""
        from schnetpack_tpainn.study.results import show
        from schnetpack_tpainn.study.settings import StudySettings
        from schnetpack_tpainn.study.study import Study

        return StudySettings, Study, show


class EnsembleSweeper(SectionSweeper):
    """Trains and calibrates the ensemble that the ``ensemble`` section describes."""

    section, error = "ensemble", "EnsembleError"
    sweeps = "the members of an ensemble differ by seed and, with ensemble.resampling, by labels"

    def parts(self) -> tuple[Any, Any, Callable[[Any, Path], None]]:
        """See the base class."""
        from schnetpack_tpainn.ensemble.ensemble import Ensemble
        from schnetpack_tpainn.ensemble.results import show
        from schnetpack_tpainn.ensemble.settings import EnsembleSettings

        return EnsembleSettings, Ensemble, show


class LadderSweeper(SectionSweeper):
    """Climbs the ladder of teachers that the ``ladder`` section describes."""

    section, error = "ladder", "LadderError"
    sweeps = "a ladder has one run for each of ladder.rungs"

    def parts(self) -> tuple[Any, Any, Callable[[Any, Path], None]]:
        """See the base class."""
        from schnetpack_tpainn.ladder.ladder import Ladder
        from schnetpack_tpainn.ladder.results import show
        from schnetpack_tpainn.ladder.settings import LadderSettings

        return LadderSettings, Ladder, show
