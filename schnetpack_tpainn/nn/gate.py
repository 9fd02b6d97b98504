"""Equivariant channel mixing and gating."""

import math

import torch
from e3nn import o3

from schnetpack_tpainn.nn.e3nn_ops import Linear, TensorProduct

__all__ = ["ChannelMix", "Gate"]


class ChannelMix(torch.nn.Module):
    r"""Mix the channels of irreps linearly, the components untouched.

    .. math:: y_b = W_b \, x_{s(b)}

    for each output block ``b`` with source block ``s(b)``: an ``e3nn.o3.Linear`` whose weights are
    those of ``schnetpack.nn.Dense``, without e3nn's normalisation. A single block keeps them in
    Dense's shape (out, in), several keep them flat, one after the other.

    Args:
        irreps_in: irreps of the input.
        maps: per output block, its source block in ``irreps_in`` and its multiplicity.
    """

    def __init__(self, irreps_in: o3.Irreps, maps: list[tuple[int, int]]) -> None:
        super().__init__()
        self.shapes = [(channels, irreps_in[source].mul) for source, channels in maps]
        self.linear = Linear(
            irreps_in,
            [(channels, irreps_in[source].ir) for source, channels in maps],
            instructions=[(source, block) for block, (source, _) in enumerate(maps)],
            internal_weights=False,
            shared_weights=True,
        )
        self.irreps_in, self.irreps_out = self.linear.irreps_in, self.linear.irreps_out
        weights = [torch.nn.init.xavier_uniform_(torch.empty(shape)) for shape in self.shapes]
        flat = torch.cat([weight.flatten() for weight in weights])
        self.weight = torch.nn.Parameter(weights[0] if len(weights) == 1 else flat)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the map.

        Args:
            x: features, shape (N, irreps_in.dim).

        Returns:
            Shape (N, irreps_out.dim).
        """
        flat = self.weight.reshape(-1)
        blocks: list[torch.Tensor] = []
        start = 0
        for n_out, n_in in self.shapes:
            weight = flat[start : start + n_out * n_in].reshape(n_out, n_in)
            # o3.Linear divides by sqrt(n_in), and wants (n_in, n_out)
            blocks.append((weight.t() * math.sqrt(n_in)).reshape(-1))
            start += n_out * n_in
        return self.linear(x, torch.cat(blocks).to(x.dtype))


class Gate(torch.nn.Module):
    r"""Scale equivariant features channel by channel with scalars.

    .. math:: y_o = \sum_{p \to o} g_p \circ L_p x_{s(p)}

    ``L_p`` is the identity where source and output have equally many channels, as always in PaiNN,
    and a learned :class:`ChannelMix` where not.

    Args:
        irreps_in: irreps of the features.
        irreps_out: irreps of the output.
        paths: per path its source block in ``irreps_in`` and its block in ``irreps_out``.
    """

    def __init__(
        self, irreps_in: o3.Irreps, irreps_out: o3.Irreps, paths: list[tuple[int, int]]
    ) -> None:
        super().__init__()
        lifts: list[tuple[int, int]] = []
        instructions: list[tuple[int, int, int, str, bool]] = []
        for path, (source, out) in enumerate(paths):
            channels = irreps_out[out].mul
            if irreps_in[source].mul != channels:
                lifts.append((source, channels))
                source = len(irreps_in) + len(lifts) - 1
            instructions.append((source, path, out, "uuu", False))
        self.irreps_in, self.irreps_out = irreps_in, irreps_out
        self.irreps_gates = o3.Irreps([(irreps_out[out].mul, "0e") for _, out in paths])
        self.lift = ChannelMix(irreps_in, lifts) if lifts else None
        self.product = TensorProduct(
            irreps_in + (self.lift.irreps_out if self.lift else o3.Irreps([])),
            self.irreps_gates,
            irreps_out,
            instructions,
            irrep_normalization="component",
            path_normalization="none",
        )

    def forward(self, x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """Gate the features.

        Args:
            x: features, shape (N, irreps_in.dim).
            gates: scalars, path by path, shape (N, irreps_gates.dim).

        Returns:
            Shape (N, irreps_out.dim).
        """
        if self.lift is not None:
            x = torch.cat([x, self.lift(x)], dim=-1)
        return self.product(x, gates)
