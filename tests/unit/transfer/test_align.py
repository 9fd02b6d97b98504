"""The closed-form fit of offsets and scale."""

from dataclasses import replace

import pytest
import torch
from schnetpack.atomistic import Atomwise

from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.transfer.align import fit_alignment, scale_head
from schnetpack_tpainn.transfer.evaluate import Predictions, errors


def predictions(composition: list[list[int]], scale: float, offsets: list[float]) -> Predictions:
    """Labels that are exactly `scale` times the model plus `offsets` per element (H, C)."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(len(composition), 100, dtype=torch.float64)
    counts[:, [1, 6]] = torch.tensor(composition, dtype=torch.float64)
    energy = torch.randn(len(composition), generator=generator, dtype=torch.float64)
    forces = torch.randn(int(counts.sum()), 3, generator=generator, dtype=torch.float64)
    shift = counts[:, [1, 6]] @ torch.tensor(offsets, dtype=torch.float64)
    numbers = torch.cat([torch.tensor([1] * h + [6] * c) for h, c in composition])
    return Predictions(energy, scale * energy + shift, forces, scale * forces, counts, numbers)


def test_recovers_scale_and_offsets() -> None:
    fit = fit_alignment(predictions([[4, 1], [6, 2], [8, 3], [2, 2]], 1.7, [-3.0, 12.5]))
    assert fit.scale == pytest.approx(1.7, abs=1e-10)
    assert fit.offsets[[1, 6]].tolist() == pytest.approx([-3.0, 12.5], abs=1e-8)
    assert (fit.rank, fit.n_elements) == (2, 2)
    assert fit.offsets.count_nonzero() == 2


def test_one_composition_gives_the_smallest_norm_and_the_right_sum() -> None:
    fit = fit_alignment(predictions([[6, 2]] * 5, 0.8, [1.0, 5.0]))
    total = 6 * 1.0 + 2 * 5.0
    assert (fit.rank, fit.n_elements) == (1, 2)
    assert fit.scale == pytest.approx(0.8, abs=1e-10)
    assert (6 * fit.offsets[1] + 2 * fit.offsets[6]).item() == pytest.approx(total, abs=1e-9)
    # the smallest change along (6, 2)
    assert fit.offsets[[1, 6]].tolist() == pytest.approx([6 * total / 40, 2 * total / 40])


def test_offsets_alone_keep_the_scale() -> None:
    p = predictions([[4, 1], [6, 2]], 1.0, [2.0, -1.0])
    fit = fit_alignment(p, fit_scale=False)
    assert fit.scale == 1.0
    assert fit.offsets[[1, 6]].tolist() == pytest.approx([2.0, -1.0], abs=1e-9)


def test_noisy_labels_match_a_generic_least_squares_solver() -> None:
    p = predictions([[4, 1], [6, 2], [8, 3], [2, 2]], 1.3, [0.5, 1.0])
    noisy = Predictions(
        p.energy,
        p.energy_label + 0.1 * torch.tensor([1.0, -2.0, 0.5, 1.0], dtype=torch.float64),
        p.forces,
        p.forces_label + 0.2 * p.forces.roll(1, 0),
        p.composition,
        p.numbers,
    )
    fit = fit_alignment(noisy)
    weight_e = 1 / (noisy.n_atoms * 2.0)  # sqrt of four frames
    weight_f = noisy.forces.numel() ** -0.5
    x = noisy.composition[:, [1, 6]]
    top = torch.cat([noisy.energy[:, None], x], dim=1) * weight_e[:, None]
    bottom = torch.cat([noisy.forces.reshape(-1, 1), torch.zeros(noisy.forces.numel(), 2)], dim=1)
    design = torch.cat([top, bottom * weight_f])
    target = torch.cat([noisy.energy_label * weight_e, noisy.forces_label.flatten() * weight_f])
    a, c_h, c_c = torch.linalg.lstsq(design, target).solution.tolist()
    assert [fit.scale, *fit.offsets[[1, 6]].tolist()] == pytest.approx([a, c_h, c_c], abs=1e-9)


def test_a_teacher_that_disagrees_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    fit_alignment(predictions([[4, 1]] * 3, -0.5, [0.0, 0.0]))
    assert "poor teacher" in caplog.text


def test_scaling_the_head_scales_the_energy() -> None:
    head = Atomwise(n_in=8, output_key="energy")
    torch.nn.init.normal_(head.outnet[-1].bias)
    inputs = {
        "scalar_representation": torch.randn(5, 8),
        "_idx_m": torch.tensor([0, 0, 0, 1, 1]),
    }
    before = head(dict(inputs))["energy"].detach()
    scale_head(torch.nn.Sequential(head), "energy", 2.5)
    assert torch.allclose(head(dict(inputs))["energy"], 2.5 * before)


def test_no_head_to_scale() -> None:
    with pytest.raises(CheckpointError, match=r"expected one .*Atomwise head for 'energy'"):
        scale_head(torch.nn.Sequential(Atomwise(n_in=8, output_key="charge")), "energy", 2.0)


def test_errors_are_in_mev() -> None:
    p = predictions([[4, 1], [6, 2]], 1.0, [0.0, 0.0])
    off = replace(p, energy=p.energy + 0.013, forces=p.forces - 0.002)
    result = errors(off)
    assert result["energy_mae_mev"] == pytest.approx(13.0)
    assert result["energy_rmse_mev"] == pytest.approx(13.0)
    assert result["energy_mae_mev_per_atom"] == pytest.approx(13.0 * (1 / 5 + 1 / 8) / 2)
    assert result["forces_mae_mev_per_ang"] == pytest.approx(2.0)
    assert result["n_frames"] == 2
