"""The representation: SchNetPack's input dictionary in, PaiNN's keys out."""

from schnetpack_tpainn.representation.tpainn import TPaiNN

__all__ = ["TPaiNN"]
