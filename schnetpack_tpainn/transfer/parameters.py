"""Name, select and order the parameters of a SchNetPack model."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from schnetpack_tpainn.errors import TransferError

__all__ = ["block_of", "choose", "depths", "names_of", "plain_name", "select"]

ADAPTED = re.compile(r"\.parametrizations\.(\w+)\.(?:original$|0\.(\w+)$)")


def plain_name(name: str) -> str:
    """A parameter's name as it would be without adapters.

    ``dense.parametrizations.weight.original`` is ``dense.weight``, and its adapter's matrix ``up``
    is ``dense.weight.lora_up``.

    Args:
        name: name in ``named_parameters``.

    Returns:
        The plain name.
    """
    return ADAPTED.sub(lambda m: f".{m[1]}" + (f".lora_{m[2]}" if m[2] else ""), name)


def names_of(model: nn.Module) -> dict[nn.Parameter, list[str]]:
    """All plain names of every parameter; parameters are told apart by identity.

    Args:
        model: the model.

    Returns:
        Parameter -> its names; more than one where interactions share it.
    """
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(plain_name(name))
    return names


def choose[T](
    owners: Mapping[T, Sequence[str]], patterns: Sequence[str], option: str
) -> dict[T, str]:
    """Match things by any of their names with regular expressions (``re.search``).

    Args:
        owners: what to choose from -> its names.
        patterns: regular expressions.
        option: the setting they come from, for messages.

    Returns:
        What any pattern matches -> the first that does.

    Raises:
        TransferError: a pattern is no regular expression, matches nothing, or is never the first
            to match.
    """
    compiled = {pattern: _compiled(pattern, option) for pattern in patterns}
    chosen = {}
    for owner, names in owners.items():
        pattern = next((p for p, c in compiled.items() if any(map(c.search, names))), None)
        if pattern is not None:
            chosen[owner] = pattern
    names = [name for all_names in owners.values() for name in all_names]
    for pattern in compiled.keys() - chosen.values():
        if any(map(compiled[pattern].search, names)):
            raise TransferError(
                f"{option}: {pattern!r} does nothing, as the patterns before it match all that it "
                "matches; put it first, or leave it out"
            )
        raise TransferError(f"{option}: {pattern!r} matches nothing; {_near(pattern, names)}")
    return chosen


def select(names: Iterable[str], patterns: Sequence[str], option: str) -> list[tuple[str, str]]:
    """Match names; as :func:`choose`.

    Args:
        names: names to choose from.
        patterns: regular expressions.
        option: the setting they come from, for messages.

    Returns:
        Pairs of name and the first pattern that matches it, for names that any matches.
    """
    return list(choose({name: [name] for name in names}, patterns, option).items())


def _compiled(pattern: str, option: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise TransferError(
            f"{option}: expected a regular expression, got {pattern!r} ({error})"
        ) from error


def _near(pattern: str, names: Sequence[str]) -> str:
    """Names like a pattern that matched none."""
    plain = re.sub(r"\W+", ".", pattern.replace("\\", "")).strip(".")
    candidates = {n: n for n in names}
    for name in names:  # parts of names, too, as patterns mostly name parts
        for part in name.split("."):
            candidates.setdefault(part, name)
    close = difflib.get_close_matches(plain, candidates, n=3, cutoff=0.5)
    near = list(dict.fromkeys(candidates[c] for c in close)) or names[:3]
    return f"near names: {', '.join(near)} (of {len(names)})"


def block_of(name: str) -> tuple[str, int | None]:
    """Part of a SchNetPack model that a parameter belongs to.

    Args:
        name: plain name of the parameter.

    Returns:
        ``head``, ``interaction`` or another part of the representation (``embedding``,
        ``filter_net``), and the number of the interaction, if it is one.
    """
    words = name.split(".")
    if words[0] != "representation":
        return "head", None
    if len(words) > 3 and words[2].isdigit() and "embedding" not in words[1]:
        return "interaction", int(words[2])
    return words[1], None


def depths(model: nn.Module) -> dict[nn.Parameter, tuple[str, int]]:
    """Block and depth of every parameter, counted from the head down.

    The head has depth 0, the last of n interactions 1, the first n, and what all of them build
    on (embedding, common filters) n + 1.

    Args:
        model: SchNetPack model.

    Returns:
        Parameter -> (name of the block, depth); a shared parameter counts with its last use.
    """
    found = {p: [block_of(name) for name in names] for p, names in names_of(model).items()}
    n = 1 + max((k for uses in found.values() for _, k in uses if k is not None), default=-1)
    result = {}
    for parameter, uses in found.items():
        block, k = max(uses, key=lambda use: -1 if use[1] is None else use[1])
        if block == "head":
            result[parameter] = block, 0
        elif k is None:
            result[parameter] = block, n + 1
        else:
            result[parameter] = f"interaction {k}", n - k
    return result
