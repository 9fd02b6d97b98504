r"""Fit offsets and scale of a pretrained model to DFT labels in closed form.

.. math::

    E^\mathrm{DFT} \approx a E^\mathrm{model} + \sum_Z n_Z c_Z, \qquad
    F^\mathrm{DFT} \approx a F^\mathrm{model}
"""

import logging
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from ase.data import chemical_symbols
from schnetpack.atomistic import Atomwise
from torch import Tensor, nn

from schnetpack_tpainn.data.offsets import bound_atoms
from schnetpack_tpainn.errors import CheckpointError, TransferError
from schnetpack_tpainn.transfer.context import Context
from schnetpack_tpainn.transfer.evaluate import Predictions, errors
from schnetpack_tpainn.transfer.offsets import get_offsets, set_offsets

__all__ = ["Align", "Alignment", "fit_alignment", "scale_head"]

log = logging.getLogger(__name__)

MODES = ("offset+scale", "offset", "none")
PRIORS = ("minimum", "mean", "atoms")
NOISE = 1e-6  # share of float32 energies that is rounding


@dataclass(frozen=True)
class Alignment:
    """Result of the fit.

    Attributes:
        scale: factor ``a`` put on the model's energy.
        fitted_scale: what least squares gives for ``a``, sensible or not; None without a fit.
        offsets: changes of the offsets in eV per atomic number, float64, (zmax,).
        rank: rank of the composition matrix (frames by elements).
        n_elements: number of elements, the rank that determines every offset.
        condition: largest over smallest singular value of that matrix, zeros left out.
        before: :func:`~schnetpack_tpainn.transfer.evaluate.errors` of the model as it was.
        after: errors on the labels of the model after the fit.
        prior: offsets that the fit is drawn to.
    """

    scale: float
    fitted_scale: float | None
    offsets: Tensor
    rank: int
    n_elements: int
    condition: float
    before: dict[str, float]
    after: dict[str, float]
    prior: str = "minimum"

    def plain(self) -> dict[str, Any]:
        """The result for checkpoint and report, offsets left out."""
        fields = asdict(self)
        del fields["offsets"]
        return fields


class Align:
    r"""Closed-form fit of offsets and scale to the training labels.

    It minimises, over scale and offsets in float64,

    .. math::

        w \Big[ \Big\langle \Big(\frac{\Delta E}{n}\Big)^2 \Big\rangle
        + \lambda \sum_Z (c_Z - c^0_Z)^2 \Big] + \langle \Delta F^2 \rangle

    with means over frames and force components, in eV and Å. On energies alone the last term is
    absent: ``a`` is the slope between what offsets leave of the labels and of the model's energies,
    small where the two have little in common. Where the compositions do not determine every offset
    (liquid water: rank 1) and there is no ridge, the solution is the one nearest to the prior
    :math:`c^0`; the prior then changes no energy of those compositions. Elements that the training
    frames lack get the prior.

    .. code-block:: yaml

        align:
          _target_: schnetpack_tpainn.transfer.align.Align
          mode: offset+scale
          energy_weight: 1.0
          ridge: 0.0
          towards: null

    Args:
        mode: ``offset+scale``, ``offset``, or ``none``, which keeps the offsets that the data
            module fits to the labels alone.
        energy_weight: weight w of the energies per atom beside the force components; 0 fits the
            scale to the forces alone, and is refused where there are none.
        ridge: strength :math:`\lambda` of the pull towards the prior.
        towards: the prior: ``minimum`` (zeros), ``mean`` (for every element the mean energy per
            atom of the labels), ``atoms`` (isolated atoms of the data's metadata, less the labels'
            mean binding energy per atom); null: ``atoms`` where all are known, else ``minimum``.

    Raises:
        TransferError: an argument is out of range.
    """

    def __init__(
        self,
        mode: str = "offset+scale",
        energy_weight: float = 1.0,
        ridge: float = 0.0,
        towards: str | None = None,
    ) -> None:
        if mode not in MODES:
            raise TransferError(f"expected transfer.align.mode {_listed(MODES)}, got {mode!r}")
        if towards is not None and towards not in PRIORS:
            raise TransferError(
                f"expected transfer.align.towards {_listed(PRIORS)} or null, got {towards!r}"
            )
        for name, value in (("energy_weight", energy_weight), ("ridge", ridge)):
            if not 0 <= value < math.inf:
                raise TransferError(f"expected transfer.align.{name} of 0 or more, got {value}")
        self.mode = mode
        self.energy_weight = energy_weight
        self.ridge = ridge
        self.towards = towards

    def without_scale(self) -> "Align":
        """The same fit with the scale left at 1."""
        return Align("offset", self.energy_weight, self.ridge, self.towards)

    def apply(self, context: Context, max_frames: int | None = None) -> Alignment:
        """Fit, and put scale and offsets in place.

        Args:
            context: model and data.
            max_frames: take so many training frames at most, evenly spaced.

        Returns:
            What was fitted.

        Raises:
            CheckpointError: the model predicts NaN, or has no head to scale.
            TransferError: isolated-atom energies or forces are asked for and the data lack them.
        """
        predictions = context.predictions("train", max_frames)
        if predictions.forces is None and self.mode == "offset+scale" and not self.energy_weight:
            raise TransferError(
                "transfer.align.energy_weight=0 fits the scale to forces alone: expected labels "
                "with forces, got energies alone; leave transfer.align.energy_weight at 1"
            )
        found = predictions.energy, predictions.forces
        if not all(f.isfinite().all() for f in found if f is not None):
            raise CheckpointError(
                "expected finite energies and forces on the training frames, got NaN or infinity "
                "from the model; use another checkpoint, trained at a lower learning rate"
            )
        now = get_offsets(context.model, context.energy_key)
        prior, towards = self._prior(context, predictions, now)
        scaled = self.mode == "offset+scale"
        # the labels come with the present offsets removed: fitted is the change, so is the prior
        fit = fit_alignment(predictions, scaled, self.energy_weight, self.ridge, prior - now)
        fit = replace(fit, prior=towards)
        if self.mode == "none":
            return replace(fit, offsets=torch.zeros_like(now), after=fit.before)
        if fit.scale != 1.0:
            scale_head(context.model, context.energy_key, fit.scale)
        set_offsets(context.model, context.datamodule, context.energy_key, now + fit.offsets)
        return fit

    def _prior(self, context: Context, p: Predictions, now: Tensor) -> tuple[Tensor, str]:
        """Offsets to be drawn to, in eV, and what they are called."""
        elements, prior = context.datamodule.elements(), torch.zeros_like(now)  # (zmax,)
        atoms = torch.zeros_like(now)
        found = context.datamodule.dataset.atomrefs.get(context.energy_key, atoms)
        atoms[: len(found)] = found
        missing = [chemical_symbols[z] for z in elements if atoms[z] == 0]
        towards = self.towards or ("minimum" if missing else "atoms")
        if towards == "minimum":
            return prior, towards
        if towards == "mean":
            atoms = prior
        elif missing:
            raise TransferError(
                "transfer.align.towards=atoms: expected isolated-atom energies in the data's "
                f"metadata, got none for {', '.join(missing)}; label with `tpainn-label "
                "--atomrefs`, or use transfer.align.towards=mean"
            )
        total = p.energy_label + p.composition @ now  # (M,)
        bound = bound_atoms(p.composition.numpy(), total.numpy(), atoms.numpy())
        prior[elements] = torch.from_numpy(bound)[elements]
        return prior, towards


def _listed(choices: tuple[str, ...]) -> str:
    return ", ".join(choices[:-1]) + f" or {choices[-1]}"


def fit_alignment(
    p: Predictions,
    fit_scale: bool = True,
    energy_weight: float = 1.0,
    ridge: float = 0.0,
    prior: Tensor | None = None,
) -> Alignment:
    """Least squares for scale and offset changes, on energies per atom and force components.

    A scale that is not positive would turn the potential upside down: it is reported, the offsets
    are fitted around a scale of 1, and a warning says so.

    Args:
        p: predictions and labels with the same offsets removed.
        fit_scale: fit ``a`` too; otherwise it is 1.
        energy_weight: see :class:`Align`.
        ridge: likewise.
        prior: changes that the fit is drawn to, in eV per atomic number, float64, (zmax,); zeros
            when None.

    Returns:
        The alignment.
    """
    offsets = torch.zeros(p.composition.shape[1]).double() if prior is None else prior.clone()
    present = torch.nonzero(p.composition.sum(dim=0)).squeeze(1)  # (K,)
    x = p.composition[:, present]  # (M, K)
    row = 1.0 / (p.n_atoms * len(p.energy) ** 0.5)  # (M,)
    # ridge regression is least squares with further rows, zeros in all but the offsets
    zeros = x.new_zeros(len(present))
    design = torch.cat([x * row[:, None], torch.diag(zeros + ridge**0.5)])  # (M + K, K)
    model = torch.cat([p.energy * row, zeros])  # (M + K,)
    label = torch.cat([(p.energy_label - p.composition @ offsets) * row, zeros])
    inverse = torch.linalg.pinv(design)  # (K, M + K)
    fitted = None
    if fit_scale:
        # the offsets take what they can of both sides; the scale is fitted to what remains
        rest = [e - design @ (inverse @ e) for e in (model, label)]
        determined = rest[0].norm() > NOISE * model.norm()
        if p.forces is not None and p.forces_label is not None:
            rest = [
                torch.cat([energy_weight**0.5 * e, f.flatten() / f.numel() ** 0.5])
                for e, f in zip(rest, (p.forces, p.forces_label), strict=True)
            ]
            determined = p.forces.any()
        if determined:
            fitted = ((rest[0] @ rest[1]) / rest[0].square().sum()).item()
    scale = _accepted(fitted, "energies" if p.forces is None else "forces") if fit_scale else 1.0
    offsets[present] += inverse @ (label - scale * model)
    forces = None if p.forces is None else scale * p.forces
    after = replace(p, energy=scale * p.energy + p.composition @ offsets, forces=forces)
    singular, rank = torch.linalg.svdvals(x), int(torch.linalg.matrix_rank(x))
    condition = (singular[0] / singular[rank - 1]).item()
    log.info("alignment: scale %.4f, offsets of rank %d of %d elements", scale, rank, len(present))
    return Alignment(
        scale, fitted, offsets, rank, len(present), condition, errors(p), errors(after)
    )


def _accepted(fitted: float | None, what: str) -> float:
    """The scale to use, and a warning where it says that the teacher is poor."""
    if fitted is not None and fitted > 0:
        if not 0.2 < fitted < 5:
            log.warning(
                "the pretrained model's %s need a factor of %.3g to match the DFT labels "
                "(expected 0.2 to 5): the classical force field may be a poor teacher here",
                *(what, fitted),
            )
        return fitted
    found = "are zero beside" if fitted is None else f"point against (factor {fitted:.3g})"
    if fitted is None and what == "energies":
        found = "leave no remainder beside offsets (more labels help) to compare with"
    log.warning(
        "the pretrained model's %s %s those of the DFT labels: the scale is left at 1 and only "
        "offsets are fitted. The classical force field is a poor teacher here, or units or signs "
        "of the labels are wrong; check them before you use this run",
        *(what, found),
    )
    return 1.0


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
