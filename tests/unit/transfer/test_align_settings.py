"""The settings of the alignment: priors, modes, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
from alignment import ATOMS, CHOICES, WATER, Setting, predictions
from hydra.utils import instantiate

from schnetpack_tpainn.errors import CheckpointError, TransferError
from schnetpack_tpainn.transfer.align import Align
from schnetpack_tpainn.transfer.offsets import get_offsets
from tests.fits import strategy


@pytest.mark.parametrize(
    ("towards", "atoms", "used"),
    [
        ("minimum", ATOMS, "minimum"),
        ("mean", ATOMS, "mean"),
        ("atoms", ATOMS, "atoms"),
        (None, ATOMS, "atoms"),
        (None, None, "minimum"),
        (None, {1: -13.6, 6: -1030.0}, "minimum"),  # none for O, which the data have too
    ],
)
def test_total_offsets_are_nearest_to_the_prior(
    towards: str | None, atoms: dict[int, float] | None, used: str
) -> None:
    labels = predictions(WATER, 1.0, [-14.0, -1000.0])
    setting: Any = Setting(labels, atoms)
    fit = Align("offset", towards=towards).apply(setting)
    assert fit.prior == fit.plain()["prior"] == used
    h, c, o = setting.offsets()
    mean = (labels.energy_label / labels.n_atoms).mean().item()
    free = labels.composition[:, [1, 6]] @ labels.composition.new_tensor([-13.6, -1030.0])
    bound = ((labels.energy_label - free) / labels.n_atoms).mean().item()
    prior_h, prior_c, prior_o = {
        "minimum": (0.0, 0.0, 0.0),
        "mean": (mean, mean, mean),
        "atoms": (-13.6 + bound, -1030.0 + bound, -2041.0 + bound),
    }[used]
    assert 2 * h + c == pytest.approx(-1028.0, abs=1e-7)
    assert h - prior_h == pytest.approx(2 * (c - prior_c), abs=1e-7)
    assert o == pytest.approx(prior_o, abs=1e-7)  # not among the training frames


def test_the_prior_moves_nothing_that_the_labels_determine() -> None:
    for towards in ("minimum", "mean", "atoms"):
        setting: Any = Setting(predictions(CHOICES, 1.0, [-14.0, -1000.0]), ATOMS)
        Align("offset", towards=towards).apply(setting)
        assert setting.offsets()[:2] == pytest.approx([-14.0, -1000.0], abs=1e-7)


def test_each_mode_moves_what_it_says() -> None:
    labels = predictions(CHOICES, 1.5, [2.0, 3.0])
    results = {}
    for mode in ("offset+scale", "offset", "none"):
        setting: Any = Setting(labels)
        weight = setting.head.outnet[-1].weight.detach().clone()
        fit = Align(mode).apply(setting)
        ratio = (setting.head.outnet[-1].weight / weight).mean().item()
        results[mode] = ratio, get_offsets(setting.model, "energy")[[1, 6]].tolist()
        assert ratio == pytest.approx(fit.scale)
        assert (fit.after == fit.before) == (mode == "none")
    assert results["offset+scale"][0] == pytest.approx(1.5)
    assert results["offset+scale"][1] == pytest.approx([2.0, 3.0], abs=1e-7)
    assert results["offset"][0] == 1.0
    assert results["none"] == (1.0, pytest.approx([0.3, -0.7], abs=1e-7))


def test_without_scale_keeps_the_rest() -> None:
    whole = Align("offset+scale", 3.0, 0.1, "mean")
    assert vars(whole.without_scale()) == {**vars(whole), "mode": "offset"}


def test_the_settings_are_those_of_the_config_group() -> None:
    settings = {"mode": "offset", "energy_weight": 2.0, "ridge": 0.5, "towards": "mean"}
    overrides = (f"transfer.align.{name}={value}" for name, value in settings.items())
    assert vars(instantiate(strategy("full", None, *overrides)["align"])) == settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "both"}, r"mode offset\+scale, offset or none, got 'both'"),
        ({"towards": "zero"}, "towards minimum, mean or atoms or null, got 'zero'"),
        ({"ridge": -1.0}, "ridge of 0 or more, got -1"),
        ({"ridge": float("nan")}, "ridge of 0 or more, got nan"),
        ({"energy_weight": -0.1}, "energy_weight of 0 or more, got -0.1"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TransferError, match=message):
        Align(**arguments)


def test_isolated_atoms_that_the_data_lack() -> None:
    setting: Any = Setting(predictions(WATER, 1.0, [1.0, 2.0]), {1: -13.6})
    with pytest.raises(TransferError, match=r"got none for C, O; label with .* or use .*=mean"):
        Align("offset", towards="atoms").apply(setting)


def test_a_model_that_predicts_nan_changes_nothing() -> None:
    p = predictions(WATER, 1.0, [1.0, 2.0])
    setting: Any = Setting(replace(p, energy=p.energy / 0.0))
    with pytest.raises(CheckpointError, match="expected finite energies and forces"):
        Align().apply(setting)
    assert get_offsets(setting.model, "energy")[1].item() == pytest.approx(0.3)
