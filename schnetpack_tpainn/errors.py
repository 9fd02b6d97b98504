"""The errors a user meets: each says what was expected, what was found and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

__all__ = [
    "AnalysisError",
    "CheckpointError",
    "DataError",
    "EnsembleError",
    "LabelError",
    "LadderError",
    "MDError",
    "SelectionError",
    "StudyError",
    "TPaiNNError",
    "TransferError",
    "refuse_unknown",
]


class TPaiNNError(Exception):
    """Base class of the errors that bad input gets."""


class AnalysisError(TPaiNNError):
    """A trajectory does not allow what an analysis asks of it."""


class DataError(TPaiNNError):
    """A data set is missing, incomplete, inconsistent or in the wrong units."""


class CheckpointError(TPaiNNError):
    """A checkpoint cannot be read, or does not fit the model or the data."""


class EnsembleError(TPaiNNError):
    """An ensemble cannot be made, calibrated or opened."""


class LabelError(TPaiNNError):
    """A calculator did not give a usable energy and forces for a structure."""


class LadderError(TPaiNNError):
    """A ladder of teachers cannot be climbed as it is described."""


class MDError(TPaiNNError):
    """Molecular dynamics cannot start, or blew up."""


class SelectionError(TPaiNNError):
    """A selection asks for what the pool or the models cannot give."""


class StudyError(TPaiNNError):
    """A study asks for what cannot be run or compared."""


class TransferError(TPaiNNError):
    """A setting of the transfer does not fit the model, the data or another setting."""


def refuse_unknown(
    names: Iterable[Any], known: Iterable[Any], what: str, error: type[TPaiNNError]
) -> None:
    """Refuse a key that is none, and name the nearest that is.

    Args:
        names: keys that were given.
        known: keys that there are.
        what: what has them, for the message.
        error: class of the error.

    Raises:
        TPaiNNError: a key is not known.
    """
    keys = sorted(map(str, known))
    for name in map(str, names):
        if name not in keys:
            near = get_close_matches(name, keys, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise error(f"expected keys of {what}: {keys}, got {name}{hint}")
