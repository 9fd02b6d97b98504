"""The portable form of an ensemble: its members and their calibration in one safetensors file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, uint8

from schnetpack_tpainn.errors import CheckpointError, EnsembleError
from schnetpack_tpainn.transfer.formats import ENSEMBLE_KEY, FORMAT, Pretrained
from schnetpack_tpainn.transfer.portable import joined, parted, write_tensors
from schnetpack_tpainn.transfer.units import UNITS

__all__ = [
    "ENSEMBLE_NAME",
    "Calibration",
    "PortableEnsemble",
    "check_alike",
    "find_ensemble",
    "read_ensemble",
    "save_ensemble",
]

ENSEMBLE_NAME = "ensemble.safetensors"
ENSEMBLE_FORMAT = 1
MEMBER = "members/{}/"  # before the names of a member's tensors


@dataclass(frozen=True)
class Calibration:
    """Factors that make the spread of an ensemble's members a standard deviation of its error.

    Attributes:
        energy: factor on the spread of the energies.
        forces: factor on the spread of the forces; None where the labels had none.
        method: how they were fitted: ``crps`` or ``nll``.
        n_frames: labelled frames that they were fitted to.
    """

    energy: float
    forces: float | None
    method: str
    n_frames: int

    @property
    def of_forces(self) -> float:
        """Factor on the spread of the forces; without any labels, that of the energies."""
        return self.energy if self.forces is None else self.forces


@dataclass(frozen=True)
class PortableEnsemble:
    """What a portable ensemble holds.

    Attributes:
        source: the file.
        members: the members.
        calibration: how to scale their spread; None if it was never calibrated.
    """

    source: Path
    members: tuple[Pretrained, ...]
    calibration: Calibration | None


def check_alike(members: Sequence[Mapping[str, Any]]) -> None:
    """Refuse members that cannot make an ensemble.

    Args:
        members: what must be the same for all, by name.

    Raises:
        EnsembleError: there are fewer than two, or they differ.
    """
    if len(members) < 2:
        raise EnsembleError(
            f"expected an ensemble of two members or more, got {len(members)}; their spread is the "
            "uncertainty"
        )
    for k, member in enumerate(members):
        for name, expected in members[0].items():
            if member[name] != expected:
                raise EnsembleError(
                    f"expected members of one {name}, got {expected} in member 0 and "
                    f"{member[name]} in member {k}; leave out the one or the other, or train them "
                    "alike"
                )


def find_ensemble(source: str | Path) -> Path | None:
    """The portable ensemble that a path names.

    Args:
        source: a portable file, the directory of a ``tpainn-ensemble`` run, or anything else.

    Returns:
        The file; None if ``source`` is no ensemble.

    Raises:
        CheckpointError: it is a safetensors file, but damaged.
    """
    path = Path(source)
    if path.is_dir():
        inside = path / ENSEMBLE_NAME
        return inside if inside.is_file() else None
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    return path if ENSEMBLE_KEY in _header(path) else None


def save_ensemble(
    path: Path, members: Sequence[Pretrained], calibration: Calibration | None
) -> None:
    """Write an ensemble as one safetensors file, which opens without running code.

    Args:
        path: file to write; replaced at once, never half written.
        members: its members, each with a card that says how its model is built.
        calibration: how to scale their spread.

    Raises:
        EnsembleError: there are fewer than two members, or they differ in cutoff, elements, units
            or labels.
    """
    check_alike([_essentials(m.card) for m in members])
    tensors: dict[str, Tensor] = {}
    entries = []
    for k, member in enumerate(members):
        own = joined(member.state, member.offsets)
        tensors |= {MEMBER.format(k) + name: tensor for name, tensor in own.items()}
        entries.append({"card": {"format": FORMAT, **member.card}, "sha256": _digest(own)})
    header = {
        "format": ENSEMBLE_FORMAT,
        "members": entries,
        "calibration": None if calibration is None else asdict(calibration),
    }
    write_tensors(path, tensors, {ENSEMBLE_KEY: json.dumps(header)})


def read_ensemble(path: Path) -> PortableEnsemble:
    """Read a portable ensemble.

    Args:
        path: the file.

    Returns:
        The ensemble.

    Raises:
        CheckpointError: it is no ensemble, or damaged, or of a newer format.
        EnsembleError: its members cannot make an ensemble.
    """
    header = json.loads(_header(path).get(ENSEMBLE_KEY, "null"))
    if header is None:
        raise CheckpointError(f"expected an ensemble that tpainn-ensemble wrote, got {path}")
    if header["format"] != ENSEMBLE_FORMAT:
        raise CheckpointError(
            f"{path} has ensemble format {header['format']}, this version reads {ENSEMBLE_FORMAT}; "
            "install a newer schnetpack-tpainn"
        )
    members = []
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        for k, entry in enumerate(header["members"]):
            prefix = MEMBER.format(k)
            own = {
                n.removeprefix(prefix): file.get_tensor(n) for n in names if n.startswith(prefix)
            }
            if _digest(own) != entry["sha256"]:
                raise CheckpointError(
                    f"member {k} of {path} is damaged: its weights are not those that were "
                    "written; copy the file again, or repeat its tpainn-ensemble command"
                )
            members.append(parted(own, entry["card"], path, f"member {k} of {path}"))
    check_alike([_essentials(m.card) for m in members])
    found = header["calibration"]
    return PortableEnsemble(path, tuple(members), None if found is None else Calibration(**found))


def _header(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({error}); copy it again"
        ) from error


def _essentials(card: Mapping[str, Any]) -> dict[str, Any]:
    """What the members of an ensemble must have in common."""
    return {
        "cutoff (Å)": card["architecture"]["cutoff_ang"],
        "set of elements": card.get("elements"),
        "set of units": card.get("units", UNITS),
        "set of labels": card.get("labels"),
    }


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors and their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(uint8).numpy().tobytes())
    return found.hexdigest()
