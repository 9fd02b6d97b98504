"""Data modules over small databases."""

from pathlib import Path
from typing import Any

import torch
from schnetpack.transform import (
    CastTo32,
    MatScipyNeighborList,
    RemoveOffsets,
    SubtractCenterOfMass,
)

from schnetpack_tpainn.data import TPaiNNDataModule


def transforms(**offsets: Any) -> list[torch.nn.Module]:
    offsets = offsets or {"remove_atomrefs": True, "estimate_atomref": True}
    return [
        SubtractCenterOfMass(),
        RemoveOffsets("energy", **offsets),
        MatScipyNeighborList(cutoff=5.0),
        CastTo32(),
    ]


def module(path: Path | str, **settings: Any) -> TPaiNNDataModule:
    defaults = {"num_train": 10, "num_val": 4, "split_file": None, "transforms": transforms()}
    return TPaiNNDataModule(str(path), 5, **(defaults | settings))


def ready(path: Path, **settings: Any) -> TPaiNNDataModule:
    datamodule = module(path, **settings)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule
