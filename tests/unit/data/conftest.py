"""Small databases, whole and broken."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from distorted import frames_of

from schnetpack_tpainn.data.store import DISTANCE_UNIT, UNITS

Database = Callable[..., Path]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """Write a database row by row: by default 20 ethanol frames with plausible labels."""

    def make(
        frames: Sequence[Atoms] | None = None,
        energies: Sequence[float] | None = None,
        forces: Sequence[np.ndarray] | None = None,
        parts: Sequence[str] | None = None,
        drop: str | None = None,
        **metadata: Any,
    ) -> Path:
        frames = frames_of(20) if frames is None else frames
        rng = np.random.default_rng(1)
        path = tmp_path / f"labels{len(list(tmp_path.iterdir()))}.db"
        with connect(path, use_lock_file=False) as db:
            for i, atoms in enumerate(frames):
                data = {
                    "energy": np.array([-4200.0 + i if energies is None else energies[i]]),
                    "forces": rng.normal(size=(len(atoms), 3)) if forces is None else forces[i],
                }
                data.pop(drop, None)
                extra = {} if parts is None else {"part": parts[i]}
                db.write(atoms, data=data, **extra)
        units = {k: v for k, v in UNITS.items() if k != drop}
        db.metadata = {
            "_property_unit_dict": units,
            "_distance_unit": DISTANCE_UNIT,
            "atomrefs": {},
        } | metadata
        return path

    return make
