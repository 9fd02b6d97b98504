"""Carry pretrained weights into a model: every parameter is accounted for, or nothing is copied."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from schnetpack_tpainn.errors import CheckpointError, TransferError
from schnetpack_tpainn.transfer.lora import merged
from schnetpack_tpainn.transfer.parameters import block_of, choose, names_of, plain_name, select

__all__ = ["CopyPlan", "copy_parameters", "count_blocks", "network_state", "plan_copy"]

log = logging.getLogger(__name__)


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
        differences: fixed buffers that differ and were accepted, as readable lines.
    """

    copied: dict[str, str]
    reinitialised: list[str]
    differences: list[str]

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
        try:
            name = source if rule is None else re.sub(rule, rules[rule], source)
        except (re.error, IndexError) as error:
            raise TransferError(
                f"transfer.rename: expected a replacement as re.sub takes it for {rule!r}, got "
                f"{rules[str(rule)]!r} ({error})"
            ) from error
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
    accept_fixed: bool = False,
) -> CopyPlan:
    """Find a source for every parameter.

    Args:
        state: pretrained parameters and buffers, postprocessors left out.
        model: the model to fill; untouched.
        rename: regular expression on a checkpoint's names -> replacement, as for ``re.sub``.
        reinitialise: regular expressions on this model's names of parameters that shall keep their
            random start.
        accept_fixed: let fixed buffers (radial basis, cutoff) differ: they are never copied.

    Returns:
        The plan.

    Raises:
        CheckpointError: a parameter is missing, left over, of another shape, or one here and
            several in the checkpoint, or a fixed buffer has other values; the message is a table.
        TransferError: an expression matches nothing, or two names become one.
    """
    own = network_state(model)
    owners = {p: [n for n in names if n in own] for p, names in names_of(model).items()}
    parameters = {name for names in owners.values() for name in names}
    modules = dict(model.named_modules(remove_duplicate=False))
    sources = _renamed(state, rename or {})
    chosen = choose(owners, reinitialise, "transfer.reinitialise")
    fresh = {name for parameter in chosen for name in owners[parameter]}
    rows, differences = [], []
    for name in sorted((own.keys() | sources.keys()) - fresh):
        got = state[sources[name]] if name in sources else None
        fixed = name not in parameters and (name in own or _is_without_parameters(modules, name))
        row = _misfit(name, own.get(name), got, fixed)
        if row and fixed and accept_fixed:
            differences.append(f"{name}: expected {row[1]}, got {row[2]}")
        elif row:
            rows.append(row)
    for names in owners.values():
        here = [n for n in names if n in sources.keys() - fresh]
        rows += [
            (n, f"the same as {here[0]}, which is shared", "others")
            for n in here[1:]
            if not torch.equal(state[sources[n]], state[sources[here[0]]])
        ]
    if rows:
        raise CheckpointError(
            "the pretrained weights do not fit this model; nothing was copied:\n"
            + _table([("parameter", "expected", "got"), *rows])
            + "\nmake this run's model like the pretrained one, name parameters in transfer.rename "
            "or transfer.reinitialise, or pretrain again"
        )
    copied = {name: sources[name] for name in own if name in parameters - fresh}
    return CopyPlan(copied, sorted(fresh), differences)


def _is_without_parameters(modules: Mapping[str, nn.Module], name: str) -> bool:
    """Whether a tensor that this model lacks would be in a module of fixed values (a basis)."""
    module = modules.get(name.rpartition(".")[0])
    return module is not None and next(module.parameters(), None) is None


def _misfit(
    name: str, expected: Tensor | None, got: Tensor | None, fixed: bool
) -> tuple[str, object, object] | None:
    """Row of the table for what does not fit."""
    if expected is None or got is None:
        left = "not part of this model" if expected is None else tuple(expected.shape)
        return name, left, "missing" if got is None else tuple(got.shape)
    if expected.shape != got.shape:
        return name, tuple(expected.shape), tuple(got.shape)
    if fixed and not torch.allclose(expected.double(), got.double()):
        return name, "its own values", "others (another cutoff or radial basis)"
    return None


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
    for source, name in plan.renamed.items():
        log.info("transfer.rename: %s is copied to %s", source, name)
    for name in plan.reinitialised:
        log.info("transfer.reinitialise: %s keeps its random start", name)
    with torch.no_grad():
        for name, parameter in model.named_parameters(remove_duplicate=False):
            origin = plan.copied.get(plain_name(name))
            if origin is not None:
                parameter.copy_(state[origin])


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
