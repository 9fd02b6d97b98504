"""What a `study` section may say."""

from copy import deepcopy
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hydra_plugins.schnetpack_tpainn.searchpath import config_dir
from schnetpack_tpainn.errors import StudyError
from schnetpack_tpainn.study.settings import StudySettings


@pytest.fixture
def node(tmp_path: Path) -> dict:
    shipped = OmegaConf.load(config_dir() / "study" / "default.yaml").study
    return OmegaConf.to_container(shipped, resolve=False) | {"directory": str(tmp_path)}


def test_the_shipped_study_is_sound(node):
    settings = StudySettings.read(node)
    assert settings.n_train == (10, 25, 50)
    assert settings.seeds == dict.fromkeys((10, 25, 50), (0, 1, 2))
    assert list(settings.stages) == ["pretrain"]
    assert list(settings.strategies) == node["compare"]


def test_seeds_may_differ_by_number_of_labels(node):
    node["seeds_at"] = {50: [3, 4], 100: [0, 1]}  # 100 labels are not asked for
    assert StudySettings.read(node).seeds == {10: (0, 1, 2), 25: (0, 1, 2), 50: (3, 4)}


def test_only_the_stages_needed_are_run_in_order(node):
    stage = {"overrides": ["experiment=tpainn_pretrain"]}
    node["stages"] = {
        "c": stage | {"checkpoint": "b"},
        "unused": stage,
        "b": stage | {"checkpoint": "a"},
        "a": stage,
    }
    node["strategies"]["full"]["checkpoint"] = "c"
    assert list(StudySettings.read(node).stages) == ["a", "b", "c"]


def test_a_stage_depends_on_the_labels_if_what_it_begins_from_does(node):
    stage = {"overrides": ["experiment=tpainn_pretrain"]}
    labels = {"overrides": ["experiment=tpainn_pretrain", "data.source.split_file={split}"]}
    node["stages"] = {
        "a": stage,
        "b": labels | {"checkpoint": "a"},
        "c": stage | {"checkpoint": "b"},
    }
    node["strategies"]["full"]["checkpoint"] = "c"
    settings = StudySettings.read(node)
    assert [settings.of_labels(s) for s in settings.stages.values()] == [False, True, True]


def put(node: dict, path: str, value: object) -> None:
    *parents, last = path.split("/")
    for key in parents:
        node = node[key]
    node[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("n_train", [], "study.n_train to name at least one"),
        ("n_train", [0, 10], "study.n_train of at least 1, got 0"),
        ("rates", [0.0], "study.rates above 0"),
        ("seeds", [0], "at least two seeds for 10 labels"),
        ("seeds", [1, 1], "at least two seeds"),
        ("seeds_at", {25: [0]}, "at least two seeds for 25 labels"),
        ("rate_seeds", 4, "rate_seeds between 1 and the number of seeds 3, got 4"),
        ("metric", "stress", "energy or forces, got 'stress'"),
        ("compare", ["scratch", "fulll"], "got fulll; did you mean full"),
        ("compare", ["scratch"], "two strategies or more"),
        ("compare", ["full", "lora"], "the reference 'scratch' among them"),
        ("ntrain", [5], "got ntrain; did you mean n_train"),
        ("strategies/full/overides", [], "got overides; did you mean overrides"),
        ("strategies/full/checkpoint", "pretrian", "begins from 'pretrian'"),
        ("strategies/full/overrides", ["trainer.max_steps=9"], "the same for every strategy"),
        ("strategies/full/overrides", ["+data.batch_size=9"], "the same for every strategy"),
        ("strategies/full/overrides", ["globals.lr=1"], "rates with study.rates"),
        ("stages/pretrain/overrides", ["seed=1"], "name an experiment="),
        ("stages/pretrain/checkpoint", "pretrain", "in a circle"),
    ],
)
def test_nonsense_is_refused(node, path, value, message):
    node = deepcopy(node)
    put(node, path, value)
    with pytest.raises(StudyError, match=message):
        StudySettings.read(node)
