"""Select, label, tune, and again: what is done stays done when a loop is killed."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ase import Atoms

from schnetpack_tpainn.data.additive import read_labelled
from schnetpack_tpainn.data.structures import write_frames
from schnetpack_tpainn.errors import LabelError, SelectionError
from schnetpack_tpainn.files import claim_directory, write_json
from schnetpack_tpainn.selection.labels import (
    LABELS_NAME,
    SPLIT_NAME,
    Labeller,
    Labels,
    refuse_other_level,
)
from schnetpack_tpainn.selection.output import read_selection
from schnetpack_tpainn.selection.pool import bare, check_frames, find_available
from schnetpack_tpainn.selection.select import SelectionSettings, select
from schnetpack_tpainn.study.comparison import read_run
from schnetpack_tpainn.study.jobs import Job, run_jobs

__all__ = ["Loop", "LoopSettings"]

log = logging.getLogger(__name__)

STATE_NAME = "loop.json"
ATTEMPTS = 3  # selections of a round that may fail as a whole before the calculator is suspect
OWN = (
    *("data.datapath", "data.split_file", "data.num_train", "data.num_val=", "data.num_test="),
    *("data/source", "data.source", "data.splitting", "data/resampling", "transfer.checkpoint"),
    *("run.", "seed"),
)


@dataclass(frozen=True)
class LoopSettings:
    """What a loop does.

    Attributes:
        directory: where everything goes.
        rounds: how often to select; more can be added later.
        selection: method, and frames of a round.
        checkpoint: the pretrained model that every tuning run begins from, and in whose features
            ``farthest`` and ``kmeans`` measure: a run directory or a portable file.
        overrides: Hydra overrides of the tuning runs, ``experiment=...`` among them.
        steps: optimiser steps of a run, for the progress bar.
        members: models of a committee.
        parallel: runs at once; one per core when None.

    Raises:
        SelectionError: a number is out of range, or an override is one of the loop's own.
    """

    directory: Path
    rounds: int
    selection: SelectionSettings
    checkpoint: Path
    overrides: tuple[str, ...]
    steps: int
    members: int = 4
    parallel: int | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.members < 2:
            raise SelectionError(
                f"expected one round or more and two members or more, got {self.rounds} and "
                f"{self.members}"
            )
        own = [o for o in self.overrides if o.lstrip("+~").startswith(OWN)]
        if own:
            raise SelectionError(
                f"expected overrides other than those that a loop sets itself, got "
                f"{', '.join(own)}; leave them out"
            )


class Loop:
    """Rounds of select, label and tune.

    Round ``k`` has a folder ``round_0k`` with ``selected.xyz``, the labels that it bought
    (``selected.db``), all labels so far (``labels.db``, ``split.npz``), and the run that was tuned
    on them from the pretrained model. A committee is tuned on bootstrap samples of the labels of
    the round before (``members``); where those are fewer than two, the round chooses by
    ``farthest``. If no frame of a selection can be labelled, others are chosen
    (``selected_2.xyz``). What selects sees structures alone; validation and test frames are never
    chosen.

    Args:
        settings: what to do.
        pool: structures (Å).
        start: labels to begin with.
        labeller: gives new labels.
        identity: what tells pool and labels from others, for the settings of the folder.
        execute: runs jobs; :func:`~schnetpack_tpainn.study.jobs.run_jobs` when None.
    """

    def __init__(
        self,
        settings: LoopSettings,
        pool: Sequence[Atoms],
        start: Labels,
        labeller: Labeller,
        identity: dict[str, Any],
        execute: Callable[[Sequence[Job]], None] | None = None,
    ) -> None:
        self.s = settings
        check_frames(pool, "the pool")
        self.pool = bare(pool)
        self.start = start
        self.labeller = labeller
        self.identity = identity
        self.execute = execute or partial(run_jobs, parallel=settings.parallel)

    def run(self) -> dict[str, Any]:
        """Do what is not done yet.

        Returns:
            The content of ``loop.json``: for each round method, frames, scores, numbers of labels
            and errors on the test frames.
        """
        refuse_other_level(self.start, self.labeller)
        self._check_pool()
        root = self.s.directory
        claim_directory(root, self._settings(), "loop", error=SelectionError)
        labels, failed, rounds = self.start, list[int](), list[dict[str, Any]]()
        before = root / "round_00"
        for number in range(1, self.s.rounds + 1):
            folder = root / f"round_{number:02d}"
            folder.mkdir(exist_ok=True)
            chosen, new = self._bought(number, folder, before, labels, failed)
            bought = {int(atoms.info["pool_index"]) for atoms in new}
            missed = [i for i in map(_index, chosen) if i not in bought]
            failed += missed
            labels = labels.extended(new)
            labels.write(folder)
            job = self._job(folder, labels, "run", self.s.selection.seed)
            self.execute([job])
            rounds.append(_summary(number, chosen, missed, labels, job))
            write_json(root / STATE_NAME, {"schema": 1, "rounds": rounds})
            before = folder
        return {"schema": 1, "rounds": rounds}

    def _settings(self) -> dict[str, Any]:
        """What decides the result; neither the number of rounds nor the machine."""
        selection = asdict(self.s.selection)
        del selection["batch_size"], selection["device"]
        return {
            **self.identity,
            **self.labeller.settings,
            "selection": selection,
            "checkpoint": str(self.s.checkpoint),
            "overrides": list(self.s.overrides),
            "members": self.s.members,
        }

    def _check_pool(self) -> None:
        """Refuse a pool that does not last, before a label is paid for."""
        wanted = self.s.rounds * self.s.selection.n
        known, tolerance = self._never(()), self.s.selection.tolerance_ang
        found = find_available(self.pool, self.start.part(0), known, tolerance)
        if wanted > len(found.index):
            raise SelectionError(
                f"expected {wanted} frames for {self.s.rounds} rounds, got {found}; ask for fewer, "
                "or give a larger pool"
            )

    def _never(self, failed: Sequence[int]) -> list[Atoms]:
        """Frames that must not be chosen: validation, test, and what could not be labelled."""
        kept = bare([*self.start.part(1), *self.start.part(2)])
        return [*kept, *(self.pool[i] for i in failed)]

    def _bought(
        self, number: int, folder: Path, before: Path, labels: Labels, failed: Sequence[int]
    ) -> tuple[list[Atoms], list[Atoms]]:
        """All frames chosen in a round, and its new labels; never none.

        A selection is given up once the next one is written, so that a repeated call finds the
        labels that were bought, and tries the last one again.
        """
        chosen, first = list[Atoms](), 1
        while _selected(folder, first + 1).exists():
            chosen += read_selection(_selected(folder, first))
            first += 1
        for attempt in range(first, first + ATTEMPTS):
            path = _selected(folder, attempt)
            never = [*failed, *map(_index, chosen)]
            selection = self._chosen(number, path, before, labels, never)
            chosen += selection
            database = path.with_suffix(".db")
            if not database.exists():
                self.labeller.label(selection, database)
            if database.exists():
                return chosen, list(read_labelled(database))
        raise LabelError(
            f"expected labels, {ATTEMPTS} selections in a row failed as a whole, the last in "
            f"{path.with_suffix('.failed.extxyz')}; see there whether the calculator works here "
            "and call again: the last selection is tried once more, then others"
        )

    def _chosen(
        self, number: int, path: Path, before: Path, labels: Labels, failed: Sequence[int]
    ) -> list[Atoms]:
        """The frames of a selection, from its file if it is there."""
        if not path.exists():
            settings, models = self.s.selection, [self.s.checkpoint]
            settings = replace(settings, seed=settings.seed + 1000 * number)
            if settings.method == "committee":
                if len(labels.parts[0]) < 2:
                    log.warning("round %d: too few labels for a committee, farthest it is", number)
                    settings = replace(settings, method="farthest")
                else:
                    models = self._committee(before, labels)
            known = bare(labels.part(0))
            found = select(self.pool, settings, models, known, self._never(failed))
            write_frames(path, found.frames)
        return read_selection(path)

    def _committee(self, folder: Path, labels: Labels) -> list[Path]:
        """Models tuned on bootstrap samples of the labels before a round."""
        folder.mkdir(exist_ok=True)
        labels.write(folder)
        sampled = ("data/resampling=tpainn_bootstrap",)
        jobs = [
            self._job(folder, labels, f"members/member_{k}", self.s.selection.seed + k, sampled)
            for k in range(1, self.s.members + 1)
        ]
        self.execute(jobs)
        return [job.directory for job in jobs]

    def _job(
        self, folder: Path, labels: Labels, name: str, seed: int, more: Sequence[str] = ()
    ) -> Job:
        """A tuning run on the labels of a folder."""
        n_train, n_val, n_test = map(len, labels.parts)
        words = (
            *self.s.overrides,
            "data/source=tpainn_database",
            f"data.datapath={folder / LABELS_NAME}",
            f"data.split_file={folder / SPLIT_NAME}",
            f"data.num_train={n_train}",
            f"data.num_val={n_val}",
            f"data.num_test={n_test}",
            f"transfer.checkpoint={self.s.checkpoint}",
            f"seed={seed}",
            *more,
            "print_config=false",
        )
        return Job(folder / name, words, self.s.steps)


def _selected(folder: Path, attempt: int) -> Path:
    return folder / ("selected.xyz" if attempt == 1 else f"selected_{attempt}.xyz")


def _index(atoms: Atoms) -> int:
    return int(atoms.info["pool_index"])


def _summary(
    number: int, chosen: Sequence[Atoms], failed: Sequence[int], labels: Labels, job: Job
) -> dict[str, Any]:
    return {
        "round": number,
        "method": str(chosen[0].info["selection_method"]),
        "selected": [_index(atoms) for atoms in chosen],
        "scores": [atoms.info.get("selection_score") for atoms in chosen],
        "failed": list(failed),
        "n_train": len(labels.parts[0]),
        "test": read_run(job.directory)["test"],
        "run": str(job.directory),
    }
