"""The closed-form fit of offsets and scale."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from schnetpack.atomistic import Atomwise
from schnetpack.transform import RemoveOffsets
from torch import nn

from schnetpack_tpainn.errors import CheckpointError, TransferError
from schnetpack_tpainn.transfer.align import Align, fit_alignment, scale_head
from schnetpack_tpainn.transfer.evaluate import Predictions, errors
from schnetpack_tpainn.transfer.lora import Lora, merged
from schnetpack_tpainn.transfer.offsets import AddAtomicOffsets, get_offsets
from tests.fits import strategy

CHOICES = [[4, 1], [6, 2], [8, 3], [2, 2]]
WATER = [[2, 1], [4, 2], [6, 3], [2, 1]]  # rank 1


def predictions(
    composition: list[list[int]], scale: float, offsets: list[float], noise: float = 0.0
) -> Predictions:
    """Labels that are `scale` times the model plus `offsets` per element (H, C), plus noise."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    counts = torch.zeros(len(composition), 100, dtype=torch.float64)
    counts[:, [1, 6]] = torch.tensor(composition, dtype=torch.float64)
    n_atoms = int(counts.sum())
    energy, forces = randn(len(composition)), randn(n_atoms, 3)
    shift = counts[:, [1, 6]] @ torch.tensor(offsets, dtype=torch.float64)
    return Predictions(
        energy,
        scale * energy + shift + noise * randn(len(composition)),
        forces,
        scale * forces + noise * randn(n_atoms, 3),
        counts,
        torch.cat([torch.tensor([1] * h + [6] * c) for h, c in composition]),
    )


def generic(
    p: Predictions, energy_weight: float = 1.0, ridge: float = 0.0, prior: tuple = (0.0, 0.0)
) -> list[float]:
    """The whole least-squares problem in one matrix, for numpy: scale, offsets of H and C."""
    x = p.composition[:, [1, 6]].numpy()
    n_frames, n_forces = len(x), p.forces.numel()
    rows = np.sqrt(energy_weight / n_frames) / x.sum(axis=1)
    pull = np.sqrt(energy_weight * ridge)
    design = np.zeros((n_frames + n_forces + 2, 3))
    energy, energy_label = p.energy.numpy(), p.energy_label.numpy()
    design[:n_frames, 0], design[:n_frames, 1:] = energy * rows, x * rows[:, None]
    design[n_frames:-2, 0] = p.forces.flatten() / np.sqrt(n_forces)
    design[-2:, 1:] = pull * np.eye(2)
    labels = [energy_label * rows, p.forces_label.flatten() / np.sqrt(n_forces)]
    target = np.concatenate([*labels, pull * np.array(prior)])
    return np.linalg.lstsq(design, target, rcond=None)[0].tolist()


def found(fit: Any) -> list[float]:
    return [fit.scale, *fit.offsets[[1, 6]].tolist()]


def test_recovers_scale_and_offsets() -> None:
    p = predictions(CHOICES, 1.7, [-3.0, 12.5])
    fit = fit_alignment(p)
    assert found(fit) == pytest.approx([1.7, -3.0, 12.5], abs=1e-8)
    assert fit.fitted_scale == fit.scale
    assert (fit.rank, fit.n_elements) == (2, 2)
    assert fit.offsets.count_nonzero() == 2
    assert fit.condition == pytest.approx(np.linalg.cond(np.array(CHOICES)))
    assert fit.before == errors(p)
    assert fit.after["energy_rmse_mev_per_atom"] < 1e-7 < fit.before["energy_rmse_mev_per_atom"]
    assert fit.after["forces_rmse_mev_per_ang"] < 1e-7 < fit.before["forces_rmse_mev_per_ang"]


@pytest.mark.parametrize("energy_weight", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("ridge", [0.0, 1e-3, 2.0])
def test_matches_a_generic_least_squares_solver(energy_weight: float, ridge: float) -> None:
    p = predictions(CHOICES, 1.3, [0.5, 1.0], noise=0.3)
    prior = torch.zeros(100, dtype=torch.float64)
    prior[[1, 6]] = torch.tensor([4.0, -7.0], dtype=torch.float64)
    fit = fit_alignment(p, True, energy_weight, ridge, prior)
    assert found(fit) == pytest.approx(generic(p, energy_weight, ridge, (4.0, -7.0)), abs=1e-9)


def test_the_energy_weight_moves_the_scale_between_energies_and_forces() -> None:
    p = predictions(CHOICES, 1.0, [0.0, 0.0])
    p = replace(p, energy_label=2.0 * p.energy)  # energies ask for 2, forces for 1
    scales = [fit_alignment(p, energy_weight=w).scale for w in (0.0, 1.0, 1e3, 1e9)]
    assert scales == sorted(scales)
    assert scales[0] == pytest.approx(1.0, abs=1e-12)
    assert scales[3] == pytest.approx(2.0, abs=1e-3)


def test_water_takes_the_offsets_nearest_to_the_prior() -> None:
    p = predictions(WATER, 0.8, [1.0, 5.0])
    prior = torch.zeros(100, dtype=torch.float64)
    prior[[1, 6]] = torch.tensor([3.0, 2.0], dtype=torch.float64)
    for drawn_to in (None, prior):
        fit = fit_alignment(p, prior=drawn_to)
        assert (fit.rank, fit.n_elements) == (1, 2)
        assert fit.condition == pytest.approx(1.0)
        assert fit.scale == pytest.approx(0.8, abs=1e-10)
        change = fit.offsets[[1, 6]] - (0.0 if drawn_to is None else drawn_to[[1, 6]])
        assert (2 * fit.offsets[1] + fit.offsets[6]).item() == pytest.approx(7.0, abs=1e-9)
        # the shortest way from the prior is along the composition
        assert (change[0] - 2 * change[1]).item() == pytest.approx(0.0, abs=1e-9)


def test_the_ridge_joins_least_squares_and_prior() -> None:
    p = predictions(CHOICES, 1.0, [2.0, -1.0])
    prior = torch.zeros(100, dtype=torch.float64)
    prior[[1, 6, 8]] = torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)
    weak, strong = (fit_alignment(p, False, 1.0, ridge, prior) for ridge in (1e-13, 1e13))
    assert weak.offsets[[1, 6]].tolist() == pytest.approx([2.0, -1.0], abs=1e-6)
    assert strong.offsets[[1, 6]].tolist() == pytest.approx([10.0, 20.0], abs=1e-6)
    # with a vanishing ridge, water too goes to the prior's neighbour
    water = predictions(WATER, 1.0, [1.0, 5.0])
    limit = fit_alignment(water, False, 1.0, 1e-10, prior).offsets
    assert torch.allclose(limit, fit_alignment(water, False, prior=prior).offsets, atol=1e-6)
    assert limit[8] == 30.0  # an element that the frames lack gets the prior


def test_large_offsets_keep_their_digits() -> None:
    fit = fit_alignment(predictions(CHOICES, 1.1, [-13.605693122994, -1036.2381234567]))
    assert found(fit) == pytest.approx([1.1, -13.605693122994, -1036.2381234567], abs=1e-9)
    assert fit.offsets.dtype == torch.float64


def test_offsets_alone_keep_the_scale() -> None:
    fit = fit_alignment(predictions([[4, 1], [6, 2]], 1.0, [2.0, -1.0]), fit_scale=False)
    assert found(fit) == pytest.approx([1.0, 2.0, -1.0], abs=1e-9)
    assert fit.fitted_scale is None


def test_a_scale_out_of_range_is_used_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    fit = fit_alignment(predictions(CHOICES, 7.0, [0.0, 0.0]))
    assert fit.scale == pytest.approx(7.0)
    assert "may be a poor teacher" in caplog.text


def test_a_negative_scale_is_reported_and_not_used(caplog: pytest.LogCaptureFixture) -> None:
    p = predictions(CHOICES, -0.5, [1.0, 2.0])
    fit = fit_alignment(p)
    assert fit.scale == 1.0
    assert fit.fitted_scale == pytest.approx(-0.5)
    assert torch.equal(fit.offsets, fit_alignment(p, fit_scale=False).offsets)
    assert "point against (factor -0.5)" in caplog.text


def test_a_model_without_forces_has_no_scale(caplog: pytest.LogCaptureFixture) -> None:
    p = predictions(CHOICES, 1.0, [1.0, 2.0])
    fit = fit_alignment(replace(p, energy=0 * p.energy, forces=0 * p.forces))
    assert (fit.scale, fit.fitted_scale) == (1.0, None)
    assert "forces are zero" in caplog.text


class Setting:
    """A model that knows its predictions, and data with offsets: what `Align` works on."""

    def __init__(self, labels: Predictions, atoms: dict[int, float] | None = None) -> None:
        torch.manual_seed(0)
        self.labels = labels  # with no offsets removed
        self.head = Atomwise(n_in=4, output_key="energy")
        self.adder = AddAtomicOffsets("energy")
        self.model = nn.ModuleList([self.head, self.adder])
        self.energy_key = "energy"
        remover = RemoveOffsets("energy", remove_atomrefs=True)
        atomrefs = torch.zeros(100, dtype=torch.float64)
        for z, value in (atoms or {}).items():
            atomrefs[z] = value
        self.datamodule = SimpleNamespace(
            train_transforms=[remover],
            elements=lambda: [1, 6, 8],
            dataset=SimpleNamespace(atomrefs={"energy": atomrefs} if atoms else {}),
        )
        self.remover = remover
        now = torch.zeros(100, dtype=torch.float64)
        now[[1, 6]] = torch.tensor([0.3, -0.7], dtype=torch.float64)
        self.adder.set_offsets(now)

    def predictions(self, part: str, max_frames: int | None) -> Predictions:
        p = self.labels
        removed = p.composition @ get_offsets(self.model, "energy")
        return replace(p, energy_label=p.energy_label - removed)

    def offsets(self) -> list[float]:
        offsets = get_offsets(self.model, "energy")
        assert torch.allclose(self.remover.atomref, offsets, atol=1e-9)
        return offsets[[1, 6, 8]].tolist()


ATOMS = {1: -13.6, 6: -1030.0, 8: -2041.0}


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
    prior_h, prior_c, prior_o = {
        "minimum": (0.0, 0.0, 0.0),
        "mean": (mean, mean, mean),
        "atoms": (-13.6, -1030.0, -2041.0),
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


@pytest.mark.parametrize("adapted", [False, True])
def test_scaling_the_head_scales_the_energy(adapted: bool) -> None:
    head = Atomwise(n_in=8, output_key="energy")
    nn.init.normal_(head.outnet[-1].bias)
    model: nn.Module = nn.Sequential(head)
    inputs = {
        "scalar_representation": torch.randn(5, 8),
        "_idx_m": torch.tensor([0, 0, 0, 1, 1]),
    }
    if adapted:
        Lora(rank=2).attach(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith((".up", ".down")):
                    parameter.normal_()
    before = model[0](dict(inputs))["energy"].detach()
    scale_head(model, "energy", 2.5)
    assert torch.allclose(model[0](dict(inputs))["energy"], 2.5 * before)
    assert torch.allclose(merged(model)[0](dict(inputs))["energy"], 2.5 * before)


def test_no_head_to_scale() -> None:
    with pytest.raises(CheckpointError, match=r"expected one .*Atomwise head for 'energy'"):
        scale_head(nn.Sequential(Atomwise(n_in=8, output_key="charge")), "energy", 2.0)


def test_errors_are_in_mev() -> None:
    p = predictions([[4, 1], [6, 2]], 1.0, [0.0, 0.0])
    shift = torch.tensor([0.013, -0.026], dtype=torch.float64)
    result = errors(replace(p, energy=p.energy + shift, forces=p.forces - 0.002))
    assert result["energy_mae_mev"] == pytest.approx(19.5)
    assert result["energy_rmse_mev"] == pytest.approx((0.5 * (13**2 + 26**2)) ** 0.5)
    assert result["energy_mae_mev_per_atom"] == pytest.approx((13 / 5 + 26 / 8) / 2)
    assert result["energy_bias_mev_per_atom"] == pytest.approx((13 / 5 - 26 / 8) / 2)
    assert result["forces_mae_mev_per_ang"] == pytest.approx(2.0)
    assert result["n_frames"] == 2
