"""Draw a run's training frames from its labels, for the members of an ensemble to differ."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from schnetpack_tpainn.errors import DataError

__all__ = ["Bootstrap", "Resampling", "Subsample"]


class Resampling(Protocol):
    """Something that draws training frames."""

    def __call__(self, labels: Sequence[int]) -> list[int]:
        """Frames to train on, each one of the labels."""
        ...


class Bootstrap:
    """As many as there are, with replacement (Efron, Ann. Stat. 7, 1, 1979).

    On average :math:`1 - 1/e`, 63 %, of the labels are drawn, some of them more than once; these
    weigh more in the loss and in the offsets.

    .. code-block:: yaml

        data:
          resampling:
            _target_: schnetpack_tpainn.data.resample.Bootstrap
            seed: 0

    Args:
        seed: seed of the draw.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, labels: Sequence[int]) -> list[int]:
        """Draw.

        Args:
            labels: places of the labels in the database.

        Returns:
            As many places, some of them more than once.
        """
        drawn = np.random.default_rng(self.seed).integers(len(labels), size=len(labels))
        return [int(labels[i]) for i in drawn]


class Subsample:
    """A part of the labels, each at most once.

    .. code-block:: yaml

        data:
          resampling:
            _target_: schnetpack_tpainn.data.resample.Subsample
            fraction: 0.8
            seed: 0

    Args:
        fraction: how large a part; at least one label is drawn.
        seed: seed of the draw.

    Raises:
        DataError: the fraction is not between 0 and 1.
    """

    def __init__(self, fraction: float = 0.8, seed: int = 0) -> None:
        if not 0 < fraction <= 1:
            raise DataError(f"expected data.resampling.fraction above 0, up to 1, got {fraction}")
        self.fraction, self.seed = fraction, seed

    def __call__(self, labels: Sequence[int]) -> list[int]:
        """Draw.

        Args:
            labels: places of the labels in the database.

        Returns:
            A part of them.
        """
        size = max(1, round(self.fraction * len(labels)))
        order = np.random.default_rng(self.seed).permutation(len(labels))
        return [int(labels[i]) for i in order[:size]]
