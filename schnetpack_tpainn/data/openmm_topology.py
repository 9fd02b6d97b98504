"""OpenMM itself and its topologies: water, or what a PDB file holds."""

from typing import Any

import numpy as np
from ase import Atoms
from hydra.utils import to_absolute_path

from schnetpack_tpainn.data.liquid import Molecules
from schnetpack_tpainn.errors import LabelError

__all__ = ["read_pdb", "require_openmm", "topology_of"]


def require_openmm() -> Any:
    """The package ``openmm`` with its ``app``.

    Returns:
        The module.

    Raises:
        LabelError: it is not installed.
    """
    try:
        import openmm
        import openmm.app
    except ImportError as error:
        raise LabelError(
            "classical liquids need OpenMM: pip install 'schnetpack-tpainn[water]'"
        ) from error
    return openmm


def read_pdb(path: str) -> tuple[Any, Atoms]:
    """Topology and structure of a PDB file.

    Args:
        path: the file; relative paths count from where a Hydra run was started.

    Returns:
        OpenMM's topology, and the structure (Å), periodic where there is a CRYST1 record.

    Raises:
        LabelError: OpenMM cannot read the file.
    """
    openmm = require_openmm()
    try:
        pdb = openmm.app.PDBFile(to_absolute_path(path))
    except Exception as error:  # OpenMM's reader raises anything
        raise LabelError(f"OpenMM cannot read the topology {path}: {error}") from error
    numbers = [a.element.atomic_number if a.element else 0 for a in pdb.topology.atoms()]
    positions = 10 * np.array(pdb.positions._value)
    vectors = pdb.topology.getPeriodicBoxVectors()
    cell = None if vectors is None else 10 * np.array(vectors._value)
    return pdb.topology, Atoms(numbers, positions, cell=cell, pbc=cell is not None)


def topology_of(molecules: Molecules) -> Any:
    """OpenMM's topology of water.

    Args:
        molecules: the molecules, atoms ordered O, H, H.

    Returns:
        The topology, residues named HOH.
    """
    app = require_openmm().app
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(len(molecules.numbers) // 3):
        residue = topology.addResidue("HOH", chain)
        oxygen, *hydrogens = (
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
            for name in ("O", "H1", "H2")
        )
        for hydrogen in hydrogens:
            topology.addBond(oxygen, hydrogen)
    return topology
