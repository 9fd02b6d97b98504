"""Force-field frames of methanol for the tests of this folder; `tests.fits` labels it by EMT."""

from pathlib import Path
from typing import Any

from ase.build import molecule

from schnetpack_tpainn.data.label import compute_label
from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.store import write_database

UFF = {"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField", "force_field": "UFF"}


def make_frames(path: Path, n: int = 12, name: str = "CH3OH", **metadata: Any) -> Path:
    """Methanol, shaken, labelled by UFF; the metadata name it unless others are given."""
    frames = [molecule(name) for _ in range(n)]
    for seed, frame in enumerate(frames):
        frame.rattle(0.05, seed=100 + seed)
    engine = RDKitForceField("UFF")
    labelled = [compute_label(frame, engine) for frame in frames]
    return write_database(path, labelled, metadata or {"calculator": UFF})
