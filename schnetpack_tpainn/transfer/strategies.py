"""What happens to a model's weights before the first step of training."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from hydra.utils import to_absolute_path
from schnetpack.data import AtomsLoader
from torch import nn
from torch.utils.data import Subset

from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.transfer.align import Alignment, fit_alignment, scale_head
from schnetpack_tpainn.transfer.architecture import (
    compare_architecture,
    copy_parameters,
    describe,
)
from schnetpack_tpainn.transfer.evaluate import errors, predict
from schnetpack_tpainn.transfer.offsets import get_offsets, set_offsets
from schnetpack_tpainn.transfer.pretrained import Pretrained, load_pretrained
from schnetpack_tpainn.transfer.runs import find_last_run

__all__ = ["Autotune", "Context", "Scratch", "TransferRecord"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """What a strategy works on.

    Attributes:
        model: the model, with offsets fitted to the labels alone.
        datamodule: data module, set up.
        energy_key: key of the energy in model and data.
        forces_key: key of the forces.
    """

    model: nn.Module
    datamodule: Any
    energy_key: str
    forces_key: str

    def batches(self, dataset: Any) -> AtomsLoader:
        """Loader over a data set in its order."""
        return AtomsLoader(dataset, batch_size=self.datamodule.val_batch_size, num_workers=0)

    def align(self, fit_scale: bool, max_frames: int | None = None) -> Alignment:
        """Fit offsets, and the head's scale, to the training labels and put them in place.

        Args:
            fit_scale: fit the scale too.
            max_frames: take so many training frames at most, evenly spaced.

        Returns:
            What was fitted.
        """
        dataset = self.datamodule.train_dataset
        if max_frames is not None and len(dataset) > max_frames:
            spaced = torch.linspace(0, len(dataset) - 1, max_frames).round().int().tolist()
            dataset = Subset(dataset, spaced)
        training = self.batches(dataset)
        fit = fit_alignment(
            predict(self.model, training, self.energy_key, self.forces_key), fit_scale
        )
        if fit_scale:
            scale_head(self.model, self.energy_key, fit.scale)
        offsets = get_offsets(self.model, self.energy_key) + fit.offsets
        set_offsets(self.model, self.datamodule, self.energy_key, offsets)
        return fit

    def test_errors(self) -> dict[str, float]:
        """Errors of the model as it stands on the held-out test frames."""
        batches = self.batches(self.datamodule.test_dataset)
        return errors(predict(self.model, batches, self.energy_key, self.forces_key))


@dataclass
class TransferRecord:
    """What a strategy did, in plain values for checkpoint and report.

    Attributes:
        strategy: name of the strategy.
        checkpoint: file that the weights came from, or None.
        n_copied: parameters copied.
        n_reinitialised: parameters that keep their random start.
        scale: factor on the head from the closed-form fit.
        offsets_rank: rank of the composition matrix of the training labels.
        n_elements: elements in the training labels.
        zero_shot: test errors before any step, of the model as it was copied with offsets
            from the labels alone (``copied``) and after the alignment (``aligned``).
        pretrained: what the checkpoint says of itself.
    """

    strategy: str
    checkpoint: str | None = None
    n_copied: int = 0
    n_reinitialised: int = 0
    scale: float = 1.0
    offsets_rank: int | None = None
    n_elements: int | None = None
    zero_shot: dict[str, dict[str, float]] = field(default_factory=dict)
    pretrained: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """The record as a dictionary."""
        return asdict(self)


class Strategy(Protocol):
    """Interface of a transfer strategy, named by ``_target_`` in the config group `transfer`."""

    def check(self, build_model: Callable[[], nn.Module]) -> None:
        """Find what cannot work, before data are touched."""

    def apply(self, context: Context) -> TransferRecord:
        """Set the model's weights and offsets."""


class Scratch:
    """No transfer: the model keeps its random start; the offsets are fitted around it."""

    def check(self, build_model: Callable[[], nn.Module]) -> None:
        """Nothing can be wrong.

        Args:
            build_model: builds the model.
        """

    def apply(self, context: Context) -> TransferRecord:
        """Fit the offsets, so that no step is spent on the random network's mean energy.

        Args:
            context: model and data.

        Returns:
            The record.
        """
        fit = context.align(fit_scale=False, max_frames=500)
        n = sum(p.numel() for p in context.model.parameters())
        record = TransferRecord("scratch", n_reinitialised=n)
        record.offsets_rank, record.n_elements = fit.rank, fit.n_elements
        return record


class Autotune:
    """T-PaiNN's transfer (arXiv 2603.24752): everything is copied but the energy's zero.

    Representation and head are copied whole. The offsets of the classical energies are not: they
    are fitted to the DFT labels, together with one factor on the head, in closed form (see
    :func:`~schnetpack_tpainn.transfer.align.fit_alignment`). Every parameter stays trainable.

    .. code-block:: yaml

        transfer:
          _target_: schnetpack_tpainn.transfer.strategies.Autotune
          checkpoint: null
          search: ${run.path}
          head: rescale

    Args:
        checkpoint: run directory, ``best_model``, ``.ckpt`` or ``.safetensors``; the last finished
            pretraining run below ``search`` when None.
        search: folder of run directories.
        trust_pickle: open a ``best_model`` although pickles run code.
        head: ``rescale`` fits the factor, ``keep`` fits the offsets only.

    Raises:
        CheckpointError: ``head`` is neither.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        search: str = "runs",
        trust_pickle: bool = False,
        head: str = "rescale",
    ) -> None:
        if head not in ("rescale", "keep"):
            raise CheckpointError(f"expected transfer.head rescale or keep, got {head!r}")
        self.checkpoint = checkpoint
        self.search = search
        self.trust_pickle = trust_pickle
        self.head = head

    def load(self) -> Pretrained:
        """Read the pretrained weights.

        Returns:
            Weights and card.

        Raises:
            CheckpointError: there are none, or they cannot be read.
        """
        # SchNetPack changes into the run directory; paths are meant from where the run was started
        if self.checkpoint is None:
            path = find_last_run(to_absolute_path(self.search), "pretrain")
        else:
            path = Path(to_absolute_path(str(Path(self.checkpoint).expanduser())))
        return load_pretrained(path, self.trust_pickle)

    def check(self, build_model: Callable[[], nn.Module]) -> None:
        """Read the checkpoint and try it on a fresh model.

        Args:
            build_model: builds the model.

        Raises:
            CheckpointError: it cannot be read or does not fit.
        """
        self._copy(self.load(), build_model())

    @staticmethod
    def _copy(pretrained: Pretrained, model: nn.Module) -> int:
        compare_architecture(pretrained.card["architecture"], describe(model))
        return copy_parameters(pretrained.state, model)

    def apply(self, context: Context) -> TransferRecord:
        """Copy, fit offsets and scale, and measure the model before any step.

        Args:
            context: model and data.

        Returns:
            The record.

        Raises:
            CheckpointError: weights, units or elements do not fit; the model is untouched then.
        """
        pretrained = self.load()
        _check_units(pretrained, context.datamodule)
        _check_elements(pretrained, context.datamodule.elements())
        record = TransferRecord("autotune", str(pretrained.source.resolve()))
        record.pretrained = dict(pretrained.card)
        record.n_copied = self._copy(pretrained, context.model)
        context.align(fit_scale=False)
        record.zero_shot["copied"] = context.test_errors()
        fit = context.align(fit_scale=self.head == "rescale")
        record.zero_shot["aligned"] = context.test_errors()
        record.scale, record.offsets_rank = fit.scale, fit.rank
        record.n_elements = fit.n_elements
        _log_record(record)
        return record


def _check_units(pretrained: Pretrained, datamodule: Any) -> None:
    """Refuse labels in other units than the pretraining's."""
    known, dataset = pretrained.card.get("units"), datamodule.train_dataset
    if known is None:
        log.warning("%s does not say its units; expected those of the data", pretrained.source)
        return
    here = {**dataset.units, "distance": dataset.distance_unit}
    wrong = [f"{k}: expected {u}, got {here[k]}" for k, u in known.items() if here.get(k, u) != u]
    if wrong:
        raise CheckpointError(
            "the data's units are not those of the pretraining (" + "; ".join(wrong) + "); set "
            "data.property_units and data.distance_unit, SchNetPack converts on loading"
        )


def _check_elements(pretrained: Pretrained, here: list[int]) -> None:
    """Refuse elements that the pretraining never saw: their embedding is random."""
    from ase.data import chemical_symbols

    known = pretrained.card.get("elements")
    if known is None:
        log.warning("%s does not say which elements it has seen", pretrained.source)
        return
    new = [chemical_symbols[z] for z in here if z not in known]
    if new:
        raise CheckpointError(
            f"the data hold {', '.join(new)}, which the pretraining never saw (it saw "
            f"{', '.join(chemical_symbols[z] for z in known)}); "
            "pretrain on data with these elements"
        )


def _log_record(record: TransferRecord) -> None:
    copied, aligned = record.zero_shot["copied"], record.zero_shot["aligned"]
    log.info(
        "transfer: %d parameters copied from %s; scale %.4f; test errors before any step: "
        "energy %.1f -> %.1f meV, forces %.1f -> %.1f meV/Å (copied -> aligned)",
        record.n_copied,
        record.checkpoint,
        record.scale,
        copied["energy_mae_mev"],
        aligned["energy_mae_mev"],
        copied["forces_mae_mev_per_ang"],
        aligned["forces_mae_mev_per_ang"],
    )
