"""What models say of structures: how far they disagree, and where they see them."""

from collections.abc import Iterator, Sequence
from itertools import batched
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from schnetpack.interfaces import AtomsConverter
from schnetpack.model import AtomisticModel
from schnetpack.units import convert_units
from tqdm import tqdm

from schnetpack_tpainn.data.neighbors import VesinNeighbors
from schnetpack_tpainn.errors import SelectionError
from schnetpack_tpainn.md.potential import Potential, open_potential
from schnetpack_tpainn.transfer.coverage import descriptors
from schnetpack_tpainn.transfer.ensemble import find_ensemble, read_ensemble
from schnetpack_tpainn.transfer.portable import PORTABLE_NAME, build_model

__all__ = ["REDUCTIONS", "disagreement", "embed", "find_models", "model_file", "open_models"]

REDUCTIONS = ("max", "mean")
CONSTANT = 1e-6  # share of the largest spread below which a feature tells nothing


def find_models(paths: Sequence[str | Path]) -> list[Path | AtomisticModel]:
    """Models that paths name.

    Args:
        paths: each a ``best_model``, a portable ``.safetensors`` file, a run directory with either,
            or what ``tpainn-ensemble`` made, which counts as its members.

    Returns:
        Files, and the models of an ensemble. Refuses a damaged one with ``CheckpointError``.
    """
    found: list[Path | AtomisticModel] = []
    for path in paths:
        file = model_file(Path(path))
        if find_ensemble(file) is None:
            found.append(file)
        else:
            found += [build_model(member) for member in read_ensemble(file).members]
    return found


def open_models(
    models: Sequence[str | Path | AtomisticModel], device: str = "auto"
) -> list[Potential]:
    """Open models in double precision, in which the order of a choice does not hang on round-off.

    Args:
        models: files, or models. Unpickling a ``best_model`` runs code.
        device: ``cpu``, ``cuda`` ..., or ``auto``.

    Returns:
        The models. Refuses with ``MDError`` or ``CheckpointError`` what is none.
    """
    keys = ("energy", "forces", "stress")
    return [open_potential(m, device, "float64", *keys, False, None) for m in models]


def model_file(path: Path) -> Path:
    """Where the model of a directory is.

    Args:
        path: the directory of a run or of an ensemble, or a model's own path.

    Returns:
        The portable file of the ensemble or run, else its ``best_model``; or the path itself.
    """
    if not path.is_dir():
        return path
    portable = find_ensemble(path) or path / PORTABLE_NAME
    return portable if portable.is_file() else path / "best_model"


def _parts(frames: Sequence[Atoms], batch_size: int, what: str) -> Iterator[list[Atoms]]:
    """Some frames at a time, with a progress bar."""
    with tqdm(total=len(frames), desc=what, unit="frame") as bar:
        for part in batched(frames, batch_size):
            yield list(part)
            bar.update(len(part))


def _converter(potential: Potential) -> AtomsConverter:
    neighbors = VesinNeighbors(potential.cutoff)
    return AtomsConverter(neighbors, device=potential.device, dtype=potential.dtype)


def disagreement(
    potentials: Sequence[Potential],
    frames: Sequence[Atoms],
    reduce: str = "max",
    batch_size: int = 32,
) -> np.ndarray:
    r"""How far the forces of several models are apart, for each frame.

    .. math:: \epsilon_i = \sqrt{\tfrac1K \sum_k \lVert F_i^k - \langle F_i\rangle\rVert^2},

    the model deviation of Zhang et al. (arXiv 1810.11890, eq. 5), and its largest value or mean
    over the atoms of the frame.

    Args:
        potentials: K models, two or more.
        frames: M structures.
        reduce: ``max`` or ``mean`` over atoms.
        batch_size: frames at a time.

    Returns:
        eV/Å, shape (M,).

    Raises:
        SelectionError: a model gives forces that are not finite, or all agree everywhere.
    """
    how = {"max": "amax", "mean": "mean"}[reduce]
    converters = [_converter(potential) for potential in potentials]
    scores = []
    for part in _parts(frames, batch_size, f"forces of {len(potentials)} models"):
        pairs = zip(potentials, converters, strict=True)
        forces = torch.stack([_forces(p, convert(part)).cpu() for p, convert in pairs])  # (K, N, 3)
        deviation = forces.std(dim=0, correction=0).norm(dim=1)  # (N,)
        owner = torch.arange(len(part)).repeat_interleave(torch.tensor([len(a) for a in part]))
        empty = deviation.new_zeros(len(part))
        scores.append(empty.scatter_reduce(0, owner, deviation, how, include_self=False))
    found = torch.cat(scores).numpy()
    if not np.isfinite(found).all():
        raise SelectionError(
            f"expected finite forces, got others for frame {np.flatnonzero(~np.isfinite(found))[0]}"
            " of those to choose from: a training has failed, or the frame is no structure"
        )
    if not found.any():
        raise SelectionError(
            "expected models that differ, got models that agree on every frame to the last digit: "
            "copies of one; train them with other seeds on other labels"
        )
    return found


def _forces(potential: Potential, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Forces in eV/Å, shape (N, 3)."""
    forces = potential.model(inputs)[potential.force_key]
    return forces.detach().double() * convert_units(potential.energy_unit, "eV")


def embed(potential: Potential, frames: Sequence[Atoms], batch_size: int = 32) -> np.ndarray:
    """Frames as points in the space of a model's representation.

    Of the scalar features after the last interaction, mean and standard deviation over the atoms of
    each element; an element that a frame lacks has zeros. Every column is centred and scaled to its
    spread over all frames, so that distances are in units of that spread.

    Args:
        potential: the model.
        frames: M structures.
        batch_size: frames at a time.

    Returns:
        Points, shape (M, D).

    Raises:
        SelectionError: features are not finite.
    """
    convert = _converter(potential)
    batches = (convert(part) for part in _parts(frames, batch_size, "features"))
    x, z, frame = descriptors(potential.model, batches)  # (N, F), (N,), (N,)
    columns = []
    for element in np.unique(z):
        own, of = x[z == element], frame[z == element]
        present, start, place = np.unique(of, return_index=True, return_inverse=True)
        n = np.diff([*start, len(of)])[:, None]
        mean = np.add.reduceat(own, start) / n  # (present, F)
        spread = np.sqrt(np.add.reduceat((own - mean[place]) ** 2, start) / n)
        part = np.zeros((len(frames), 2 * x.shape[1]))
        part[present] = np.hstack([mean, spread])
        columns.append(part)
    points = np.hstack(columns)
    if not np.isfinite(points).all():
        raise SelectionError("expected finite features of the model, got NaN; train it anew")
    points -= points.mean(0)
    width = points.std(0)
    tells = width > CONSTANT * width.max()  # others would be round-off made large
    return points / np.where(tells, width * np.sqrt(max(1, int(tells.sum()))), np.inf)
