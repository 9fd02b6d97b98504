"""Elements in the labels that pretraining never saw."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from ase.data import chemical_symbols
from schnetpack.nn.embedding import NuclearEmbedding
from torch import Tensor, nn

from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.transfer.copying import CopyPlan, network_state
from schnetpack_tpainn.transfer.formats import Pretrained

__all__ = ["admit_elements", "nearest_element"]

log = logging.getLogger(__name__)

NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)  # atomic numbers that end the periods


def admit_elements(
    pretrained: Pretrained, plan: CopyPlan, here: Sequence[int], model: nn.Module, mode: str
) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """Refuse elements that the pretraining never saw, or provide their embedding.

    Only rows of embeddings change: of each ``torch.nn.Embedding`` and ``NuclearEmbedding`` of
    SchNetPack's whose name has ``embedding`` in it. In the latter, ``init`` leaves new elements the
    part that pretraining has learned from electron configurations, and ``nearest`` makes the whole
    embedding that of the other element.

    Args:
        pretrained: the pretrained weights.
        plan: what will be copied.
        here: atomic numbers in the labels.
        model: the model to be filled; untouched.
        mode: ``refuse``; ``init`` keeps the random start that the model has for new elements, as
            the pretrained one was never trained either; ``nearest`` takes the embedding of
            :func:`nearest_element`.

    Returns:
        Weights to copy, and new element -> where its embedding comes from.

    Raises:
        CheckpointError: there are new elements and ``mode`` is ``refuse``, the model has no
            embedding by atomic number or none for so heavy an element, or it is not known which
            elements the pretraining saw.
    """
    known, source = pretrained.card.get("elements"), pretrained.source
    if known is None:
        if mode != "refuse":
            raise CheckpointError(
                f"transfer.new_elements={mode} needs a checkpoint that says which elements it has "
                f"seen, {source} does not; leave the setting away to start from its embedding"
            )
        log.warning("%s does not say which elements it has seen", source)
        return pretrained.state, {}
    new = [z for z in here if z not in known]
    if new and mode == "refuse":
        raise CheckpointError(
            f"the data hold {_names(new)}, which the pretraining never saw (it saw "
            f"{_names(known)}); pretrain on data with these elements, or give them an embedding "
            "with transfer.new_elements=init (random) or nearest (the most alike element's)"
        )
    if not new:
        return pretrained.state, {}
    origins = {z: nearest_element(z, known) if mode == "nearest" else None for z in new}
    said = {
        chemical_symbols[z]: "random start" if o is None else f"that of {chemical_symbols[o]}"
        for z, o in origins.items()
    }
    state = {**pretrained.state, **_embeddings(pretrained.state, plan, model, origins)}
    for symbol, origin in said.items():
        log.warning("pretraining never saw %s; its embedding: %s", symbol, origin)
    return state, said


def _embeddings(
    state: Mapping[str, Tensor], plan: CopyPlan, model: nn.Module, origins: Mapping[int, int | None]
) -> dict[str, Tensor]:
    """Name in the checkpoint -> embedding with the new rows."""
    own = network_state(model)
    own |= {name: state[source] for name, source in plan.copied.items()}
    fresh = network_state(model)
    found: dict[str, Tensor] = {}
    n_tables = 0
    for path, module in model.named_modules():
        if "embedding" not in path or not isinstance(module, nn.Embedding | NuclearEmbedding):
            continue
        n_tables += 1
        simple = isinstance(module, nn.Embedding)
        name = f"{path}.weight" if simple else f"{path}.element_embedding"
        rows = own[name].clone()  # (zmax, F)
        if len(rows) <= max(origins):
            raise CheckpointError(
                f"expected elements up to number {len(rows) - 1}, for which {name} has rows, got "
                f"{_names(origins)}; build both models with a larger embedding"
            )
        for z, origin in origins.items():
            rows[z] = fresh[name][z] if origin is None else rows[origin]
            if origin is not None and not simple:
                config = own[f"{path}.electron_config"].to(rows.dtype)  # (zmax, K)
                weight = own[f"{path}.config_linear.weight"]  # (F, K)
                rows[z] += weight @ (config[origin] - config[z])
        if name in plan.copied:
            found[plan.copied[name]] = rows
    if not n_tables:
        raise CheckpointError(
            f"transfer.new_elements: expected an embedding by atomic number (torch.nn.Embedding or "
            "schnetpack.nn.embedding.NuclearEmbedding) in the model, got none that can take "
            f"{_names(origins)}; pretrain on data with these elements"
        )
    return found


def nearest_element(z: int, known: Iterable[int]) -> int:
    """The most alike of some elements.

    One of the same group of the periodic table, from the nearest period; if there is none, the one
    with the nearest atomic number. The lighter one where two are as near. Hydrogen is a group of
    its own; lanthanides are in a group with the actinides below them.

    Args:
        z: atomic number.
        known: atomic numbers to choose from.

    Returns:
        Atomic number of one of them.
    """
    group, period = _place(z)

    def distance(other: int) -> tuple[bool, int, int]:
        g, p = _place(other)
        return g != group, abs(p - period) if g == group else abs(other - z), other

    return min(known, key=distance)


def _place(z: int) -> tuple[tuple[str, int], int]:
    """Group, counted from the nearer end of the period, and period."""
    period = next(p for p, end in enumerate(NOBLE) if z <= end)
    left, right = z - NOBLE[period - 1], NOBLE[period] - z
    if z == 1:
        return ("hydrogen", 0), period
    return (("left", left) if left <= 2 and right else ("right", right)), period


def _names(numbers: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)
