"""Which parameters are tuned, and how fast: freezing, adapters, groups of the optimiser."""

from collections.abc import Mapping, Sequence

from torch import nn

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.lora import Lora
from schnetpack_tpainn.transfer.parameters import choose, depths, names_of

__all__ = ["Tuning"]


class Tuning:
    """Freezing, adapters and learning rates of a model's parameters.

    Parameters are told apart by identity, so that shared ones have one group, and a parameter that
    goes by several names is frozen by any of them.

    Args:
        freeze: regular expressions (``re.search``) on parameter names; what they match stays as it
            is, bit for bit, and is unknown to the optimiser.
        learning_rates: regular expression -> factor on the learning rate; the first that matches a
            parameter counts.
        layer_decay: further factor per block, from the head (1) down; see
            :func:`~schnetpack_tpainn.transfer.parameters.depths`.
        lora: low-rank adapters to tune in place of the weights, or None.

    Raises:
        TransferError: a factor is not positive.
    """

    def __init__(
        self,
        freeze: Sequence[str] = (),
        learning_rates: Mapping[str, float] | None = None,
        layer_decay: float = 1.0,
        lora: Lora | None = None,
    ) -> None:
        self.freeze = list(freeze)
        self.learning_rates = dict(learning_rates or {})
        self.layer_decay = layer_decay
        self.lora = lora
        for pattern, factor in self.learning_rates.items():
            if not factor > 0:
                raise TransferError(
                    f"transfer.learning_rates: expected a factor above 0 for {pattern!r}, got "
                    f"{factor}; to hold parameters fixed, name them in transfer.freeze"
                )
        if not 0 < layer_decay <= 1:
            raise TransferError(
                f"expected transfer.layer_decay above 0 and up to 1, got {layer_decay}"
            )

    def prepare(self, model: nn.Module) -> None:
        """Add the adapters and freeze, before an optimiser or DDP sees the model.

        Args:
            model: SchNetPack model.

        Raises:
            TransferError: a pattern matches nothing, or nothing is left to tune.
        """
        if self.lora is not None:
            self.lora.attach(model)
        names = names_of(model)
        for parameter in choose(names, self.freeze, "transfer.freeze"):
            parameter.requires_grad_(False)
        if not any(p.requires_grad for p in names):
            raise TransferError(
                f"transfer.freeze leaves no parameter to tune; take a pattern out of {self.freeze}"
            )

    def refuse_random(self, model: nn.Module, names: Sequence[str]) -> None:
        """Find random weights that would stay random.

        Args:
            model: the model, prepared.
            names: parameters that keep their random start.

        Raises:
            TransferError: one of them is frozen.
        """
        frozen = {
            n for p, all_names in names_of(model).items() if not p.requires_grad for n in all_names
        }
        stuck = [name for name in names if name in frozen]
        if stuck:
            raise TransferError(
                f"{', '.join(stuck)}: expected random parameters to be tuned, got frozen ones; "
                "take them out of transfer.freeze, name them in transfer.lora.tune, or do without "
                "transfer.head=reset, transfer.reinitialise or transfer.new_elements=init"
            )

    def factors(self, model: nn.Module) -> dict[nn.Parameter, float]:
        """Factor on the learning rate of every parameter that is tuned.

        Args:
            model: the model.

        Returns:
            Parameter -> factor.

        Raises:
            TransferError: a pattern matches nothing, or the adapters are gone.
        """
        if self.lora is not None:
            self.lora.check(model)
        names = {p: n for p, n in names_of(model).items() if p.requires_grad}
        depth = depths(model)
        option = "transfer.learning_rates, of what is tuned"
        chosen = choose(names, list(self.learning_rates), option)
        return {
            p: self.layer_decay ** depth[p][1] * self.learning_rates.get(chosen.get(p, ""), 1.0)
            for p in names
        }
