"""Frames of the last teacher, refitted to the labels of the run, beside the labels."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fasteners
import schnetpack.properties as properties
from schnetpack import AtomisticTask
from torch import Tensor

from schnetpack_tpainn.data.refitted import RefittedData
from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.context import TransferRecord
from schnetpack_tpainn.transfer.frames import FramesPart, force_field_frames, known_frames

__all__ = ["RefittedReplay"]

log = logging.getLogger(__name__)

FILE = "refit.db"


class RefittedReplay(FramesPart):
    r"""Trains on frames of the pretraining whose labels are corrected towards the run's labels.

    Before the first step what the teacher lacks of the training labels is fitted in closed form
    (:class:`~schnetpack_tpainn.data.refitted.RefittedData`) and added to its frames. They are then
    nearly DFT frames: in every step ``ratio`` of them per labelled frame go through the same
    network and head, and the task's own loss on them is added with a ``weight``. No label but
    those of the training frames is used.

    .. code-block:: yaml

        transfer:
          replay:
            _target_: schnetpack_tpainn.transfer.refitted.RefittedReplay
            _recursive_: false
            _convert_: all
            weight: 0.3

    Args:
        ratio: refitted frames per labelled frame.
        weight: factor on their loss.
        n_frames: number of different frames; all of the pretraining when None.
        calculator: Hydra node of the teacher; None: what labelled the pretraining frames.
        radii: how many bonds away the types of atoms look, see ``RefittedData``.
        folds: folds of the cross-validation, likewise.
        directory: where ``refit.db`` goes; the run directory by default.
        seed: seed of all that is drawn.

    Raises:
        TransferError: a number is not positive.
    """

    def __init__(
        self,
        ratio: float = 1.0,
        weight: float = 0.3,
        n_frames: int | None = None,
        calculator: Mapping[str, Any] | None = None,
        radii: Sequence[int] = (0, 1),
        folds: int | None = None,
        directory: str = ".",
        seed: int = 0,
    ) -> None:
        super().__init__(ratio, seed)
        for name, value in {"ratio": ratio, "weight": weight}.items():
            if not value > 0:
                raise TransferError(
                    f"expected transfer.replay.{name} above 0, got {value}; to tune without "
                    "refitted frames, set transfer/replay=null"
                )
        self.weight, self.n_frames = weight, n_frames
        self.calculator, self.radii, self.folds = calculator, radii, folds
        self.directory = Path(directory)

    def prepare(self, model: Any) -> None:
        """Look at the model.

        Args:
            model: SchNetPack model.

        Raises:
            TransferError: it predicts no forces.
        """
        if properties.R not in model.required_derivatives:
            raise TransferError(
                "transfer/replay=refitted: expected labels with forces and a model that predicts "
                "them, got energies alone (globals.forces_key=null), which do not determine a "
                "force field: use data/source=tpainn_increments, and set transfer/replay=null"
            )

    def open(self, task: AtomisticTask, record: TransferRecord) -> None:
        """Refit the frames, or find them in the run directory.

        Args:
            task: the task.
            record: what the transfer did.

        Raises:
            DataError: there are too few labels, or the teacher or its frames do not fit them.
            TransferError: the frames are not known or not there.
        """
        datamodule = task.trainer.datamodule
        path = self.directory / FILE
        with fasteners.InterProcessLock(path.with_name(f".{FILE}.lock")):  # one process works
            if not path.exists():
                RefittedData(
                    str(known_frames(record)),
                    str(datamodule.datapath),
                    calculator=self.calculator,
                    radii=self.radii,
                    folds=self.folds,
                    rows=datamodule.train_idx,
                ).make(path)
        frames = force_field_frames(
            path, datamodule, self.n_frames, self.seed, transforms=datamodule.train_transforms
        )
        self._frames = [frames]
        refit = frames.metadata["refit"]
        error = {k: v["forces_mae"] for k, v in refit["cross_validation_mev"].items()}
        record.parts["replay"] = {
            "ratio": self.ratio,
            "weight": self.weight,
            "refitted_frames": len(frames),
            "refit_used": refit["used"],
            "refit_terms": refit["n_terms"],
            "refit_labels": refit["n_labels"],
            "teacher_forces_mae_mev_per_ang": round(error["before"], 1),
            "refitted_forces_mae_mev_per_ang": round(error["after"], 1),
        }

    def loss(self, task: AtomisticTask, batch: dict[str, Any], loss: Tensor) -> Tensor:
        """Add the loss on refitted frames.

        Logged is ``train_refitted``, that loss before its weight.

        Args:
            task: the task.
            batch: the batch of labels.
            loss: the loss so far.

        Returns:
            The sum.
        """
        frames = self.beside(batch, task)
        targets = {
            output.target_property: frames[output.target_property] for output in task.outputs
        }
        results = task.predict_without_postprocessing(frames)
        refitted = sum(output.calculate_loss(results, targets) for output in task.outputs)
        task.log("train_refitted", refitted, on_step=True, on_epoch=False)
        return loss + self.weight * refitted
