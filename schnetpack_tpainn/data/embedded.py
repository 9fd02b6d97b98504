"""The DFT data sets that come with the package."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms

from schnetpack_tpainn.data.offsets import element_values
from schnetpack_tpainn.data.store import fingerprint, labelled, write_database
from schnetpack_tpainn.errors import DataError
from schnetpack_tpainn.files import file_sha256

__all__ = ["EmbeddedEthanol", "EmbeddedWater"]


class _Embedded:
    """An archive of labelled structures in parts, and what is kept beside each."""

    shipped: ClassVar[Path]
    script: ClassVar[str]
    kept: ClassVar[tuple[str, ...]]
    all_parts: ClassVar[tuple[str, ...]] = ("pool", "test")

    def __init__(self, path: str | Path | None = None, parts: Sequence[str] | None = None) -> None:
        self.path = Path(path) if path else self.shipped
        if not self.path.is_file():
            raise DataError(
                f"expected the data of {type(self).__name__} at {self.path}, got no file; "
                f"reinstall schnetpack-tpainn, or make it with {self.script}"
            )
        self.parts = list(parts or self.all_parts)
        unknown = sorted({*self.parts} - {*self.all_parts})
        if unknown:
            raise DataError(
                f"expected parts of {', '.join(self.all_parts)}, got {', '.join(unknown)}"
            )
        self.settings: dict[str, Any] = {
            "source": type(self).__name__,
            "sha256": file_sha256(self.path),
            "parts": self.parts,
        }

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
        atoms = metadata.get("isolated_atoms_ev")
        atomrefs = {"energy": element_values(atoms)} if atoms else None
        metadata |= {**self.settings, "fingerprint": fingerprint(self.settings)}
        return write_database(path, self._frames(arrays), metadata, atomrefs)

    def _frames(self, arrays: dict[str, np.ndarray]) -> Iterator[Atoms]:
        for part in self.parts:
            fields = ("positions", "energy", "forces", *self.kept)
            columns = [arrays[f"{part}_{name}"] for name in fields]
            edges = arrays.get(f"{part}_edge_ang", np.zeros(len(columns[0])))
            for edge, positions, energy, forces, *kept in zip(edges, *columns, strict=True):
                yield labelled(
                    Atoms(arrays["numbers"], positions, cell=[edge] * 3, pbc=edge > 0),
                    float(energy),
                    forces,
                    part=part,
                    **dict(zip(self.kept, map(float, kept), strict=True)),
                )


class EmbeddedEthanol(_Embedded):
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
        parts: what to take of it; everything when None.

    Raises:
        DataError: the archive is not there, or a part is not one of its own.
    """

    shipped = Path(__file__).with_name("ethanol_wb97x.npz")
    script = "datasets/ethanol.py"
    kept = ("temperature_k",)


class EmbeddedWater(_Embedded):
    """Liquid water, boxes of 32 molecules at revPBE-D3(BJ), from ``datasets/water.py``.

    As :class:`EmbeddedEthanol`, with periodic boxes and ``density_g_per_cm3`` for each. A third
    part, ``second``, to train on as ``pool``, is from the dynamics of a network that was tuned on
    ``pool``. There are no energies of isolated atoms: offsets come from the training labels.

    .. code-block:: yaml

        source:
          _target_: schnetpack_tpainn.data.EmbeddedWater

    Args:
        path: archive with the arrays; the shipped one when None.
        parts: what to take of it; everything when None.

    Raises:
        DataError: the archive is not there, or a part is not one of its own.
    """

    shipped = Path(__file__).with_name("water_revpbe.npz")
    script = "datasets/water.py"
    kept = ("temperature_k", "density_g_per_cm3")
    all_parts = ("pool", "test", "second")
