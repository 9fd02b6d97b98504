"""Do labels lie inside the pretraining distribution, as the pretrained representation sees it?"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import schnetpack.properties as properties
import torch
from ase.data import chemical_symbols
from scipy.spatial import cKDTree
from torch import nn

from schnetpack_tpainn.errors import TPaiNNError
from schnetpack_tpainn.transfer.context import Context, TransferRecord
from schnetpack_tpainn.transfer.frames import pretraining_frames

__all__ = ["coverage", "descriptors", "find_coverage", "unknown"]

VARIANCE = 0.999  # share of the variance that is kept of an element's descriptors
HELD_OUT = 4  # every fourth pretraining frame tells what a distance within the set is
QUANTILE = 0.95  # of those distances: farther is outside
MAX_ATOMS = 5000  # of an element, on each side
MIN_FRAMES, MAX_FRAMES = 8, 300
TINY = 1e-6  # of frames that are all alike


def unknown(why: str) -> dict[str, Any]:
    """The result where coverage cannot be told.

    Args:
        why: the reason, a phrase.

    Returns:
        ``outside`` None, ``why``, and nothing else.
    """
    return {"outside": None, "why": why, "elements": {}}


def descriptors(
    model: nn.Module, batches: Iterable[Mapping[str, torch.Tensor]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scalar features of every atom after the last interaction.

    Args:
        model: SchNetPack model.
        batches: SchNetPack batches.

    Returns:
        Features (N, F), atomic numbers (N,), and the frame that each atom is of (N,).
    """
    body: Any = model
    device = next(model.parameters()).device
    columns: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    n_frames, training = 0, model.training
    model.eval()
    try:
        for batch in batches:
            inputs = {k: v.to(device) for k, v in batch.items()}
            with torch.no_grad():
                for module in (*body.input_modules, body.representation):
                    inputs = module(inputs)
            z, frame = inputs[properties.Z], inputs[properties.idx_m] + n_frames
            n_frames += len(inputs[properties.n_atoms])
            x = inputs["scalar_representation"].reshape(len(z), -1).double()
            columns.append((x, z, frame))
    finally:
        model.train(training)
    x, z, frame = (torch.cat(column).cpu() for column in zip(*columns, strict=True))
    return x.numpy(), z.numpy(), frame.numpy()


def find_coverage(context: Context, record: TransferRecord) -> dict[str, Any]:
    """Coverage of the training labels by the pretraining frames, where those are at hand.

    Args:
        context: model, with the pretrained representation, and data.
        record: says where the pretraining frames are.

    Returns:
        What :func:`coverage` finds.
    """
    try:
        frames = pretraining_frames(record, context.datamodule, MAX_FRAMES, with_forces=False)
    except TPaiNNError as error:
        return unknown(str(error))
    labels = context.dataset("train", MAX_FRAMES)
    return coverage(context.model, context.batches(frames), context.batches(labels))


def coverage(
    model: nn.Module,
    pretraining: Iterable[Mapping[str, torch.Tensor]],
    labels: Iterable[Mapping[str, torch.Tensor]],
) -> dict[str, Any]:
    """Share of labelled atoms that lie outside the pretraining frames.

    Element by element, the descriptors of the pretraining frames are whitened along the principal
    components that hold 99.9 % of their variance. An atom is outside if its nearest pretraining
    atom is farther than that of 95 % of the atoms in pretraining frames that were held out: of
    frames of the same kind, one in twenty atoms is.

    Args:
        model: SchNetPack model with the pretrained representation.
        pretraining: batches of pretraining frames, a few hundred spread over all.
        labels: batches of labelled frames.

    Returns:
        ``outside`` (share of all labelled atoms, or None with the reason as ``why``), and by
        ``elements`` its share ``outside``, ``n_atoms``, and ``distance``: the median over labelled
        atoms in units of the limit.
    """
    x, z, frame = descriptors(model, pretraining)
    if len(np.unique(frame)) < MIN_FRAMES:
        return unknown(f"there are fewer than {MIN_FRAMES} pretraining frames")
    held_out = frame % HELD_OUT == 0
    x_labels, z_labels, _ = descriptors(model, labels)
    elements = {
        int(e): _limits(x[(z == e) & ~held_out], x[(z == e) & held_out], x_labels[z_labels == e])
        for e in np.unique(z_labels)
    }
    n_atoms = sum(len(distances) for distances in elements.values())
    outside = sum((distances > 1).sum() for distances in elements.values()) / n_atoms
    return {
        "outside": float(outside),
        "why": None,
        "elements": {
            chemical_symbols[e]: {
                "n_atoms": len(distances),
                "outside": float((distances > 1).mean()),
                "distance": float(np.median(distances)) if np.isfinite(distances).all() else None,
            }
            for e, distances in elements.items()
        },
    }


def _limits(reference: np.ndarray, held_out: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Distances of labelled atoms from the reference, in units of the limit; inf without one."""
    if len(reference) < 2 or not len(held_out):
        return np.full(len(labels), np.inf)
    reference, held_out, labels = map(_thinned, (reference, held_out, labels))
    centre = reference.mean(axis=0)
    _, s, v = np.linalg.svd(reference - centre, full_matrices=False)
    share = np.cumsum(s**2) / max(np.sum(s**2), TINY)
    n = 1 + int(np.searchsorted(share, VARIANCE))
    to_white = v[:n].T * (len(reference) ** 0.5 / np.maximum(s[:n], TINY))  # (F, n)
    tree = cKDTree((reference - centre) @ to_white)
    limit = np.quantile(tree.query((held_out - centre) @ to_white)[0], QUANTILE)
    return tree.query((labels - centre) @ to_white)[0] / max(limit, TINY)


def _thinned(x: np.ndarray) -> np.ndarray:
    return x[:: 1 + (len(x) - 1) // MAX_ATOMS]
