"""Elements in the labels that pretraining never saw."""

import logging
from collections.abc import Mapping, Sequence

from ase.data import chemical_symbols
from torch import Tensor, nn

from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.transfer.pretrained import Pretrained

__all__ = ["admit_elements"]

log = logging.getLogger(__name__)


def admit_elements(
    pretrained: Pretrained, here: Sequence[int], model: nn.Module, mode: str
) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """Refuse elements that the pretraining never saw, or provide their embedding.

    Args:
        pretrained: the pretrained weights.
        here: atomic numbers in the labels.
        model: the model to be filled; untouched.
        mode: ``refuse``, ``init`` or ``nearest``.

    Returns:
        Weights to copy, and new element -> where its embedding comes from.

    Raises:
        CheckpointError: there are new elements and ``mode`` is ``refuse``.
    """
    known = pretrained.card.get("elements")
    if known is None:
        log.warning("%s does not say which elements it has seen", pretrained.source)
        return pretrained.state, {}
    new = [chemical_symbols[z] for z in here if z not in known]
    if new:
        raise CheckpointError(
            f"the data hold {', '.join(new)}, which the pretraining never saw (it saw "
            f"{', '.join(chemical_symbols[z] for z in known)}); "
            "pretrain on data with these elements"
        )
    return pretrained.state, {}
