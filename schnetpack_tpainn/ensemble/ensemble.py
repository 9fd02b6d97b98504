"""Train the members of an ensemble, calibrate their spread, and write one model."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate, to_absolute_path
from omegaconf import OmegaConf
from schnetpack.data import ASEAtomsData

from schnetpack_tpainn.data.store import fingerprint
from schnetpack_tpainn.data.training import existing_file, read_split, write_split
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.ensemble.results import (
    PARTS,
    calibrate,
    judge,
    markdown,
    read_spreads,
)
from schnetpack_tpainn.ensemble.settings import EnsembleSettings
from schnetpack_tpainn.errors import EnsembleError
from schnetpack_tpainn.files import claim_directory, file_sha256, write_json, write_text
from schnetpack_tpainn.study.comparison import read_run
from schnetpack_tpainn.study.jobs import Job
from schnetpack_tpainn.study.labels import prepare_labels
from schnetpack_tpainn.study.plan import Compose
from schnetpack_tpainn.transfer.ensemble import ENSEMBLE_NAME, save_ensemble
from schnetpack_tpainn.transfer.outcome import targets
from schnetpack_tpainn.transfer.portable import PORTABLE_NAME
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from schnetpack_tpainn.transfer.runs import find_last_run

__all__ = ["RESULTS_NAME", "Ensemble"]

log = logging.getLogger(__name__)

SCHEMA = 1
RESULTS_NAME = "ensemble.json"
FIGURE_NAME = "reliability.png"
SPLIT_NAME = "split.npz"


class Ensemble:
    """An ensemble from its members' training to its calibrated model.

    The members are runs of their own below ``members/``, tuned from one pretrained model or from
    several in turn; those that are finished are not repeated. All have the same training part, from
    which ``data/resampling`` may draw anew for each, and the same validation and test frames: those
    of ``data.split_file`` where that is given, otherwise drawn by ``data.splitting``.

    Args:
        settings: the ensemble.
        overrides: Hydra overrides of every member, ``experiment=...`` among them.
        compose: makes the configuration of a run from its overrides.
        execute: trains, resumes and waits.
    """

    def __init__(
        self,
        settings: EnsembleSettings,
        overrides: Sequence[str],
        compose: Compose,
        execute: Callable[[Sequence[Job]], None],
    ) -> None:
        self.s = settings
        self.compose = compose
        self.execute = execute
        drawn = any(o.lstrip("+").startswith("data/resampling=") for o in overrides)
        self.names_split = any(o.lstrip("+").startswith("data.split_file=") for o in overrides)
        chosen = settings.resampling is not None and not drawn
        own = [f"data/resampling={settings.resampling}"] if chosen else []
        self.overrides = (*overrides, *own)

    def run(self) -> dict[str, Any]:
        """Train what is missing, calibrate and write.

        Returns:
            The content of ``ensemble.json``. Refuses with ``EnsembleError`` what cannot be
            trained or calibrated.
        """
        config: Any = self.compose(self.overrides)
        sizes = _sizes(config)
        self._refuse_equal_members(config, sizes[0])
        checkpoints = self._checkpoints(config)
        database = prepare_labels(config.data)
        name = config.data.get("split_file")
        if name is not None and (name != SPLIT_NAME or self.names_split):
            parts = _given_split(existing_file(str(name)), database, sizes)
        else:  # SPLIT_NAME alone is where a run keeps what it has drawn
            parts = _split(config.data, database, sizes)
        settings = {
            "overrides": list(self.overrides),
            "checkpoints": checkpoints,
            "split": fingerprint(parts),
        }
        place, option = self.s.directory, "ensemble.directory"
        claim_directory(place, settings, "ensemble", option, EnsembleError)
        write_split(place / SPLIT_NAME, parts)
        jobs = self._jobs(config, checkpoints)
        todo = [job for job in jobs if not job.finished]
        log.info("%d members, %d of them finished before", len(jobs), len(jobs) - len(todo))
        if todo:
            self.execute(todo)
        return self._conclude(jobs, settings)

    def _refuse_equal_members(self, config: Any, n_train: int) -> None:
        """Where the seed decides nothing, members would differ by rounding alone."""
        transfer, data = config.transfer, config.data
        same_frames = data.get("resampling") is None and n_train <= data.batch_size
        same_start = "checkpoint" in transfer and not (
            transfer.reinitialise
            or transfer.head == "reset"
            or transfer.new_elements != "refuse"
            or transfer.get("lora") is not None
            or transfer.get("replay") is not None
            or len(self.s.checkpoints or ()) >= self.s.members
        )
        if same_frames and same_start:
            raise EnsembleError(
                f"expected members that differ, got one batch of all {n_train} labels and nothing "
                "that starts at random, so that the seed decides nothing; draw labels for each "
                "(ensemble.resampling=tpainn_bootstrap), take a smaller data.batch_size, give a "
                "pretrained model for each (ensemble.checkpoints), or reinitialise a part "
                "(transfer.reinitialise)"
            )

    def _checkpoints(self, config: Any) -> list[str]:
        """Models that the members begin from, in turn; a repeated call keeps the first one's."""
        node, given = config.transfer, self.s.checkpoints
        if given is not None:
            if "checkpoint" not in node or node.checkpoint is not None:
                raise EnsembleError(
                    "expected ensemble.checkpoints with a transfer and without transfer.checkpoint,"
                    f" got {node.get('checkpoint', 'no transfer')}; give one of the two"
                )
            return [str(path) for path in given]
        if "checkpoint" not in node:
            return []
        if node.checkpoint is not None:
            return [to_absolute_path(str(Path(node.checkpoint).expanduser()))]
        known = self.s.directory / "settings.json"
        if known.is_file():
            return json.loads(known.read_text("utf-8")).get("checkpoints", [])
        search = Path(to_absolute_path(str(Path(node.search).expanduser())))
        return [str(find_last_run(search, "pretrain"))]

    def _jobs(self, config: Any, checkpoints: Sequence[str]) -> list[Job]:
        words = [*self.overrides, f"data.split_file={self.s.directory / SPLIT_NAME}"]
        first = int(config.seed)
        jobs = []
        for k in range(self.s.members):
            own = [f"seed={first + k}", "print_config=false"]
            if checkpoints:
                own.append(f"transfer.checkpoint={checkpoints[k % len(checkpoints)]}")
            place = self.s.directory / "members" / f"m{k}"
            jobs.append(Job(place, (*words, *own), config.trainer.max_steps))
        return jobs

    def _conclude(self, jobs: Sequence[Job], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Calibrate on validation frames, judge by test frames, write; ``ensemble.json`` last."""
        from schnetpack_tpainn.ensemble.figures import reliability  # matplotlib is slow to import
        from schnetpack_tpainn.transfer.figures import save

        place, directories = self.s.directory, [job.directory for job in jobs]
        spreads = {part: read_spreads(directories, part) for part in PARTS}
        calibration = calibrate(spreads["validation"], self.s.calibration)
        members = [load_pretrained(d / PORTABLE_NAME) for d in directories]
        save_ensemble(place / ENSEMBLE_NAME, members, calibration)
        reports = [read_run(d) for d in directories]
        keys = targets(reports[0]["test"])
        results = {
            "schema": SCHEMA,
            **settings,
            "members": [
                {
                    "directory": str(d.relative_to(place)),
                    "seed": report["seeds"][0],
                    "n_train": report["n_train"],
                    "sha256": {n: file_sha256(d / n) for n in (PORTABLE_NAME, *PARTS.values())},
                }
                for d, report in zip(directories, reports, strict=True)
            ],
            "sha256": file_sha256(place / ENSEMBLE_NAME),
            "n_val": reports[0]["n_val"],
            "n_test": reports[0]["n_test"],
            "calibration": {
                "method": calibration.method,
                "energy": calibration.energy,
                "forces": calibration.forces,
            },
            **{part: judge(spread, calibration) for part, spread in spreads.items()},
            "members_test_mae": {
                what: float(np.mean([report["test"][key] for report in reports]))
                for what, (key, _) in keys.items()
            },
            "data": reports[0]["data"],
            "versions": software_versions(),
        }
        figure = reliability(spreads["test"], calibration)
        for name in (FIGURE_NAME, FIGURE_NAME.replace(".png", ".pdf")):
            save(figure, place / name, dpi=200)
        write_text(place / "ensemble.md", markdown(results, FIGURE_NAME))
        write_json(place / RESULTS_NAME, results)
        return results


def _sizes(config: Any) -> tuple[int, int, int | None]:
    """Numbers of frames; what cannot be trained is refused before any data are made."""
    steps, data = OmegaConf.select(config, "trainer.max_steps"), config.data
    if not isinstance(steps, int) or steps < 1:
        raise EnsembleError(
            f"expected trainer.max_steps, got {steps}: all members take as many steps"
        )
    n_train, n_val, n_test = data.get("num_train"), data.get("num_val"), data.get("num_test")
    if not isinstance(n_val, int) or n_val < 1:
        raise EnsembleError(
            f"expected validation frames to calibrate on, got data.num_val={n_val}; set "
            "data.num_val to some tens of labels"
        )
    if not isinstance(n_train, int) or n_train < 1:
        raise EnsembleError(f"expected a number for data.num_train, got {n_train}")
    if n_test is not None and not isinstance(n_test, int):
        raise EnsembleError(f"expected a number or null for data.num_test, got {n_test}")
    return n_train, n_val, n_test


def _split(data: Any, database: Path, sizes: tuple[int, int, int | None]) -> dict[str, list[int]]:
    """Frames that all members train on, validate and test."""
    parts = instantiate(data.splitting).split(ASEAtomsData(str(database)), *sizes)
    found = [[int(i) for i in part] for part in parts]
    return dict(zip(("train_idx", "val_idx", "test_idx"), found, strict=True))


def _given_split(
    path: Path, database: Path, sizes: tuple[int, int, int | None]
) -> dict[str, list[int]]:
    """Parts that a file names, refused where the members would refuse them."""
    parts, n_frames = read_split(path), len(ASEAtomsData(str(database)))
    found = tuple(len(part) for part in parts.values())
    if any(n is not None and n != k for n, k in zip(sizes, found, strict=True)):
        raise EnsembleError(
            f"expected {path} to have the frames of data.num_train, data.num_val and "
            f"data.num_test, {sizes}, got {found}; set these numbers to those of data.split_file"
        )
    rows = [i for part in parts.values() for i in part]
    if len(set(rows)) < len(rows) or not 0 <= min(rows) <= max(rows) < n_frames:
        raise EnsembleError(
            f"expected each frame of {path} once and among the {n_frames} of {database}, got one "
            "twice or outside; give the split of these labels as data.split_file"
        )
    return parts
