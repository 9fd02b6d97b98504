r"""Low-rank adapters: :math:`W = W_0 + (\alpha / r) U D`, of which only U and D are tuned."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.parameters import select

__all__ = ["Lora", "merged"]


class LowRank(nn.Module):
    """Adds a product of two thin matrices to a weight, zero at first.

    Args:
        weight: the weight, shape (out, in).
        rank: inner dimension r.
        alpha: scale.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        n_out, n_in = weight.shape
        self.up = nn.Parameter(weight.new_zeros(n_out, rank))  # (out, r)
        self.down = nn.Parameter(weight.new_empty(rank, n_in))  # (r, in)
        nn.init.normal_(self.down, std=n_in**-0.5)
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its correction.

        Args:
            weight: frozen weight, shape (out, in).

        Returns:
            The sum, shape (out, in).
        """
        return weight + self.scale * (self.up @ self.down)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The frozen weight with which the sum is as given: torch asks for it in assignments.

        Args:
            weight: the sum, shape (out, in).

        Returns:
            The frozen weight, shape (out, in).
        """
        return weight - self.scale * (self.up @ self.down)


class Lora:
    r"""Low-rank adapters on the dense layers of any SchNetPack model (Hu et al., arXiv 2106.09685).

    Everything else is frozen. :func:`merged` gives the plain model for export.

    .. code-block:: yaml

        transfer:
          lora:
            _target_: schnetpack_tpainn.transfer.lora.Lora
            rank: 8
            layers: ['representation\.(interactions|mixing)']

    Args:
        rank: rank r of the adapters.
        alpha: scale; ``rank`` when None, which makes the factor 1.
        layers: regular expressions on names of layers with a weight matrix (``nn.Linear``,
            SchNetPack's ``Dense``); all of them when empty.
        tune: regular expressions on names of parameters that are tuned whole besides the adapters.

    Raises:
        TransferError: the rank is not positive.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        layers: Sequence[str] = (),
        tune: Sequence[str] = (),
    ) -> None:
        if rank < 1:
            raise TransferError(f"expected transfer.lora.rank of 1 or more, got {rank}")
        self.rank = rank
        self.alpha = float(rank if alpha is None else alpha)
        self.layers = list(layers)
        self.tune = list(tune)

    def attach(self, model: nn.Module) -> None:
        """Freeze a model and give its layers adapters.

        Args:
            model: SchNetPack model.

        Raises:
            TransferError: a pattern matches nothing.
        """
        dense = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
        chosen = dense
        if self.layers:
            pairs = select(dense, self.layers, "transfer.lora.layers")
            chosen = {name: dense[name] for name, _ in pairs}
        parameters = dict(model.named_parameters(remove_duplicate=False))
        whole = [
            parameters[name] for name, _ in select(parameters, self.tune, "transfer.lora.tune")
        ]
        model.requires_grad_(False)
        for layer in {id(m): m for m in chosen.values()}.values():
            adapter = LowRank(layer.weight, self.rank, self.alpha)
            parametrize.register_parametrization(layer, "weight", adapter)
            layer.parametrizations.weight.original.requires_grad_(False)  # type: ignore[union-attr]
        for parameter in whole:
            parameter.requires_grad_(True)


def merged(model: nn.Module) -> nn.Module:
    """The model with its adapters merged into the weights.

    Args:
        model: a model.

    Returns:
        The model itself if it has no adapters, else a copy without them.
    """
    if not any(parametrize.is_parametrized(m) for m in model.modules()):
        return model
    plain = copy.deepcopy(model)
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module):
            adapted: Any = module.parametrizations
            values = {name: getattr(module, name).detach() for name in adapted}
            # remove_parametrizations would change the class, which the copy shares with the model
            module.__class__ = type(module).__bases__[0]
            del module._modules["parametrizations"]
            for name, value in values.items():
                module.register_parameter(name, nn.Parameter(value))
    return plain
