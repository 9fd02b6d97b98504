r"""Fit offsets and scale of a pretrained model to DFT labels in closed form.

.. math::

    E^\mathrm{DFT} \approx a E^\mathrm{model} + \sum_Z n_Z c_Z, \qquad
    F^\mathrm{DFT} \approx a F^\mathrm{model}
"""

import logging
from dataclasses import asdict, dataclass
from typing import Any

import torch
from schnetpack.atomistic import Atomwise
from torch import nn

from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.transfer.context import Context
from schnetpack_tpainn.transfer.evaluate import Predictions
from schnetpack_tpainn.transfer.offsets import get_offsets, set_offsets

__all__ = ["Align", "Alignment", "fit_alignment", "scale_head"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alignment:
    """Result of the fit.

    Attributes:
        scale: factor ``a`` of the model's energy.
        offsets: changes of the offsets in eV per atomic number, float64, (zmax,).
        rank: rank of the composition matrix.
        n_elements: number of elements, the rank that determines every offset.
    """

    scale: float
    offsets: torch.Tensor
    rank: int
    n_elements: int

    def plain(self) -> dict[str, Any]:
        """The result for checkpoint and report, offsets left out."""
        fields = asdict(self)
        del fields["offsets"]
        return fields


class Align:
    """Closed-form fit of offsets and scale to the training labels.

    Args:
        mode: ``offset+scale``, ``offset`` or ``none``.
    """

    def __init__(self, mode: str = "offset+scale") -> None:
        self.mode = mode

    def without_scale(self) -> "Align":
        """The same fit with the scale left at 1."""
        return Align("offset")

    def apply(self, context: Context, max_frames: int | None = None) -> Alignment:
        """Fit, and put scale and offsets in place.

        Args:
            context: model and data.
            max_frames: take so many training frames at most, evenly spaced.

        Returns:
            What was fitted.
        """
        fit_scale = self.mode == "offset+scale"
        fit = fit_alignment(context.predictions("train", max_frames), fit_scale)
        if self.mode == "none":
            return fit
        if fit_scale:
            scale_head(context.model, context.energy_key, fit.scale)
        offsets = get_offsets(context.model, context.energy_key) + fit.offsets
        set_offsets(context.model, context.datamodule, context.energy_key, offsets)
        return fit


def fit_alignment(p: Predictions, fit_scale: bool = True) -> Alignment:
    """Least squares for scale and offset changes, on energies per atom and force components.

    Both kinds of label weigh the same in eV/atom and eV/Å. Where the compositions do not determine
    every offset (one composition: rank 1), the change of smallest norm is taken, which leaves the
    sum right.

    Args:
        p: predictions and labels with the same offsets removed.
        fit_scale: fit ``a`` too; otherwise it is 1.

    Returns:
        The alignment.
    """
    x = p.composition  # (M, zmax)
    present = torch.nonzero(x.sum(dim=0)).squeeze(1)  # (K,)
    x = x[:, present]
    weight_e = 1.0 / (p.n_atoms * len(p.energy) ** 0.5)  # (M,)
    weight_f = 1.0 / p.forces.numel() ** 0.5
    design_offsets = x * weight_e[:, None]
    inverse = torch.linalg.pinv(design_offsets)  # (K, M)
    e_model, e_label = p.energy * weight_e, p.energy_label * weight_e
    a = 1.0
    if fit_scale:
        # the offsets take what they can of both sides; the scale is fitted to what remains
        rest_model = e_model - design_offsets @ (inverse @ e_model)
        rest_label = e_label - design_offsets @ (inverse @ e_label)
        rest_model = torch.cat([rest_model, p.forces.flatten() * weight_f])
        rest_label = torch.cat([rest_label, p.forces_label.flatten() * weight_f])
        norm = rest_model.square().sum()
        a = ((rest_model @ rest_label) / norm).item() if norm > 0 else 1.0
    change = inverse @ (e_label - a * e_model)  # (K,)
    offsets = torch.zeros(p.composition.shape[1], dtype=torch.float64)
    offsets[present] = change
    rank = int(torch.linalg.matrix_rank(x))
    log.info("alignment: scale %.4f, offsets of rank %d of %d elements", a, rank, len(present))
    if fit_scale and not 0.2 < a < 5:
        log.warning(
            "the pretrained model's forces need a factor of %.3g to match the DFT labels "
            "(expected 0.2 to 5): the classical force field may be a poor teacher here",
            a,
        )
    return Alignment(a, offsets, rank, len(present))


def scale_head(model: nn.Module, energy_key: str, scale: float) -> None:
    """Multiply a model's energy by a factor, in the last layer of its head.

    Args:
        model: SchNetPack model with an ``Atomwise`` head for the energy.
        energy_key: key of the energy.
        scale: the factor.

    Raises:
        CheckpointError: there is not one ``Atomwise`` head for the energy.
    """
    heads = [m for m in model.modules() if isinstance(m, Atomwise) and m.output_key == energy_key]
    if len(heads) != 1:
        raise CheckpointError(
            f"expected one schnetpack.atomistic.Atomwise head for '{energy_key}' to scale, got "
            f"{len(heads)}; use transfer.head=keep"
        )
    last = heads[0].outnet[-1]
    with torch.no_grad():
        last.weight *= scale
        if last.bias is not None:
            last.bias *= scale
