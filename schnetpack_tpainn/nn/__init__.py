"""Message and update blocks: plain torch for scalars and vectors, e3nn for any irreps."""

from schnetpack_tpainn.nn.equivariant_message import EquivariantMessage
from schnetpack_tpainn.nn.equivariant_update import EquivariantUpdate
from schnetpack_tpainn.nn.gate import ChannelMix, Gate
from schnetpack_tpainn.nn.premul_message import PremulMessage
from schnetpack_tpainn.nn.premul_update import PremulUpdate

__all__ = [
    "ChannelMix",
    "EquivariantMessage",
    "EquivariantUpdate",
    "Gate",
    "PremulMessage",
    "PremulUpdate",
]
