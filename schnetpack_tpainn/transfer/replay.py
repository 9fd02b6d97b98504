"""Replay: force-field frames among the labels, so that what the force field taught is not lost."""

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fasteners
import schnetpack.properties as properties
import torch
from schnetpack import AtomisticTask
from schnetpack.nn import scatter_add
from torch import Tensor, nn

from schnetpack_tpainn.data.shortrange import KINDS, make_short_range
from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.context import TransferRecord
from schnetpack_tpainn.transfer.frames import FramesPart, force_field_frames, pretraining_frames
from schnetpack_tpainn.transfer.lora import merged
from schnetpack_tpainn.transfer.pretrained import load_pretrained

__all__ = ["Replay"]

log = logging.getLogger(__name__)

STORED = "stored"
FILE = "replay.db"


class Replay(FramesPart):
    r"""Trains on force-field frames beside the labels, through a head of their own.

    In every step ``ratio`` force-field frames per labelled frame go through the representation and
    a copy of the pretrained head, and the task's own loss on them is added with a ``weight``.
    Their energies keep the force field's zero. Each frame's energy and forces, and their labels,
    are divided by :math:`\max(1, f / f_0)` with f the root mean square force of its atoms and f_0
    ``force_scale``: a frame at tens of eV counts by its relative error.

    Frames are drawn from those of the pretraining (``stored``) and from new ones that the same
    force field labels in ``replay.db`` of the run directory (see
    :func:`~schnetpack_tpainn.data.shortrange.short_range_frames`): ``bonds`` squeezed and
    stretched, ``contacts`` of atoms that are not bonded, ``approaches`` of two molecules.

    .. code-block:: yaml

        transfer:
          replay:
            _target_: schnetpack_tpainn.transfer.replay.Replay
            _recursive_: false
            _convert_: all
            ratio: 1.0
            weight: 0.03
            kinds: {stored: 0.1, bonds: 0.6, contacts: 0.15, approaches: 0.15}

    Args:
        ratio: force-field frames per labelled frame.
        weight: factor on their loss.
        kinds: kind -> share of the frames; ``stored`` alone when empty.
        n_frames: number of different frames.
        force_scale: f_0 in eV/Å.
        calculator: Hydra node of the force field; as the database of the pretraining says when
            None.
        directory: where ``replay.db`` goes; the run directory by default.
        seed: seed of all that is drawn.
        n_workers: processes that label; all cores when None.

    Raises:
        TransferError: a number is not positive, or a kind is unknown.
    """

    share: Tensor

    def __init__(
        self,
        ratio: float = 1.0,
        weight: float = 0.03,
        kinds: Mapping[str, float] | None = None,
        n_frames: int = 1000,
        force_scale: float = 3.0,
        calculator: Mapping[str, Any] | None = None,
        directory: str = ".",
        seed: int = 0,
        n_workers: int | None = None,
    ) -> None:
        super().__init__(ratio, seed)
        numbers = {
            "ratio": ratio,
            "weight": weight,
            "n_frames": n_frames,
            "force_scale": force_scale,
        }
        for name, value in numbers.items():
            if not value > 0:
                raise TransferError(
                    f"expected transfer.replay.{name} above 0, got {value}; to tune without "
                    "force-field frames, set transfer/replay=null"
                )
        kinds = dict(kinds or {STORED: 1.0})
        known = [STORED, *KINDS]
        if unknown := [k for k in kinds if k not in known]:
            raise TransferError(
                f"transfer.replay.kinds: expected some of {', '.join(known)}, got "
                f"{', '.join(unknown)}"
            )
        if min(kinds.values()) < 0 or not sum(kinds.values()) > 0:
            raise TransferError(f"transfer.replay.kinds: expected shares of 0 or more, got {kinds}")
        if calculator is not None and not isinstance(calculator, Mapping):
            raise TransferError(
                "transfer.replay.calculator: expected the Hydra node of an ASE calculator, got "
                f"{calculator!r}; set `_recursive_: false` beside the replay's _target_"
            )
        total = sum(kinds.values())
        self.n_frames = {k: round(n_frames * s / total) for k, s in kinds.items() if s > 0}
        self.weight, self.force_scale = weight, force_scale
        self.calculator = calculator
        self.directory = Path(directory)
        self.n_workers = n_workers
        self.head = nn.ModuleList()
        self.register_buffer("share", torch.zeros(2))  # sum over steps, steps

    def prepare(self, model: Any) -> None:
        """Make the frames' own head.

        Args:
            model: SchNetPack model.

        Raises:
            TransferError: it has no output modules, or predicts no forces.
        """
        modules = getattr(model, "output_modules", None)
        if not isinstance(modules, nn.ModuleList):
            raise TransferError(
                "transfer.replay: expected a model with output_modules, such as SchNetPack's "
                f"NeuralNetworkPotential, got {type(model).__name__}; set transfer/replay=null"
            )
        if properties.R not in model.required_derivatives:
            raise TransferError(
                "transfer.replay: expected a model that predicts forces, as force-field frames are "
                "replayed with theirs, got one for energies alone (globals.forces_key=null); set "
                "transfer/replay=null, or hold the weights by transfer/anchor=ewc"
            )
        head: Any = copy.deepcopy(merged(modules))
        self.head = head.requires_grad_(True)

    def start(self, task: AtomisticTask, record: TransferRecord) -> None:
        """Give the own head the pretrained weights, before the scale that the labels ask for.

        Args:
            task: the task.
            record: what the transfer did.

        Raises:
            TransferError: there is no pretrained model.
        """
        if record.checkpoint is None:
            raise TransferError(
                "transfer.replay: expected a pretrained model, got training from scratch"
            )
        state = load_pretrained(record.checkpoint, trust_pickle=True).state  # loaded before
        sources = {new: old for old, new in record.renamed.items()}
        copied = 0
        with torch.no_grad():
            for name, parameter in self.head.named_parameters(prefix="output_modules"):
                source = state.get(sources.get(name, name))
                if source is not None and source.shape == parameter.shape:
                    parameter.copy_(source)
                    copied += 1
        record.parts["replay"] = {
            "ratio": self.ratio,
            "weight": self.weight,
            "force_scale_ev_per_ang": self.force_scale,
            "head": "pretrained" if copied == len(list(self.head.parameters())) else "random",
        }
        log.info("replay: the head of the force-field frames is %s", record.parts["replay"]["head"])

    def open(self, task: AtomisticTask, record: TransferRecord) -> None:
        """Read the stored frames, and make the others or find them in the run directory.

        Args:
            task: the task.
            record: what the transfer did.

        Raises:
            TransferError: there are no stored frames, or it is not known what labels new ones.
        """
        datamodule = task.trainer.datamodule
        n_new = dict(self.n_frames)
        stored = pretraining_frames(record, datamodule, n_new.pop(STORED, 1), self.seed)
        self._frames = [stored] if STORED in self.n_frames else []
        counts = {STORED: len(stored)} if self._frames else {}
        if n_new:
            calculator = self.calculator or stored.metadata.get("calculator")
            if calculator is None:
                raise TransferError(
                    f"{record.frames} does not say which force field labelled it; name it as "
                    "transfer.replay.calculator, or set transfer.replay.kinds to stored alone"
                )
            path = self.directory / FILE
            with fasteners.InterProcessLock(path.with_name(f".{FILE}.lock")):  # one process works
                make_short_range(
                    path,
                    str(record.frames),
                    calculator,
                    n_new,
                    self.seed,
                    datamodule.energy_key,
                    self.n_workers,
                )
            made = force_field_frames(path, datamodule, transforms=stored.transforms)
            self._frames.append(made)
            counts["new"] = len(made)
        record.parts["replay"]["n_frames"] = counts

    def loss(self, task: AtomisticTask, batch: dict[str, Any], loss: Tensor) -> Tensor:
        """Add the loss on force-field frames.

        Logged are ``train_replay``, that loss before its weight, and ``replay_share``, the share of
        replay in the sum.

        Args:
            task: the task.
            batch: the batch of labels.
            loss: the loss so far.

        Returns:
            The sum.
        """
        frames = self.beside(batch, task)
        with _output_modules(task.model, self.head):
            results = task.predict_without_postprocessing(dict(frames))
        scale = self._scale(frames, task.forces_key)  # (B,)
        by_key = {task.energy_key: scale, task.forces_key: scale[frames[properties.idx_m], None]}
        replayed = torch.zeros_like(loss)
        for output in task.outputs:
            if output.name in by_key:
                prediction = {output.name: results[output.name] * by_key[output.name]}
                target = frames[output.target_property] * by_key[output.name]
                replayed = replayed + output.calculate_loss(
                    prediction, {output.target_property: target}
                )
        total = loss + self.weight * replayed
        share = (self.weight * replayed / total).detach()
        self.share += torch.stack([share, torch.ones_like(share)])
        task.log("train_replay", replayed, on_step=True, on_epoch=False)
        task.log("replay_share", share, on_step=True, on_epoch=False)
        return total

    def after_validation(self, task: AtomisticTask) -> None:
        """Put the mean share of replay in the loss on record.

        Args:
            task: the task.
        """
        task.record.parts["replay"]["share"] = (self.share[0] / self.share[1]).item()

    def _scale(self, frames: dict[str, Tensor], forces_key: str) -> Tensor:
        """Factor on each frame's energy and forces, shape (B,)."""
        n_atoms = frames[properties.n_atoms]
        square = frames[forces_key].square().sum(dim=1)  # (N,)
        mean = scatter_add(square, frames[properties.idx_m], dim_size=len(n_atoms)) / n_atoms
        return self.force_scale / mean.sqrt().clamp(min=self.force_scale)


@contextmanager
def _output_modules(model: Any, modules: nn.ModuleList) -> Iterator[None]:
    own, model.output_modules = model.output_modules, modules
    try:
        yield
    finally:
        model.output_modules = own
