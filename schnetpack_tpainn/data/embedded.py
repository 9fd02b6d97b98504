"""The DFT data set that comes with the package."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from schnetpack_tpainn.data.offsets import element_values
from schnetpack_tpainn.data.store import fingerprint, labelled, write_database
from schnetpack_tpainn.errors import DataError
from schnetpack_tpainn.files import file_sha256

__all__ = ["EmbeddedEthanol"]

SHIPPED = Path(__file__).with_name("ethanol_wb97x.npz")
PARTS = ("pool", "test")


class EmbeddedEthanol:
    """Ethanol at ωB97X-D3(BJ)/def2-TZVP, from ``datasets/ethanol.py``, as a SchNetPack database.

    Every frame has the key-value pairs ``part`` (``pool`` or ``test``, from different
    trajectories: split with :class:`~schnetpack_tpainn.data.split.PartSplit`) and
    ``temperature_k``. Energies are in eV, forces in eV/Å; isolated-atom energies, the level of
    theory and the checks that the data passed are in the metadata.

    .. code-block:: yaml

        source:
          _target_: schnetpack_tpainn.data.EmbeddedEthanol

    Args:
        path: archive with the arrays; the shipped one when None.

    Raises:
        DataError: the archive is not there.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path else SHIPPED
        if not self.path.is_file():
            raise DataError(
                f"expected the ethanol data at {self.path}, got no file; reinstall "
                "schnetpack-tpainn, or make it with datasets/ethanol.py"
            )
        digest = file_sha256(self.path)
        self.settings: dict[str, Any] = {"source": "EmbeddedEthanol", "sha256": digest}

    def make(self, path: str | Path) -> Path:
        """Write the database; it must not exist.

        Args:
            path: the SchNetPack database to make.

        Returns:
            ``path``.
        """
        with np.load(self.path) as archive:
            arrays = dict(archive)
        metadata = json.loads(str(arrays["metadata"]))
        atomrefs = {"energy": element_values(metadata["isolated_atoms_ev"])}
        metadata |= {**self.settings, "fingerprint": fingerprint(self.settings)}
        return write_database(path, self._frames(arrays), metadata, atomrefs)

    def _frames(self, arrays: dict[str, np.ndarray]) -> Iterator[Atoms]:
        for part in PARTS:
            fields = ("positions", "energy", "forces", "temperature_k")
            columns = (arrays[f"{part}_{name}"] for name in fields)
            for positions, energy, forces, temperature in zip(*columns, strict=True):
                yield labelled(
                    Atoms(arrays["numbers"], positions),
                    float(energy),
                    forces,
                    part=part,
                    temperature_k=float(temperature),
                )
