"""What an ensemble refuses before anything is trained, and what it has its members run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from schnetpack_tpainn.ensemble.ensemble import Ensemble
from schnetpack_tpainn.ensemble.settings import EnsembleSettings
from schnetpack_tpainn.errors import CheckpointError, DataError, EnsembleError
from schnetpack_tpainn.study.jobs import Job
from tests.configs.test_configs import composed
from tests.fits import N_TEST, N_TRAIN, N_VAL, make_labels


class NotTrainedError(Exception):
    """In the place of training."""


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labels(tmp_path_factory.mktemp("labels"))


def compose(words: Sequence[str]) -> DictConfig:
    return composed(*words)


def planned(folder: Path, labels: Path, *further: str, **settings: Any) -> list[Job]:
    """The members' runs as they are handed over to be trained."""
    section = {"members": 3, "checkpoints": None, "resampling": None, "calibration": "crps"}
    section |= {"directory": str(folder / "e"), "parallel": None, **settings}
    jobs: list[Job] = []

    def note(todo: Sequence[Job]) -> None:
        jobs.extend(todo)
        raise NotTrainedError

    overrides = [
        "experiment=tpainn_autotune",
        "data/source=tpainn_database",
        f"data.datapath={labels}",
        f"data.num_train={N_TRAIN}",
        f"data.num_val={N_VAL}",
        f"data.num_test={N_TEST}",
        f"data.batch_size={N_TRAIN // 2}",
        f"run.path={folder}",
    ]
    own_start = "transfer=scratch" in further or section["checkpoints"] is not None
    start = [] if own_start else ["transfer.checkpoint=a.safetensors"]
    words = [*overrides, *start, *further]
    ensemble = Ensemble(EnsembleSettings.read(section), words, compose, note)
    with pytest.raises(NotTrainedError):
        ensemble.run()
    return jobs


def values(job: Job) -> dict[str, str]:
    return dict(word.lstrip("+").split("=", 1) for word in job.overrides)


def test_members_differ_by_seed_and_draw_and_share_all_else(tmp_path: Path, labels: Path) -> None:
    jobs = planned(tmp_path, labels, "seed=7", resampling="tpainn_bootstrap")
    assert [job.directory.name for job in jobs] == ["m0", "m1", "m2"]
    assert [values(job)["seed"] for job in jobs] == ["7", "8", "9"]
    shared = [{k: v for k, v in values(job).items() if k != "seed"} for job in jobs]
    assert shared[0] == shared[1] == shared[2]
    assert shared[0]["transfer.checkpoint"] == str(Path.cwd() / "a.safetensors")
    configs = [compose(job.overrides) for job in jobs]
    assert [c.data.resampling.seed for c in configs] == [7, 8, 9]
    split = np.load(tmp_path / "e" / "split.npz")
    assert shared[0]["data.split_file"] == str(tmp_path / "e" / "split.npz")
    assert [len(split[k]) for k in ("train_idx", "val_idx", "test_idx")] == [N_TRAIN, N_VAL, N_TEST]


def test_the_command_line_can_draw_otherwise(tmp_path: Path, labels: Path) -> None:
    own = ["data/resampling=tpainn_subsample", "data.resampling.fraction=0.5"]
    jobs = planned(tmp_path, labels, *own, resampling="tpainn_bootstrap")
    node = compose(jobs[0].overrides).data.resampling
    assert (node._target_.rpartition(".")[2], node.fraction) == ("Subsample", 0.5)
    plain = planned(tmp_path / "plain", labels)
    assert compose(plain[0].overrides).data.get("resampling") is None


def test_more_members_are_added_and_other_settings_refused(tmp_path: Path, labels: Path) -> None:
    before = planned(tmp_path, labels)
    after = planned(tmp_path, labels, members=5)
    assert after[:3] == before
    with pytest.raises(EnsembleError, match=r"ensemble with other settings .overrides.*directory"):
        planned(tmp_path, labels, "globals.lr=1e-4")
    with pytest.raises(EnsembleError, match=r"other settings .overrides.*; split: expected"):
        planned(tmp_path, labels, "data.splitting.seed=3")


def test_the_last_pretraining_run_is_found_once(tmp_path: Path, labels: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a finished pretraining run"):
        planned(tmp_path, labels, "transfer.checkpoint=null")
    assert not (tmp_path / "e").exists()

    def pretrained(name: str) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({"stage": "pretrain"}))
        return str(tmp_path / name)

    first = pretrained("a")
    jobs = planned(tmp_path, labels, "transfer.checkpoint=null")
    assert {values(job)["transfer.checkpoint"] for job in jobs} == {first}
    pretrained("b")  # newer, but not what the members began from
    assert planned(tmp_path, labels, "transfer.checkpoint=null", members=4)[:3] == jobs


def test_members_begin_from_several_models_in_turn(tmp_path: Path, labels: Path) -> None:
    models = ["a.safetensors", "/b"]
    jobs = planned(tmp_path, labels, checkpoints=models)
    first, second = str(Path.cwd() / "a.safetensors"), "/b"
    assert [values(job)["transfer.checkpoint"] for job in jobs] == [first, second, first]
    with pytest.raises(EnsembleError, match=r"other settings .checkpoints"):
        planned(tmp_path, labels, checkpoints=["a.safetensors"])
    whole = f"data.batch_size={N_TRAIN}"
    assert planned(tmp_path / "all", labels, whole, members=2, checkpoints=models)
    with pytest.raises(EnsembleError, match=r"a pretrained model for each .ensemble\.checkpoints"):
        planned(tmp_path / "too_few", labels, whole, checkpoints=models)


@pytest.mark.parametrize(
    ("override", "found"), [("transfer=scratch", "no transfer"), ("transfer.checkpoint=c", "c")]
)
def test_several_models_and_another_start_are_refused(
    tmp_path: Path, labels: Path, override: str, found: str
) -> None:
    with pytest.raises(EnsembleError, match=rf"without transfer\.checkpoint, got {found};"):
        planned(tmp_path, labels, override, checkpoints=["a"])
    assert not (tmp_path / "e").exists()


def test_members_from_scratch_have_no_checkpoint(tmp_path: Path, labels: Path) -> None:
    jobs = planned(tmp_path, labels, "transfer=scratch")
    assert all(not w.startswith("transfer.checkpoint") for w in jobs[0].overrides)


def test_members_that_only_rounding_would_tell_apart_are_refused(
    tmp_path: Path, labels: Path
) -> None:
    whole = f"data.batch_size={N_TRAIN}"
    with pytest.raises(EnsembleError, match=rf"one batch of all {N_TRAIN} labels and nothing"):
        planned(tmp_path, labels, whole)
    assert not (tmp_path / "e").exists()
    for k, differs in enumerate(
        (
            "data/resampling=tpainn_subsample",
            "transfer.head=reset",
            "transfer.reinitialise=[outnet]",
            "transfer=lora",
            "transfer=scratch",
        )
    ):
        assert planned(tmp_path / str(k), labels, whole, differs)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.num_val=0", r"validation frames to calibrate on, got data\.num_val=0"),
        ("data.num_val=null", r"validation frames to calibrate on, got data\.num_val=None"),
        ("data.num_train=null", r"a number for data\.num_train, got None"),
        ("data.num_test=0.5", r"a number or null for data\.num_test, got 0\.5"),
        ("trainer.max_steps=-1", r"trainer\.max_steps, got -1"),
    ],
)
def test_what_cannot_be_trained_or_calibrated_is_refused(
    tmp_path: Path, labels: Path, override: str, message: str
) -> None:
    with pytest.raises(EnsembleError, match=message):
        planned(tmp_path, labels, override)
    assert not (tmp_path / "e").exists()


def test_a_split_of_the_user_is_kept(tmp_path: Path, labels: Path) -> None:
    order = np.random.default_rng(5).permutation(N_TRAIN + N_VAL + N_TEST)
    parts = np.split(order, [N_TRAIN, N_TRAIN + N_VAL])
    own = dict(zip(("train_idx", "val_idx", "test_idx"), parts, strict=True))
    path = tmp_path / "own.npz"
    np.savez(path, **own)
    word = f"data.split_file={path}"
    jobs = planned(tmp_path, labels, word)
    with np.load(values(jobs[0])["data.split_file"]) as kept:
        assert {k: kept[k].tolist() for k in kept} == {k: v.tolist() for k, v in own.items()}
    drawn = planned(tmp_path / "drawn", labels)
    with np.load(values(drawn[0])["data.split_file"]) as split:
        assert split["test_idx"].tolist() != own["test_idx"].tolist()

    np.savez(path, **{**own, "val_idx": own["val_idx"][1:]})
    with pytest.raises(EnsembleError, match=r"set these numbers to those of data\.split_file"):
        planned(tmp_path / "other", labels, word)
    np.savez(path, **{**own, "test_idx": own["train_idx"][:N_TEST]})
    with pytest.raises(EnsembleError, match="got one twice or outside"):
        planned(tmp_path / "other", labels, word)
    with pytest.raises(DataError, match="does not exist"):
        planned(tmp_path / "other", labels, f"data.split_file={tmp_path / 'none.npz'}")
    assert not (tmp_path / "other").exists()
