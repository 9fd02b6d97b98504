"""Units that a transfer takes, and those that pretraining and labels must share."""

import logging
from typing import Any

from schnetpack_tpainn.errors import CheckpointError, DataError
from schnetpack_tpainn.transfer.formats import Pretrained

__all__ = ["UNITS", "check_data_units", "check_units"]

log = logging.getLogger(__name__)

UNITS = {"energy": "eV", "forces": "eV/Ang", "distance": "Ang"}


def check_data_units(dataset: Any, energy_key: str, forces_key: str) -> None:
    """Refuse data in other units than eV, eV/Å and Å.

    Args:
        dataset: SchNetPack data set.
        energy_key: key of the energy.
        forces_key: key of the forces.

    Raises:
        DataError: the units differ.
    """
    got = [dataset.units[energy_key], dataset.units[forces_key], dataset.distance_unit]
    if got != list(UNITS.values()):
        raise DataError(
            f"expected data in {', '.join(UNITS.values())}, got {', '.join(got)}; "
            "set data.property_units and data.distance_unit to these, SchNetPack converts"
        )


def check_units(pretrained: Pretrained, datamodule: Any) -> None:
    """Refuse labels in other units than the pretraining's.

    Args:
        pretrained: weights and card.
        datamodule: data module of the labels, set up.

    Raises:
        CheckpointError: the units differ.
    """
    known, dataset = pretrained.card.get("units"), datamodule.train_dataset
    if known is None:
        log.warning("%s does not say its units; expected those of the data", pretrained.source)
        return
    here = {**dataset.units, "distance": dataset.distance_unit}
    wrong = [f"{k}: expected {u}, got {here[k]}" for k, u in known.items() if here.get(k, u) != u]
    if wrong:
        raise CheckpointError(
            "the data's units are not those of the pretraining (" + "; ".join(wrong) + "); set "
            "data.property_units and data.distance_unit, SchNetPack converts on loading"
        )
