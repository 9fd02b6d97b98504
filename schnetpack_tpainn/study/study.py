"""Data-efficiency study: strategies side by side over numbers of labels and seeds."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from schnetpack_tpainn.errors import StudyError
from schnetpack_tpainn.study.baselines import baseline_errors
from schnetpack_tpainn.study.comparison import read_run
from schnetpack_tpainn.study.jobs import Job
from schnetpack_tpainn.study.labels import prepare_labels, write_splits
from schnetpack_tpainn.study.plan import Compose, Plan
from schnetpack_tpainn.study.results import collect, write_results
from schnetpack_tpainn.study.settings import METRICS, StudySettings

__all__ = ["Study"]

log = logging.getLogger(__name__)

Cell = tuple[str, int]  # strategy and number of labels


class Study:
    """Runs what is missing of a study and writes its results.

    Every strategy has the same labels, test frames, batches and optimiser steps; its learning rate
    is the best of one grid by the validation error of the first seeds, for every number of labels.

    Args:
        settings: the study.
        overrides: Hydra overrides of every tuning run, ``experiment=...`` among them.
        compose: makes the configuration of a run from its overrides.
        execute: runs jobs; those that are finished are left out before.
    """

    def __init__(
        self,
        settings: StudySettings,
        overrides: Sequence[str],
        compose: Compose,
        execute: Callable[[Sequence[Job]], None],
    ) -> None:
        self.s = settings
        self.overrides = overrides
        self.compose = compose
        self.execute = execute

    def run(self) -> dict[str, Any]:
        """Run and compare.

        Returns:
            The content of ``study.json``. Refuses with ``StudyError`` what cannot be compared.
        """
        self.s.directory.mkdir(parents=True, exist_ok=True)
        largest = f"data.num_train={max(self.s.n_train)}"
        data: Any = self.compose([*self.overrides, largest]).data
        database = prepare_labels(data)
        splits = write_splits(self.s, data, database)
        self.plan = Plan(self.s, self.overrides, splits, self.compose)
        self.plan.check_models()
        self._stages()
        rates = self._rates()
        chosen = {cell: min(errors, key=lambda r: errors[r]) for cell, errors in rates.items()}
        runs = {
            (k, n): [self.plan.tuning(k, n, rate, seed) for seed in self.s.seeds[n]]
            for (k, n), rate in chosen.items()
        }
        self._execute("the other seeds", [job for jobs in runs.values() for job in jobs])
        reports = {cell: [read_run(job.directory) for job in jobs] for cell, jobs in runs.items()}
        self._check_budget(reports)
        baselines = baseline_errors(self.s.baselines, database, splits, data.energy_key)
        directories = {cell: [job.directory for job in jobs] for cell, jobs in runs.items()}
        results = collect(self.s, rates, reports, directories, baselines)
        results["overrides"] = list(self.overrides)
        write_results(self.s.directory, results)
        return results

    def _execute(self, what: str, jobs: Sequence[Job]) -> None:
        jobs = list({job.directory: job for job in jobs}.values())
        self.plan.claim(jobs)
        todo = [job for job in jobs if not job.finished]
        log.info("%s: %d runs, %d of them finished before", what, len(jobs), len(jobs) - len(todo))
        if todo:
            self.execute(todo)

    def _stages(self) -> None:
        """Every stage, each after the one it begins from."""
        labels = [(n, seed) for n, seeds in self.s.seeds.items() for seed in seeds]
        for name in self.s.stages:
            jobs = [self.plan.stage(name, n, seed) for n, seed in labels]
            self._execute(f"stage {name}", jobs)

    def _rates(self) -> dict[Cell, dict[float, float]]:
        """Validation error of every strategy and number of labels by learning rate."""
        cells = [(k, n) for n in self.s.n_train for k in self.s.strategies]
        errors: dict[Cell, dict[float, float]] = {cell: {} for cell in cells}
        asked = {cell: list(self.s.rates) for cell in cells}
        for further in range(self.s.further_rates + 1):
            jobs = {
                (cell, rate): [
                    self.plan.tuning(*cell, rate, seed)
                    for seed in self.s.seeds[cell[1]][: self.s.rate_seeds]
                ]
                for cell, rates in asked.items()
                for rate in rates
            }
            what = "learning rates" if further == 0 else "learning rates beyond the edge"
            self._execute(what, [job for group in jobs.values() for job in group])
            for (cell, rate), group in jobs.items():
                errors[cell][rate] = float(np.mean([self._validation(job) for job in group]))
            asked = {cell: more for cell, found in errors.items() if (more := _beyond(found))}
            if not asked:
                break
        return {cell: dict(sorted(found.items())) for cell, found in errors.items()}

    def _validation(self, job: Job) -> float:
        """Validation error that the learning rate is chosen by; not finite is the worst."""
        report = read_run(job.directory)
        key = METRICS[self.s.metric][0]
        if key not in report["validation"]:
            raise StudyError(
                f"study.metric={self.s.metric}: {job.directory} has no {key}; labels without "
                "forces need study.metric=energy"
            )
        error = float(report["validation"][key])
        return error if np.isfinite(error) else np.inf

    def _check_budget(self, reports: Mapping[Cell, Sequence[Mapping[str, Any]]]) -> None:
        """Refuse to compare runs of different length or other data."""
        for n in self.s.n_train:
            found = {
                (report["optimiser_steps"], report["n_train"], report["n_test"])
                for strategy in self.s.strategies
                for report in reports[strategy, n]
            }
            if len(found) != 1:
                raise StudyError(
                    f"expected the same optimiser steps, labels and test frames for {n} labels, "
                    f"got {sorted(found)}; delete the runs that differ in {self.s.directory}"
                )


def _beyond(errors: Mapping[float, float]) -> list[float]:
    """The next rate outside of a grid whose best one is its edge."""
    rates = sorted(errors)
    best = min(rates, key=lambda r: errors[r])
    if len(rates) < 2 or not np.isfinite(errors[best]):
        return []
    if best == rates[0]:
        return [float(f"{rates[0] ** 2 / rates[1]:.3g}")]
    if best == rates[-1]:
        return [float(f"{rates[-1] ** 2 / rates[-2]:.3g}")]
    return []
