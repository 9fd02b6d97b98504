"""The closed-form fit of offsets and scale."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from alignment import CHOICES, WATER, predictions
from schnetpack.atomistic import Atomwise
from torch import nn

from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.transfer.align import fit_alignment, scale_head
from schnetpack_tpainn.transfer.evaluate import Predictions, errors
from schnetpack_tpainn.transfer.lora import Lora, merged


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
