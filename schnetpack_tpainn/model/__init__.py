"""The potential: SchNetPack's, with the option to compile energies and forces."""

from schnetpack_tpainn.model.potential import TPaiNNPotential

__all__ = ["TPaiNNPotential"]
