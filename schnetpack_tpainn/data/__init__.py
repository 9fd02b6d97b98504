"""Data sets: sampling, labelling, import and SchNetPack's data module.

The names below load when they are asked for, so that worker processes of a sampling or labelling
run do not import torch.
"""

from importlib import import_module
from typing import Any

__all__ = [
    "QM9",
    "DisplacementSampler",
    "EmbeddedEthanol",
    "EmbeddedWater",
    "IncrementedData",
    "MDSampler",
    "OpenMMSampler",
    "RefittedData",
    "RelabelledData",
    "TPaiNNDataModule",
    "TrajectoryImport",
]

_HOMES = {
    "QM9": "qm9",
    "DisplacementSampler": "molecules",
    "EmbeddedEthanol": "embedded",
    "EmbeddedWater": "embedded",
    "IncrementedData": "incremented",
    "MDSampler": "sampling",
    "OpenMMSampler": "openmm_sampling",
    "RefittedData": "refitted",
    "RelabelledData": "relabel",
    "TPaiNNDataModule": "datamodule",
    "TrajectoryImport": "importer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
