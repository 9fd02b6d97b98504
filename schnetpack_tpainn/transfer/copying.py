"""Carry pretrained weights into a model: every parameter is accounted for, or nothing is copied."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from schnetpack_tpainn.errors import CheckpointError, TransferError
from schnetpack_tpainn.transfer.lora import merged
from schnetpack_tpainn.transfer.parameters import block_of, names_of, plain_name, select

__all__ = ["CopyPlan", "copy_parameters", "count_blocks", "network_state", "plan_copy"]


def network_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a model without its postprocessors (offsets belong to the data).

    Args:
        model: SchNetPack model; adapters are merged.

    Returns:
        Name -> tensor, on the CPU.
    """
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in merged(model).state_dict().items()
        if not name.startswith("postprocessors.")
    }


@dataclass(frozen=True)
class CopyPlan:
    """What happens to every parameter of a model.

    Attributes:
        copied: name in this model -> name in the checkpoint.
        reinitialised: names in this model that keep their random start.
    """

    copied: dict[str, str]
    reinitialised: list[str]

    @property
    def renamed(self) -> dict[str, str]:
        """Name in the checkpoint -> name in this model, where they differ."""
        return {source: name for name, source in self.copied.items() if source != name}


def _renamed(state: Mapping[str, Tensor], rules: Mapping[str, str]) -> dict[str, str]:
    """Name after the rules -> name in the checkpoint; the first rule that matches is applied."""
    chosen = dict(select(state, list(rules), "transfer.rename"))
    names: dict[str, str] = {}
    for source in state:
        rule = chosen.get(source)
        name = source if rule is None else re.sub(rule, rules[rule], source)
        if name in names:
            raise TransferError(
                f"transfer.rename gives {names[name]} and {source} the same name, {name}; make the "
                "expressions more specific"
            )
        names[name] = source
    return names


def plan_copy(
    state: Mapping[str, Tensor],
    model: nn.Module,
    rename: Mapping[str, str] | None = None,
    reinitialise: Sequence[str] = (),
) -> CopyPlan:
    """Find a source for every parameter.

    Args:
        state: pretrained parameters and buffers, postprocessors left out.
        model: the model to fill; untouched.
        rename: regular expression on a checkpoint's names -> replacement, as for ``re.sub``.
        reinitialise: regular expressions on this model's names of parameters that shall keep their
            random start.

    Returns:
        The plan.

    Raises:
        CheckpointError: a parameter is missing, left over or of another shape, or a fixed buffer
            (radial basis, cutoff) has other values; the message is a table of them.
        TransferError: an expression matches nothing, or two names become one.
    """
    own = network_state(model)
    parameters = {n for names in names_of(model).values() for n in names if n in own}
    sources = _renamed(state, rename or {})
    fresh = {n for n, _ in select(sorted(parameters), reinitialise, "transfer.reinitialise")}
    rows: list[tuple[object, object, object]] = [
        (name, tuple(own[name].shape), "missing") for name in own.keys() - sources.keys() - fresh
    ]
    for name in sources.keys() - fresh:
        got = state[sources[name]]
        if name not in own:
            rows.append((name, "not part of this model", tuple(got.shape)))
        elif own[name].shape != got.shape:
            rows.append((name, tuple(own[name].shape), tuple(got.shape)))
        elif name not in parameters and not torch.allclose(own[name].double(), got.double()):
            rows.append((name, "its own values", "others (another cutoff or radial basis)"))
    if rows:
        raise CheckpointError(
            "the pretrained weights do not fit this model; nothing was copied:\n"
            + _table([("parameter", "expected", "got"), *sorted(rows, key=lambda r: str(r[0]))])
            + "\nmake this run's model like the pretrained one, name parameters in transfer.rename "
            "or transfer.reinitialise, or pretrain again"
        )
    copied = {name: sources[name] for name in own if name in parameters and name not in fresh}
    return CopyPlan(copied, sorted(fresh))


def _table(rows: Sequence[Sequence[object]]) -> str:
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def copy_parameters(plan: CopyPlan, state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Copy as planned.

    Args:
        plan: what :func:`plan_copy` found for this model.
        state: pretrained parameters and buffers.
        model: the model to fill; adapters stay as they are.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters(remove_duplicate=False):
            source = plan.copied.get(plain_name(name))
            if source is not None:
                parameter.copy_(state[source])


def count_blocks(model: nn.Module, plan: CopyPlan | None = None) -> dict[str, dict[str, int]]:
    """Scalars of every block by what happened to them.

    Args:
        model: the model, adapters attached and parameters frozen.
        plan: what was copied; nothing when None.

    Returns:
        Block -> ``copied``, ``reinitialised``, ``frozen``, ``adapter``, ``trained``.
    """
    blocks: dict[str, dict[str, int]] = {}
    for parameter, names in names_of(model).items():
        block, number = block_of(names[0])
        label = block if number is None else f"{block} {number}"
        kinds = ("copied", "reinitialised", "frozen", "adapter", "trained")
        counts = blocks.setdefault(label, dict.fromkeys(kinds, 0))
        if "lora" in names[0].rpartition(".")[2]:
            origin = "adapter"
        else:
            origin = "copied" if plan and names[0] in plan.copied else "reinitialised"
        counts[origin] += parameter.numel()
        counts["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
    return blocks
