"""What happens to a model before and during tuning, as the config group `transfer` says."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hydra.utils import to_absolute_path
from torch import nn

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.align import Align
from schnetpack_tpainn.transfer.architecture import compare_architecture, describe
from schnetpack_tpainn.transfer.context import Context, TransferRecord
from schnetpack_tpainn.transfer.copying import CopyPlan, copy_parameters, count_blocks, plan_copy
from schnetpack_tpainn.transfer.coverage import find_coverage
from schnetpack_tpainn.transfer.diagnose import announce, diagnose
from schnetpack_tpainn.transfer.elements import admit_elements
from schnetpack_tpainn.transfer.evaluate import errors
from schnetpack_tpainn.transfer.formats import Pretrained
from schnetpack_tpainn.transfer.gradual import Gradual
from schnetpack_tpainn.transfer.lora import Lora
from schnetpack_tpainn.transfer.part import Part
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from schnetpack_tpainn.transfer.runs import find_last_run
from schnetpack_tpainn.transfer.tuning import Tuning
from schnetpack_tpainn.transfer.units import check_units

__all__ = ["Autotune", "Scratch", "Strategy"]

MAX_FRAMES = 500  # training labels to judge the teacher by
HEAD = r"^(?!representation\.)"


class Strategy(ABC):
    """Base class of what ``_target_`` names in the config group `transfer`.

    Args:
        tuning: which parameters are tuned, and how fast.
        parts: what else takes part in tuning.
        final_bias_refit: fit the offsets to the training labels once more after the last step.
    """

    def __init__(
        self, tuning: Tuning, parts: Sequence[Part] = (), final_bias_refit: bool = True
    ) -> None:
        self.tuning = tuning
        self.parts = list(parts)
        self.final_bias_refit = final_bias_refit
        self.align = Align("offset")

    def prepare(self, model: nn.Module) -> None:
        """Give a model its structure: adapters, what is frozen, the parts' buffers.

        Args:
            model: SchNetPack model, untrained or about to get a checkpoint's weights.

        Raises:
            TransferError: an expression matches nothing, or nothing is left to tune.
        """
        self.tuning.prepare(model)
        self.tuning.factors(model)  # finds wrong expressions now
        for part in self.parts:
            part.prepare(model)

    def check(self, build_model: Callable[[], nn.Module]) -> None:
        """Find what cannot work, before data are touched.

        Args:
            build_model: builds the model.

        Raises:
            TPaiNNError: something cannot work.
        """
        self.prepare(build_model())

    @abstractmethod
    def apply(self, context: Context) -> TransferRecord:
        """Set the model's weights and offsets, once in a run.

        Args:
            context: model, prepared, and data.

        Returns:
            What was done.
        """


class Scratch(Strategy):
    """No transfer: the model keeps its random start; the offsets are fitted around it.

    Args:
        final_bias_refit: fit the offsets to the training labels once more after the last step.
    """

    def __init__(self, final_bias_refit: bool = True) -> None:
        super().__init__(Tuning(), final_bias_refit=final_bias_refit)

    def apply(self, context: Context) -> TransferRecord:
        """Fit the offsets, so that no step is spent on the random network's mean energy.

        Args:
            context: model and data.

        Returns:
            The record.
        """
        record = TransferRecord("scratch", blocks=count_blocks(context.model))
        record.alignment = self.align.apply(context, max_frames=500).plain()
        return record


class Autotune(Strategy):
    r"""T-PaiNN's transfer (arXiv 2603.24752): everything is copied but the energy's zero.

    Representation and head are copied whole. The offsets of the classical energies are not: they
    are fitted to the DFT labels, together with one factor on the head, in closed form (see
    :class:`~schnetpack_tpainn.transfer.align.Align`). Then everything is tuned, or what
    ``freeze``, ``lora`` and ``gradual`` leave, drawn to the start by ``anchor`` and held to the
    force field by ``replay``.

    .. code-block:: yaml

        transfer:
          _target_: schnetpack_tpainn.transfer.strategies.Autotune
          checkpoint: null
          search: ${run.path}
          head: rescale
          freeze: ['representation\.embedding']
          layer_decay: 0.8

    Args:
        name: name of the strategy, for reports.
        checkpoint: run directory, ``best_model``, ``.ckpt`` or ``.safetensors``; the last finished
            pretraining run below ``search`` when None.
        search: folder of one's own run directories.
        trust_pickle: open pickles from elsewhere although they run code.
        frames: database of the pretraining frames; as the checkpoint says when None.
        rename: regular expression on a checkpoint's parameter names -> replacement.
        reinitialise: regular expressions on names of parameters that keep their random start.
        accept: differences in architecture to accept (keys as the refusal names them).
        new_elements: what to do with elements that pretraining never saw: ``refuse``, ``init``
            (random embedding) or ``nearest`` (embedding of the most alike element it saw).
        head: ``rescale`` fits a factor, ``keep`` does not, ``reset`` starts from a random head.
        align: closed-form fit before the first step; ``Align()`` when None.
        freeze: see :class:`~schnetpack_tpainn.transfer.tuning.Tuning`.
        learning_rates: likewise.
        layer_decay: likewise.
        lora: low-rank adapters, or None.
        gradual: gradual unfreezing, or None.
        anchor: pull towards the pretrained weights, or None.
        replay: force-field frames among the labels, or None.
        final_bias_refit: fit the offsets to the training labels once more after the last step.

    Raises:
        TransferError: an argument is none of its choices.
    """

    def __init__(
        self,
        name: str = "full",
        checkpoint: str | None = None,
        search: str = "runs",
        trust_pickle: bool = False,
        frames: str | None = None,
        rename: Mapping[str, str] | None = None,
        reinitialise: Sequence[str] = (),
        accept: Sequence[str] = (),
        new_elements: str = "refuse",
        head: str = "rescale",
        align: Align | None = None,
        freeze: Sequence[str] = (),
        learning_rates: Mapping[str, float] | None = None,
        layer_decay: float = 1.0,
        lora: Lora | None = None,
        gradual: Gradual | None = None,
        anchor: Part | None = None,
        replay: Part | None = None,
        final_bias_refit: bool = True,
    ) -> None:
        parts = [part for part in (gradual, anchor, replay) if part is not None]
        super().__init__(Tuning(freeze, learning_rates, layer_decay, lora), parts, final_bias_refit)
        _one_of("head", head, ("rescale", "keep", "reset"))
        _one_of("new_elements", new_elements, ("refuse", "init", "nearest"))
        self.name = name
        self.checkpoint, self.search = checkpoint, search
        self.trust_pickle = trust_pickle
        self.frames = frames
        self.rename = dict(rename or {})
        self.reinitialise = [*reinitialise, *([HEAD] if head == "reset" else [])]
        self.accept = list(accept)
        self.new_elements = new_elements
        self.head = head
        self.align = align or Align()

    def load(self) -> Pretrained:
        """Read the pretrained weights.

        Returns:
            Weights and card.

        Raises:
            CheckpointError: there are none, or they cannot be read.
        """
        # SchNetPack changes into the run directory; paths are meant from where the run was started
        search = Path(to_absolute_path(self.search))
        if self.checkpoint is None:
            path = find_last_run(search, "pretrain")
        else:
            path = Path(to_absolute_path(str(Path(self.checkpoint).expanduser())))
        return load_pretrained(path, self.trust_pickle, own=search)

    def check(self, build_model: Callable[[], nn.Module]) -> None:
        """Read the checkpoint and try it on a fresh model.

        Args:
            build_model: builds the model.

        Raises:
            TPaiNNError: it cannot be read or does not fit.
        """
        model = build_model()
        self.prepare(model)
        self._plan(self.load(), model)

    def _plan(self, pretrained: Pretrained, model: nn.Module) -> tuple[CopyPlan, list[str]]:
        """What to copy, and the accepted differences."""
        found = compare_architecture(pretrained.card["architecture"], describe(model), self.accept)
        plan = plan_copy(
            pretrained.state, model, self.rename, self.reinitialise, accept_fixed=bool(found)
        )
        self.tuning.refuse_random(model, plan.reinitialised)
        return plan, [*found, *plan.differences]

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
        check_units(pretrained, context.datamodule)
        record = TransferRecord(self.name, str(pretrained.source.resolve()))
        record.pretrained = dict(pretrained.card)
        record.frames = self.frames and to_absolute_path(self.frames)
        record.frames = record.frames or (pretrained.card.get("data") or {}).get("path")
        plan, record.differences = self._plan(pretrained, context.model)
        state, record.new_elements = admit_elements(
            pretrained, plan, context.datamodule.elements(), context.model, self.new_elements
        )
        if self.new_elements == "init" and record.new_elements:
            embeddings = [name for name in plan.copied if "embedding" in name]
            self.tuning.refuse_random(context.model, embeddings)
        copy_parameters(plan, state, context.model)
        record.renamed, record.reinitialised = plan.renamed, plan.reinitialised
        record.blocks = count_blocks(context.model, plan)
        self._align(context, record)
        return record

    def _align(self, context: Context, record: TransferRecord) -> None:
        """Fit offsets alone, then as asked, measure both, and judge the teacher by them."""
        if self.align.mode != "none":
            self.align.without_scale().apply(context)
        copied = context.predictions("train", MAX_FRAMES)
        record.zero_shot["copied"] = errors(context.predictions("test"))
        align = self.align
        if self.head != "rescale" and align.mode == "offset+scale":
            align = align.without_scale()
        fit = align.apply(context)
        record.alignment = fit.plain()
        aligned = context.predictions("train", MAX_FRAMES)
        covered = find_coverage(context, record)
        unfit = "parts of it were reinitialised" if record.reinitialised else None
        record.diagnosis = diagnose(copied, aligned, fit.scale, covered, unfit).plain()
        announce(record.diagnosis)
        record.zero_shot["aligned"] = errors(context.predictions("test"))
        record.zero_shot["validation"] = errors(context.predictions("val"))


def _one_of(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise TransferError(
            f"expected transfer.{option} {', '.join(choices[:-1])} or {choices[-1]}, got {value!r}"
        )
