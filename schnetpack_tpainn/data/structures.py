"""Start structures from SMILES strings or from files."""

import io
import os.path
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.db import connect
from hydra.utils import to_absolute_path

from schnetpack_tpainn.data.units import unit_factor
from schnetpack_tpainn.errors import DataError
from schnetpack_tpainn.files import file_sha256, write_text

__all__ = [
    "absolute_files",
    "embed_smiles",
    "identity",
    "read_frames",
    "read_structures",
    "to_angstrom",
    "write_frames",
]

FILES = ("file", "model", "topology")  # arguments of calculators that may name files


def embed_smiles(smiles: str, seed: int = 0) -> Atoms:
    """Three-dimensional structure of a molecule by RDKit's ETKDG, relaxed with MMFF94 or UFF.

    Args:
        smiles: SMILES string; hydrogens are added.
        seed: seed of the embedding.

    Returns:
        Atoms in RDKit's order (Å), the SMILES in ``info["smiles"]``, and a total charge other than
        0 in ``info["total_charge"]`` (e).

    Raises:
        DataError: RDKit cannot read or embed the string, or is not installed.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
    except ImportError as error:
        raise DataError(
            "structures from SMILES need RDKit: pip install 'schnetpack-tpainn[molecules]'"
        ) from error
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise DataError(
            f"expected a SMILES string or the path of a structure file, got {smiles!r}: "
            "no such file, and RDKit cannot read it as SMILES"
        )
    molecule = Chem.AddHs(molecule)
    if rdDistGeom.EmbedMolecule(molecule, randomSeed=seed + 1) != 0:
        raise DataError(
            f"RDKit cannot embed {smiles!r} in three dimensions; give a structure file instead"
        )
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.MMFFOptimizeMolecule(molecule)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.UFFOptimizeMolecule(molecule)
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    positions = molecule.GetConformer().GetPositions()
    charge = Chem.GetFormalCharge(molecule)
    info = {"smiles": smiles} | ({"total_charge": charge} if charge else {})
    return Atoms(numbers, positions, info=info)


def identity(source: str) -> str:
    """What tells a source of structures from others: a SMILES, or a file's name and content.

    Args:
        source: SMILES string or path.

    Returns:
        The SMILES, or ``name:`` and the file's hash.
    """
    path = Path(to_absolute_path(source))
    if not path.is_file():
        return source
    return f"{path.name}:{file_sha256(path)[:16]}"


def absolute_files(node: Mapping[str, Any]) -> dict[str, Any]:
    """A calculator's node for other processes, which do not know where a Hydra run was started.

    Args:
        node: Hydra node; further nodes may lie in it.

    Returns:
        The same, with absolute paths where ``file``, ``model`` or ``topology`` name files that
        exist.
    """
    return {key: _absolute(key, value) for key, value in node.items()}


def _absolute(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return absolute_files(value)
    if key in FILES and isinstance(value, str):
        path = to_absolute_path(value)
        return path if os.path.isfile(path) else value  # noqa: PTH113 - of names of any length
    if key in FILES and isinstance(value, Sequence):
        return [_absolute(key, one) for one in value]
    return value


def to_angstrom(atoms: Atoms, metadata: Mapping[str, Any]) -> None:
    """Convert positions and cell of a database's structure to Å.

    Args:
        atoms: the structure in the database's unit of length, changed in place.
        metadata: the database's metadata; without ``_distance_unit`` its unit is Å.

    Raises:
        DataError: the unit is not known.
    """
    factor = unit_factor(metadata.get("_distance_unit", "Ang"), "distance")
    atoms.set_cell(atoms.cell.array * factor, scale_atoms=False)
    atoms.positions *= factor


def read_frames(path: str | Path) -> list[Atoms]:
    """All frames of a file that ASE reads; a database's key-value pairs become their ``info``.

    Args:
        path: the file; a SchNetPack database may hold another unit of length than Å.

    Returns:
        Structures (Å).

    Raises:
        DataError: ASE cannot read the file, or the database's unit of length is not known.
    """
    metadata: Mapping[str, Any] = {}
    try:
        frames: Any = ase.io.read(path, index=":")
        if Path(path).suffix == ".db":
            with connect(path, use_lock_file=False) as db:
                metadata = db.metadata
                for atoms, row in zip(frames, db.select(include_data=False), strict=True):
                    atoms.info = dict(row.key_value_pairs)
    except Exception as error:  # ASE's readers raise anything
        raise DataError(f"ASE cannot read structures from {path}: {error}") from error
    for atoms in frames:
        to_angstrom(atoms, metadata)
    return list(frames)


def read_structures(sources: Sequence[str], seed: int = 0) -> list[Atoms]:
    """Start structures, from files where a path exists and from SMILES otherwise.

    Args:
        sources: SMILES strings or paths of files that ASE reads (all their frames are taken);
            relative paths count from where a Hydra run was started.
        seed: seed of the embedding of SMILES strings.

    Returns:
        Structures (Å).

    Raises:
        DataError: nothing is given, or a source is neither a readable file nor a usable SMILES.
    """
    if not sources:
        raise DataError("expected SMILES strings or structure files, got an empty list")
    structures: list[Atoms] = []
    for source in sources:
        path = Path(to_absolute_path(source))
        try:
            is_file = path.is_file()
        except OSError:  # a SMILES string longer than a file name may be
            is_file = False
        if is_file:
            structures += read_frames(path)
        else:
            structures.append(embed_smiles(source, seed))
    return structures


def write_frames(path: Path, frames: Sequence[Atoms]) -> None:
    """Write structures as extended XYZ at once: all of them or nothing.

    Args:
        path: the file.
        frames: structures (Å).
    """
    buffer = io.StringIO()
    ase.io.write(buffer, list(frames), format="extxyz")
    write_text(path, buffer.getvalue())
