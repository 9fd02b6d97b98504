"""Hidden irreps, and the one converter between SchNetPack's and e3nn's tensor layouts.

SchNetPack keeps ``F`` features of order ``l`` as ``(N, 2l+1, F)``, the channel fastest; e3nn keeps
them as ``(N, F*(2l+1))``, the component fastest. For vectors the order of the components, x, y, z,
is the same in both.
"""

import torch
from e3nn import o3

__all__ = ["is_painn", "order_irreps", "painn_irreps", "to_e3nn", "to_schnetpack"]


def to_e3nn(features: torch.Tensor) -> torch.Tensor:
    """Lay SchNetPack features of one irrep out as e3nn does.

    Args:
        features: shape (N, 2l+1, F), the channel fastest; e.g. ``vector_representation``.

    Returns:
        Shape (N, F*(2l+1)), the component fastest: e3nn's layout of ``F`` copies of the irrep.
    """
    return features.transpose(1, 2).flatten(1)


def to_schnetpack(features: torch.Tensor, components: int = 3) -> torch.Tensor:
    """Lay e3nn features of one irrep out as SchNetPack does.

    Args:
        features: shape (N, F*components), the component fastest.
        components: dimension 2l+1 of the irrep; 3 for vectors.

    Returns:
        Shape (N, components, F), the channel fastest.
    """
    n, width = features.shape
    return features.reshape(n, width // components, components).transpose(1, 2)


def painn_irreps(n_atom_basis: int) -> o3.Irreps:
    """Give the hidden irreps of PaiNN: as many vectors as scalars.

    Args:
        n_atom_basis: number of features F.

    Returns:
        ``Fx0e + Fx1o``.
    """
    return o3.Irreps(f"{n_atom_basis}x0e + {n_atom_basis}x1o")


def is_painn(irreps: o3.Irreps) -> bool:
    """Tell whether the irreps are those of PaiNN.

    Args:
        irreps: ordered hidden irreps.

    Returns:
        True for ``Fx0e + Fx1o``.
    """
    return irreps == painn_irreps(irreps.count("0e"))


def order_irreps(irreps: o3.Irreps | str) -> o3.Irreps:
    """Order hidden irreps by rotation order, true scalars first, and merge equal ones.

    Args:
        irreps: hidden irreps, e.g. ``64x0e + 64x1o + 32x2e``.

    Returns:
        The same irreps, each once; within an order those of a polar tensor, parity (-1)^l, first.

    Raises:
        ValueError: the text is not irreps, or there is no scalar among them.
    """
    try:
        parsed = o3.Irreps(irreps)
    except ValueError as error:
        raise ValueError(
            f"hidden_irreps: expected e3nn irreps such as '64x0e + 64x1o + 32x2e', got {irreps!r}. "
            "Write multiplicity x order, and e (even) or o (odd) for the parity."
        ) from error
    ordered = sorted(parsed, key=lambda block: (block.ir.l, block.ir.p != (-1) ** block.ir.l))
    result = o3.Irreps(ordered).simplify()
    if result.count("0e") == 0:
        raise ValueError(
            f"hidden_irreps: expected scalars (0e), for energies are read from them, got "
            f"'{parsed}'. Add e.g. '64x0e'."
        )
    return result
