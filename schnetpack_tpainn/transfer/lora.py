r"""Low-rank adapters: :math:`W = W_0 + (\alpha / r) U D`, of which only U and D are tuned."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.parameters import choose, names_of, plain_name

__all__ = ["Lora", "merged", "merged_state"]


class LowRank(nn.Module):
    """Adds a product of two thin matrices to a weight, zero at first.

    Args:
        weight: the weight, shape (out, in).
        rank: inner dimension r.
        alpha: scale.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        n_out, n_in = weight.shape
        self.up = nn.Parameter(weight.new_zeros(n_out, rank))  # (out, r)
        self.down = nn.Parameter(weight.new_empty(rank, n_in))  # (r, in)
        nn.init.normal_(self.down, std=n_in**-0.5)
        # with it, the weights in a checkpoint are enough to merge them
        self.register_buffer("scale", weight.new_tensor(alpha / rank))

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

    Everything else is frozen. Pickles (SchNetPack's ``best_model``) hold the plain layers with the
    adapters merged; :func:`merged` gives the plain model.

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
        tune: regular expressions on names of parameters that are tuned whole besides the adapters;
            a weight that is tuned whole gets none.

    Raises:
        TransferError: rank or scale is not positive.
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
        if not self.alpha > 0:
            raise TransferError(f"expected transfer.lora.alpha above 0, got {alpha}")
        self.layers = list(layers)
        self.tune = list(tune)

    def attach(self, model: nn.Module) -> None:
        """Freeze a model and give its layers adapters.

        Args:
            model: SchNetPack model.

        Raises:
            TransferError: a pattern matches nothing, or no layer is left for an adapter.
        """
        layers: dict[nn.Linear, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, nn.Linear):
                layers.setdefault(module, []).append(name)
        whole = choose(names_of(model), self.tune, "transfer.lora.tune")
        chosen = choose(layers, self.layers, "transfer.lora.layers") if self.layers else layers
        adapted = [layer for layer in chosen if layer.weight not in whole]
        if not adapted:
            raise TransferError(
                f"transfer.lora: expected a layer to adapt, got none of {len(layers)} that "
                "transfer.lora.tune does not tune whole; take a pattern out of it"
            )
        model.requires_grad_(False)
        for layer in adapted:
            adapter = LowRank(layer.weight, self.rank, self.alpha)
            parametrize.register_parametrization(layer, "weight", adapter)
            layer.parametrizations.weight.original.requires_grad_(False)  # type: ignore[union-attr]
            type(layer).__reduce_ex__ = _reduce_merged  # type: ignore[assignment, method-assign]
        for parameter in whole:
            parameter.requires_grad_(True)

    def check(self, model: nn.Module) -> None:
        """Find adapters missing that were attached.

        Args:
            model: the model.

        Raises:
            TransferError: there are none.
        """
        if not any(map(parametrize.is_parametrized, model.modules())):
            raise TransferError(
                "expected a model with low-rank adapters, got one in which they are merged, as in "
                "every pickle; start processes with trainer.strategy=ddp, or read a checkpoint"
            )


def _plain(layer: Any) -> nn.Module:
    """A layer that computes the same without adapters, of the class it had before."""
    cls: Any = type(layer).__bases__[0]
    plain = cls.__new__(cls)
    weight = nn.Parameter(layer.weight.detach())
    modules = {k: m for k, m in layer._modules.items() if k != "parametrizations"}
    parameters = {"weight": weight, **layer._parameters}
    plain.__dict__ = {**layer.__dict__, "_modules": modules, "_parameters": parameters}
    return plain


def _reduce_merged(layer: nn.Module, protocol: int) -> tuple[Any, ...]:
    """How to pickle a layer with adapters."""
    plain = _plain(layer)
    return object.__new__, (type(plain),), plain.__getstate__()


def merged(model: nn.Module) -> nn.Module:
    """The model with its adapters merged into the weights.

    Args:
        model: a model.

    Returns:
        The model itself if it has no adapters, else a copy without them.
    """
    adapted = [m for m in model.modules() if parametrize.is_parametrized(m)]
    copies: dict[int, Any] = {id(layer): copy.deepcopy(_plain(layer)) for layer in adapted}
    return copy.deepcopy(model, copies) if adapted else model


def merged_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model with its adapters merged, from its weights with adapters.

    Args:
        state: name -> tensor, as in a checkpoint.

    Returns:
        Name -> tensor, as of the plain model.
    """
    plain = {}
    for name, tensor in state.items():
        if ".parametrizations." not in name:
            plain[name] = tensor
        elif name.endswith(".original"):
            adapter = name.removesuffix("original") + "0."
            scale, up, down = (state[adapter + key] for key in ("scale", "up", "down"))
            plain[plain_name(name)] = tensor + scale * torch.mm(up, down)
    return plain
