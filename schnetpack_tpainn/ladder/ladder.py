"""Climb a ladder of teachers: sample, label, train, rung by rung."""

import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.db import connect
from hydra.utils import to_absolute_path
from omegaconf import OmegaConf

from schnetpack_tpainn.data.label import compute_label, make_calculator
from schnetpack_tpainn.data.parallel import workers
from schnetpack_tpainn.data.store import fingerprint
from schnetpack_tpainn.data.structures import read_frames
from schnetpack_tpainn.errors import LabelError, LadderError
from schnetpack_tpainn.files import file_sha256, write_json
from schnetpack_tpainn.ladder.results import collect, write_results
from schnetpack_tpainn.ladder.settings import LadderSettings, Rung
from schnetpack_tpainn.study.jobs import Job, claim_jobs, validation_interval
from schnetpack_tpainn.study.plan import SHARED, Compose
from schnetpack_tpainn.transfer.portable import PORTABLE_NAME

__all__ = ["Ladder"]

log = logging.getLogger(__name__)

# overrides of the command line that describe the first rung alone
FIRST = (
    *("data/source", "data.source", "data.datapath", "data.num_", "data.split_file", "transfer"),
    *("trainer.max_steps", "trainer.val_check_interval", "globals.lr", "run.id"),
)
TIMED = 3  # frames whose labels are timed, after a first
CHEAPER = 1.5  # times; closer costs may be noise


class Ladder:
    """Runs what is missing of a ladder and writes its report.

    The first rung is the experiment as it is. Every further one labels frames of the rung before
    with its own calculator, copies that rung's network, fits offsets and scale to the new labels in
    closed form, and trains on them. Each is a run of its own, and is not repeated.

    Args:
        settings: the ladder.
        overrides: Hydra overrides of the first rung, ``experiment=...`` among them.
        compose: makes the configuration of a run from its overrides.
        execute: trains, resumes and waits.
    """

    def __init__(
        self,
        settings: LadderSettings,
        overrides: Sequence[str],
        compose: Compose,
        execute: Callable[[Sequence[Job]], None],
    ) -> None:
        self.s = settings
        self.overrides = tuple(overrides)
        self.compose = compose
        self.execute = execute

    def run(self) -> dict[str, Any]:
        """Climb.

        Returns:
            The content of ``ladder.json``. Refuses with ``LadderError`` what cannot be run.
        """
        self.s.directory.mkdir(parents=True, exist_ok=True)
        for rung in self.s.rungs[1:]:
            make_calculator(_node(rung))  # before hours of training
        jobs: list[Job] = []
        costs: list[float | None] = []  # seconds of a label
        for rung in self.s.rungs:
            job = self._first(rung) if not jobs else self._next(rung, jobs[-1])
            if jobs:
                costs += self._costs(rung, jobs[-1], first=not costs)
                self._warn_of_order(costs)
            self._execute([job])
            jobs.append(job)
        tuned = self._tuned(jobs)
        self._execute(tuned)
        results = collect(self.s, jobs, costs, tuned)
        write_results(self.s.directory, results)
        return results

    def _execute(self, jobs: Sequence[Job]) -> None:
        claim_jobs(self.s.directory, jobs, "ladder.directory", LadderError)
        todo = [job for job in jobs if not job.finished]
        for job in todo:
            log.info("training %s", job.directory)
        if todo:
            self.execute(todo)

    def _job(self, name: str, rung: Rung, words: Sequence[str]) -> Job:
        words = [*words, *rung.overrides, "print_config=false"]
        if rung.lr is not None:
            words.append(f"globals.lr={rung.lr:g}")
        steps = rung.steps or _steps(self.compose(words), rung.name)
        if rung.steps is not None:
            interval = validation_interval(steps, 6)
            words += [f"trainer.max_steps={steps}", f"trainer.val_check_interval={interval}"]
        return Job(self.s.directory / name, tuple(words), steps)

    def _first(self, rung: Rung) -> Job:
        return self._job(f"1_{rung.name}", rung, self.overrides)

    def _next(self, rung: Rung, before: Job) -> Job:
        from schnetpack_tpainn.ladder.frames import frames_to_label  # it loads torch

        place = self.s.directory / "frames"
        place.mkdir(exist_ok=True)
        number = int(before.directory.name.partition("_")[0]) + 1
        pool = self._database(before)
        file = frames_to_label(rung, pool, before.directory, place, self.s.seed)
        n_there = _count(file)
        n = min(rung.n_frames or n_there, n_there)
        if rung.n_frames is not None and n < rung.n_frames:
            raise LadderError(
                f"expected ladder.rungs.{rung.name}.n_frames of at most the {n_there} in {file}, "
                f"got {rung.n_frames}; sample more frames below, or ask for fewer"
            )
        held_out = max(1, n // 10)
        n_train = n - int(rung.max_failed * n) - 2 * held_out
        if n_train < 1:
            raise LadderError(
                f"expected ladder.rungs.{rung.name}.n_frames of at least 3, got {n}: a tenth of "
                "them validates, another tests"
            )
        words = (
            *self._shared(),
            "data/source=tpainn_relabel",
            f"data.datapath={place / f'{number}_{rung.name}.db'}",
            f"data.source.frames={file}",
            "~data.source.calculator",  # a new one would be merged into it
            f"+data.source.calculator={_as_override(_node(rung))}",
            f"data.source.n_frames={n}",
            f"data.source.max_failed={rung.max_failed:g}",
            f"data.source.seed={self.s.seed}",
            f"data.num_train={n_train}",
            f"data.num_val={held_out}",
            f"data.num_test={held_out}",
            "transfer=full",
            *_start(before),
        )
        return self._job(f"{number}_{rung.name}", rung, words)

    def _tuned(self, jobs: Sequence[Job]) -> list[Job]:
        """A tuning from every rung, all else the same."""
        if self.s.tune is None:
            return []
        shared = [o for o in self._shared() if o.lstrip("+~").startswith(SHARED)]
        words = [*self.s.tune, *shared, "print_config=false"]
        steps = _steps(self.compose(words), "ladder.tune")
        return [
            Job(
                self.s.directory / f"tuned_{job.directory.name}",
                (*words, *_start(job)),
                steps,
            )
            for job in jobs
        ]

    def _shared(self) -> list[str]:
        """Overrides of the command line that hold for every rung."""
        return [o for o in self.overrides if not o.lstrip("+~").startswith(FIRST)]

    def _database(self, job: Job) -> Path:
        return Path(to_absolute_path(str(self.compose(job.overrides).data.datapath)))

    def _costs(self, rung: Rung, before: Job, first: bool) -> list[float | None]:
        """Seconds of a label of a rung, and of the first one where it is not known yet."""
        nodes = [_node(rung)]
        if first:
            source: Any = self.compose(before.overrides).data.source
            node = OmegaConf.select(source, "calculator") if source is not None else None
            plain: Any = {} if node is None else OmegaConf.to_container(node, resolve=True)
            nodes.insert(0, plain)
        path = self.s.directory / "costs.json"
        known: dict[str, float | None] = json.loads(path.read_text()) if path.is_file() else {}
        keys = [fingerprint({"calculator": node}) for node in nodes]
        if not known.keys() >= set(keys):
            frames = read_frames(self._database(before))
            for key, node in zip(keys, nodes, strict=True):
                if key not in known:
                    known[key] = _time(node, frames)
            write_json(path, known)
        return [known[key] for key in keys]

    def _warn_of_order(self, costs: Sequence[float | None]) -> None:
        *_, before, now = costs
        if before is not None and now is not None and now < before / CHEAPER:
            names = [rung.name for rung in self.s.rungs]
            log.warning(
                "rung %s labels a frame in %.3g s, the one before, %s, in %.3g s: a ladder goes "
                "from cheap to dear; is its order right?",
                *(names[len(costs) - 1], now, names[len(costs) - 2], before),
            )


def _node(rung: Rung) -> dict[str, Any]:
    return dict(rung.calculator or {})


def _start(before: Job) -> tuple[str, str]:
    """What a run begins from; the hash tells a model from one that took its place."""
    digest = file_sha256(before.directory / PORTABLE_NAME)[:16]
    return f"transfer.checkpoint={before.directory}", f"+run.begins_from='{digest}'"


def _steps(config: Any, name: str) -> int:
    steps = OmegaConf.select(config, "trainer.max_steps")
    if not isinstance(steps, int) or steps < 1:
        raise LadderError(f"expected trainer.max_steps for {name}, got {steps}")
    return steps


def _count(file: Path) -> int:
    if file.suffix != ".db":
        return len(read_frames(file))
    with connect(str(file), use_lock_file=False) as db:
        return int(db.count())


def _as_override(value: Any) -> str:
    """A value in the grammar of Hydra's command line."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_as_override(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_as_override, value)) + "]"
    return json.dumps(value)


def _time(calculator: Mapping[str, Any], frames: Sequence[Atoms]) -> float | None:
    """Median seconds of a label on one core; None for data that no calculator makes."""
    if "_target_" not in calculator:
        return None
    with workers(1) as pool:
        return pool.submit(_seconds, dict(calculator), frames[: TIMED + 1]).result()


def _seconds(calculator: dict[str, Any], frames: Sequence[Atoms]) -> float | None:
    engine = make_calculator(calculator)
    seconds = []
    for frame in frames:
        start = time.perf_counter()
        with suppress(LabelError):  # the rung's max_failed decides what that means
            compute_label(frame, engine)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:] or seconds) if seconds else None
