"""Units that a transfer takes, and those that pretraining and labels must share."""

import logging
from typing import Any

from schnetpack_tpainn.errors import CheckpointError, DataError
from schnetpack_tpainn.transfer.formats import Pretrained
from schnetpack_tpainn.transfer.keys import check_keys

__all__ = ["UNITS", "check_data_units", "check_units"]

log = logging.getLogger(__name__)

UNITS = {"energy": "eV", "forces": "eV/Ang", "distance": "Ang"}


def check_data_units(datamodule: Any, energy_key: str, forces_key: str | None) -> None:
    """Refuse data without the labels of the task, or in other units than eV, eV/Å and Å.

    Args:
        datamodule: data module, set up.
        energy_key: key of the energy.
        forces_key: key of the forces; None for energies alone.

    Raises:
        DataError: the units differ.
        TransferError: the data module loads forces and the task knows of none, or the reverse.
    """
    check_keys(forces_key, datamodule.forces_key)
    dataset = datamodule.dataset
    units = {"energy": dataset.units[energy_key], "distance": dataset.distance_unit}
    if forces_key is not None:
        units["forces"] = dataset.units[forces_key]
    expected = {k: u for k, u in UNITS.items() if k in units}
    if units != expected:
        raise DataError(
            f"expected data in {', '.join(expected.values())}, got "
            f"{', '.join(units[k] for k in expected)}; "
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
    loaded = {k: u for k, u in dataset.units.items() if k in dataset.load_properties}
    here = {**loaded, "distance": dataset.distance_unit}
    wrong = [f"{k}: expected {u}, got {here[k]}" for k, u in known.items() if here.get(k, u) != u]
    if wrong:
        raise CheckpointError(
            "the data's units are not those of the pretraining (" + "; ".join(wrong) + "); set "
            "data.property_units and data.distance_unit, SchNetPack converts on loading"
        )
