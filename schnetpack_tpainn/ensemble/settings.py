"""What an ensemble is made of, as the `ensemble` section of the configuration says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import to_absolute_path

from schnetpack_tpainn.ensemble.calibration import METHODS
from schnetpack_tpainn.errors import EnsembleError, refuse_unknown

__all__ = ["EnsembleSettings"]

KEYS = ("directory", "members", "checkpoints", "resampling", "calibration", "parallel")


@dataclass(frozen=True)
class EnsembleSettings:
    """A checked ``ensemble`` section; its keys are described in ``configs/ensemble/default.yaml``.

    Attributes:
        directory: where everything goes.
        members: number of networks.
        checkpoints: pretrained models that the members begin from, in turn; None: all begin from
            that of ``transfer.checkpoint``.
        resampling: file of the config group ``data/resampling`` that draws the training labels of
            each member from those of the run; None: all have all of them.
        calibration: how the factors are fitted, ``crps`` or ``nll``.
        parallel: members at once on this machine; None: one per core.
    """

    directory: Path
    members: int
    checkpoints: tuple[Path, ...] | None
    resampling: str | None
    calibration: str
    parallel: int | None

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> "EnsembleSettings":
        """Check an ``ensemble`` section.

        Args:
            node: the section, plain.

        Returns:
            The settings.

        Raises:
            EnsembleError: a key is not known, or a value makes no sense.
        """
        refuse_unknown(node, KEYS, "ensemble", EnsembleError)
        members, parallel, models = node["members"], node["parallel"], node["checkpoints"]
        if not isinstance(members, int) or members < 2:
            raise EnsembleError(
                f"expected ensemble.members of 2 or more, got {members}; their spread is the "
                "uncertainty"
            )
        if parallel is not None and (not isinstance(parallel, int) or parallel < 1):
            raise EnsembleError(f"expected ensemble.parallel of 1 or more, or null, got {parallel}")
        if node["calibration"] not in METHODS:
            raise EnsembleError(
                f"expected ensemble.calibration {' or '.join(METHODS)}, got {node['calibration']!r}"
            )
        if models is not None and (
            not isinstance(models, list) or not models or len(set(models)) < len(models)
        ):
            raise EnsembleError(
                "expected a list of different pretrained models, or null, as "
                f"ensemble.checkpoints, got {models}"
            )
        return cls(
            directory=_absolute(node["directory"]),
            members=members,
            checkpoints=None if models is None else tuple(map(_absolute, models)),
            resampling=node["resampling"],
            calibration=node["calibration"],
            parallel=parallel,
        )


def _absolute(path: str) -> Path:
    return Path(to_absolute_path(str(Path(path).expanduser())))
