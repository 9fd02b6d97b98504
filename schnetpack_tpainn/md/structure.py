"""The start structure of a simulation."""

from pathlib import Path

from ase import Atoms
from ase.db import connect

from schnetpack_tpainn.data.structures import read_structures, to_angstrom
from schnetpack_tpainn.errors import DataError, MDError

__all__ = ["read_structure"]


def read_structure(source: str | Path, index: int = 0, seed: int = 0) -> Atoms:
    """One structure, from a SchNetPack or ASE database, any file that ASE reads, or a SMILES.

    Args:
        source: path of the file, or a SMILES string.
        index: which structure of the file; negative numbers count from the end.
        seed: seed of the embedding of a SMILES string.

    Returns:
        The structure (Å), without velocities or labels.

    Raises:
        MDError: the source cannot be read or has no such structure.
    """
    path = Path(source)
    try:
        if path.suffix == ".db" and path.is_file():
            atoms = _read_row(path, index)
        else:
            atoms = read_structures([str(source)], seed)[index]
    except (DataError, IndexError) as error:
        raise MDError(f"no structure {index} in {source}: {error}") from error
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=atoms.info)


def _read_row(path: Path, index: int) -> Atoms:
    """Structure of a database, which may hold another unit of length than Å."""
    database = connect(str(path), use_lock_file=False)
    offset = index if index >= 0 else len(database) + index
    row = next(database.select(limit=1, offset=offset), None) if offset >= 0 else None
    if row is None:
        raise IndexError(f"it has {len(database)}")
    atoms = row.toatoms()
    to_angstrom(atoms, database.metadata)
    return atoms
