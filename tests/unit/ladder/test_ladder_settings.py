"""What a `ladder` section may say."""

from copy import deepcopy
from typing import Any

import pytest
from omegaconf import OmegaConf

from hydra_plugins.schnetpack_tpainn.searchpath import config_dir
from schnetpack_tpainn.errors import LadderError
from schnetpack_tpainn.ladder.settings import LadderSettings, Walk


@pytest.fixture
def node() -> dict[str, Any]:
    file: Any = OmegaConf.load(config_dir() / "transfer" / "ladder" / "xtb.yaml")
    file.ladder.directory = "ladder"
    plain: Any = OmegaConf.to_container(file.ladder, resolve=True)
    return plain


def test_the_shipped_ladder_is_sound(node: dict[str, Any]) -> None:
    settings = LadderSettings.read(node)
    first, second = settings.rungs
    assert (first.name, first.calculator, first.steps) == ("force_field", None, None)
    assert second.calculator == {"_target_": "tblite.ase.TBLite", "method": "GFN2-xTB"} | {
        "verbosity": 0
    }
    assert (second.n_frames, second.steps, second.lr) == (None, 16000, 1e-3)
    assert settings.tune is None


def test_a_rung_that_is_null_is_left_out_and_order_is_kept(node: dict[str, Any]) -> None:
    node["rungs"] |= {"b": deepcopy(node["rungs"]["xtb"]), "xtb": None}
    assert [rung.name for rung in LadderSettings.read(node).rungs] == ["force_field", "b"]


def test_a_walk_keeps_its_defaults_beside_what_is_set(node: dict[str, Any]) -> None:
    node["rungs"]["xtb"]["walk"] = {"temperatures_k": [300, 900]}
    walk = LadderSettings.read(node).rungs[1].walk
    assert walk == Walk(temperatures_k=(300, 900))


def put(node: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split("/")
    for key in parents:
        node = node[key]
    node[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("rungs/xtb", None, "two rungs or more"),
        ("runks", {}, "got runks; did you mean rungs"),
        ("rungs/xtb/stepps", 3, "got stepps; did you mean steps"),
        ("rungs/xtb/calculator", None, "ladder.rungs.xtb.calculator with the _target_"),
        ("rungs/xtb/calculator", {"method": "GFN2-xTB"}, "with the _target_ of an ASE"),
        ("rungs/force_field/calculator", {"_target_": "x.Y"}, "is the first rung"),
        ("rungs/force_field/n_frames", 10, "is the first rung"),
        ("rungs/xtb/select", "best", "select of .* got 'best'"),
        ("rungs/xtb/n_frames", -1, "n_frames above 0"),
        ("rungs/xtb/lr", 0.0, "lr above 0"),
        ("rungs/xtb/max_failed", 1.0, "max_failed from 0 to below 1"),
        ("rungs/xtb/walk", {"duration": 1}, "got duration; did you mean duration_ps"),
        ("rungs/xtb/walk", {"temperatures_k": []}, "temperatures_k above 0"),
        ("parallel", 0, "parallel of 1 or more"),
        ("tune", ["globals.lr=1"], "tune to name an experiment="),
    ],
)
def test_nonsense_is_refused(node: dict[str, Any], path: str, value: Any, message: str) -> None:
    put(node, path, value)
    with pytest.raises(LadderError, match=message):
        LadderSettings.read(node)
