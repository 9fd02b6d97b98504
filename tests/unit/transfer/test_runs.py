"""Run directories: the last one, and those that must not be touched."""

import json
import os
from pathlib import Path

import pytest
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from schnetpack_tpainn.errors import CheckpointError, TPaiNNError
from schnetpack_tpainn.transfer.runs import (
    Preflight,
    check_budget,
    check_run_directory,
    find_last_run,
)

CONFIG = OmegaConf.create(
    {"seed": 1, "model": {"x": 1}, "data": {"y": "${seed}"}, "run": {"id": 3}}
)


def report(directory: Path, stage: str, time: int) -> Path:
    directory.mkdir(parents=True)
    (directory / "report.json").write_text(json.dumps({"stage": stage}))
    os.utime(directory / "report.json", (time, time))
    return directory


def test_the_newest_of_the_stage_is_found(tmp_path: Path) -> None:
    report(tmp_path / "a", "pretrain", 100)
    newest = report(tmp_path / "deep" / "er" / "b", "pretrain", 200)
    report(tmp_path / "c", "autotune", 300)
    assert find_last_run(tmp_path, "pretrain") == newest
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "report.json").write_text('{"stage": "pre')  # cut short
    assert find_last_run(tmp_path, "pretrain") == newest
    with pytest.raises(CheckpointError, match="spktrain experiment=tpainn_pretrain"):
        find_last_run(tmp_path / "c", "pretrain")


def test_a_new_or_empty_directory_is_fine(tmp_path: Path) -> None:
    check_run_directory(tmp_path, CONFIG)
    check_run_directory(tmp_path / "new", CONFIG)


def test_an_unfinished_run_of_the_same_configuration_goes_on(tmp_path: Path) -> None:
    OmegaConf.save(CONFIG, tmp_path / "config.yaml")
    check_run_directory(tmp_path, OmegaConf.merge(CONFIG, {"run": {"id": 4}}))
    with pytest.raises(TPaiNNError, match="another `model` section"):
        check_run_directory(tmp_path, OmegaConf.merge(CONFIG, {"model": {"x": 2}}))
    with pytest.raises(TPaiNNError, match="another `seed` section"):
        check_run_directory(tmp_path, OmegaConf.merge(CONFIG, {"seed": 2}))


def test_weights_must_be_validated_at_the_end() -> None:
    def trainer(**values: object) -> DictConfig:
        return OmegaConf.create({"trainer": {"check_val_every_n_epoch": None, **values}})

    check_budget(trainer(max_steps=400, val_check_interval=100))
    check_budget(trainer(max_steps=450, val_check_interval=1.0))
    check_budget(trainer(max_steps=450, val_check_interval=100, check_val_every_n_epoch=1))
    for steps in (450, 50):
        with pytest.raises(TPaiNNError, match=f"multiple of .* got {steps} and 100"):
            check_budget(trainer(max_steps=steps, val_check_interval=100))


def test_finished_and_foreign_directories_are_refused(tmp_path: Path) -> None:
    finished = report(tmp_path / "a", "pretrain", 100)
    OmegaConf.save(CONFIG, finished / "config.yaml")
    with pytest.raises(TPaiNNError, match="finished run"):
        check_run_directory(finished, CONFIG)
    foreign = tmp_path / "b"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(TPaiNNError, match="other files"):
        check_run_directory(foreign, CONFIG)


def test_runs_of_a_sweep_are_checked_when_they_begin(tmp_path: Path) -> None:
    def job(mode: RunMode, steps: int) -> DictConfig:
        runtime = {"mode": mode, "runtime": {"output_dir": str(tmp_path)}}
        trainer = {"max_steps": steps, "val_check_interval": 100, "check_val_every_n_epoch": None}
        return OmegaConf.create({"hydra": runtime, "trainer": trainer})

    (tmp_path / "cli.log").touch()  # Hydra's
    Preflight().on_job_start(job(RunMode.MULTIRUN, 200))
    with pytest.raises(SystemExit, match=r"multiple of .* got 250 and 100"):
        Preflight().on_job_start(job(RunMode.MULTIRUN, 250))
    report(tmp_path / "run", "pretrain", 100).joinpath("report.json").rename(
        tmp_path / "report.json"
    )
    with pytest.raises(SystemExit, match="finished run and is not written over"):
        Preflight().on_job_start(job(RunMode.MULTIRUN, 200))
    Preflight().on_job_start(job(RunMode.RUN, 200))  # checked before its directory was made
