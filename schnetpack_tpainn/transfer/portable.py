"""The portable form of a model: weights, offsets and a card in one safetensors file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from safetensors import safe_open
from safetensors.torch import save
from schnetpack.transform import AddOffsets
from torch import Tensor, nn

from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.formats import (
    CARD_KEY,
    ENSEMBLE_KEY,
    FORMAT,
    Pretrained,
    level_of_theory,
    upgrade,
)
from schnetpack_tpainn.transfer.offsets import AddAtomicOffsets
from schnetpack_tpainn.transfer.outcome import provenance
from schnetpack_tpainn.transfer.units import UNITS

__all__ = [
    "PORTABLE_NAME",
    "build_model",
    "joined",
    "make_card",
    "offsets_of",
    "parted",
    "read_portable",
    "save_portable",
    "write_tensors",
]

PORTABLE_NAME = "model.safetensors"
OFFSETS = "offsets/"  # before the property; no module's name begins like this
FUNCTIONS = ("torch.nn.functional", "schnetpack.nn.activations")  # whose functions may be named


def make_card(model: nn.Module, model_config: Mapping[str, Any], datamodule: Any) -> dict[str, Any]:
    """What a model says of itself, in plain values.

    Args:
        model: SchNetPack model.
        model_config: the plain Hydra node that it is built from.
        datamodule: data module of its training, set up.

    Returns:
        ``format``, ``architecture`` (cutoff in Å, radial basis, irreps, ...), ``model_config``,
        ``units``, ``labels`` (what it was trained on; if on energies alone, its forces are their
        gradient, never compared with any), ``elements`` (atomic numbers of the frames),
        ``level_of_theory`` (what the database says, else the calculator's node), ``data`` (path,
        fingerprint, ...) and ``versions``. A finished run adds its ``stage``.
    """
    data = provenance(datamodule)
    return {
        "format": FORMAT,
        "architecture": describe(model),
        "model_config": model_config,
        "units": UNITS,
        "labels": [k for k in (datamodule.energy_key, datamodule.forces_key) if k is not None],
        "elements": datamodule.elements(),
        "level_of_theory": level_of_theory(data),
        "data": data,
        "versions": software_versions(),
    }


def offsets_of(model: nn.Module) -> dict[str, Tensor]:
    """Offsets per atomic number that a model's postprocessors add, ours or SchNetPack's.

    Args:
        model: SchNetPack model.

    Returns:
        Property -> offsets, float64, (zmax,); without those of intensive properties.
    """
    found = {}
    for module in getattr(model, "postprocessors", ()):
        if isinstance(module, AddAtomicOffsets):
            found[module._property] = module.offsets().detach().cpu()
        elif isinstance(module, AddOffsets) and module.is_extensive:
            atomref, mean = module.atomref.detach().cpu().double(), module.mean.detach().cpu()
            total = module.add_atomrefs * atomref + module.add_mean * mean.double()  # (zmax,)
            found[module._property] = total
    return found


def save_portable(
    path: str | Path,
    state: Mapping[str, Tensor],
    card: Mapping[str, Any],
    offsets: Mapping[str, Tensor] | None = None,
) -> None:
    """Write weights, offsets and card as one safetensors file, which opens without running code.

    Args:
        path: file to write; replaced at once, never half written.
        state: parameters and buffers, adapters merged, postprocessors left out.
        card: JSON-serialisable description, see :func:`make_card`.
        offsets: property -> offsets per atomic number, float64, (zmax,); eV for energies.
    """
    tensors = joined(state, offsets or {})
    write_tensors(Path(path), tensors, {CARD_KEY: json.dumps({"format": FORMAT, **card})})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file at once.

    Args:
        path: the file.
        tensors: its tensors.
        metadata: its header's text.
    """
    # one copy each: safetensors refuses tensors that share memory (shared interactions)
    content = save({name: tensor.clone() for name, tensor in tensors.items()}, metadata)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def joined(state: Mapping[str, Tensor], offsets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights and offsets under the names that they have in a file.

    Args:
        state: parameters and buffers.
        offsets: property -> offsets per atomic number, (zmax,).

    Returns:
        The tensors.
    """
    return {**state, **{OFFSETS + name: tensor.double() for name, tensor in offsets.items()}}


def parted(
    tensors: Mapping[str, Tensor], card: Mapping[str, Any], path: Path, source: str
) -> Pretrained:
    """What :func:`joined` was made from.

    Args:
        tensors: the tensors.
        card: what they say of themselves.
        path: file they were read from.
        source: where they come from, for the message.

    Returns:
        Weights, offsets and card, in the present format.

    Raises:
        CheckpointError: the card is of a newer format.
    """
    state = {name: t for name, t in tensors.items() if not name.startswith(OFFSETS)}
    offsets = {n.removeprefix(OFFSETS): t for n, t in tensors.items() if n.startswith(OFFSETS)}
    content = upgrade({"format": card.get("format", 1), "card": card}, state, source)
    return Pretrained(path, state, content["card"], offsets)


def read_portable(path: Path) -> Pretrained:
    """Read a portable file.

    Args:
        path: the file.

    Returns:
        Weights, offsets and card, in the present format.

    Raises:
        CheckpointError: it has no card, or one of a newer format, or holds an ensemble.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if ENSEMBLE_KEY in metadata:
        raise CheckpointError(
            f"{path} holds an ensemble, expected one model; open it with tpainn-md model=... or "
            "schnetpack_tpainn.md.EnsembleCalculator, or give one of its members"
        )
    if CARD_KEY not in metadata:
        raise CheckpointError(
            f"{path} holds weights but no T-PaiNN card (metadata key '{CARD_KEY}'); "
            "expected a file that a T-PaiNN run or tpainn-export wrote"
        )
    return parted(tensors, json.loads(metadata[CARD_KEY]), path, str(path))


def build_model(pretrained: Pretrained) -> Any:
    """Build the model of a portable file, or of another source that says how it is built.

    The configuration in the file may name classes of ``torch.nn.Module`` and activation functions
    only, so that opening a file from elsewhere runs no code of its own.

    Args:
        pretrained: what :func:`~schnetpack_tpainn.transfer.pretrained.load_pretrained` gave.

    Returns:
        SchNetPack's ``AtomisticModel`` with weights and offsets, in evaluation mode; its
        ``metadata`` is the card.

    Raises:
        CheckpointError: the source does not say how the model is built, names something else than
            modules, lacks offsets that the model adds, or its weights do not fit.
    """
    config, source = pretrained.card.get("model_config"), pretrained.source
    if config is None:
        raise CheckpointError(
            f"{source} does not say how its model is built (expected `model_config` in its card): "
            "it serves as transfer.checkpoint only; export the run directory with tpainn-export"
        )
    _check_targets(config, source)
    try:
        model: Any = instantiate(_with_own_offsets(config, pretrained.offsets))
        missing, left = model.load_state_dict(pretrained.state, strict=False, assign=True)
    except (InstantiationException, RuntimeError) as error:
        raise CheckpointError(
            f"the model that {source} describes cannot be built: {error}"
        ) from error
    filled = set()
    for name, module in model.named_modules():
        if isinstance(module, AddAtomicOffsets) and module._property in pretrained.offsets:
            module.set_offsets(pretrained.offsets[module._property])
            filled.add(f"{name}.split")
    wrong = sorted([*(set(missing) - filled), *left])
    if wrong:
        raise CheckpointError(
            f"{source} does not fill the model that it describes: expected the same names, got "
            f"differences in {', '.join(wrong)}; export its run directory again with tpainn-export"
        )
    model.metadata = dict(pretrained.card)
    return model.eval()


def _check_targets(node: Any, source: Path) -> None:
    """Refuse a configuration that names more than modules and activation functions."""
    if isinstance(node, str) and "${" in node:  # OmegaConf's resolvers can make nodes of text
        raise CheckpointError(
            f"{source} has the interpolation {node} in its model_config, expected plain values; "
            "export its run directory again with tpainn-export"
        )
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if target is not None:
            _check_target(str(target), source)
        for value in node.values():
            _check_targets(value, source)
    elif isinstance(node, list | tuple):
        for value in node:
            _check_targets(value, source)


def _check_target(target: str, source: Path) -> None:
    refusal = (
        f"{source} wants to call {target}, expected classes of torch.nn.Module and activation "
        "functions only"
    )
    try:
        found = get_object(target)
    except Exception as error:  # importing raises anything
        raise CheckpointError(
            f"{refusal}; install the package that it needs, or do not use it: {error}"
        ) from error
    if isinstance(found, type):
        allowed = issubclass(found, nn.Module)
    else:
        allowed = getattr(found, "__module__", None) in FUNCTIONS
    if not allowed:
        raise CheckpointError(f"{refusal}; do not use it")


def _with_own_offsets(config: Mapping[str, Any], offsets: Mapping[str, Tensor]) -> dict[str, Any]:
    """The node with our postprocessor, which takes offsets, in the place of SchNetPack's."""
    own = f"{AddAtomicOffsets.__module__}.{AddAtomicOffsets.__name__}"
    nodes = [
        {"_target_": own, "property": node["property"]}
        if str(node["_target_"]).endswith(".AddOffsets") and node.get("property") in offsets
        else node
        for node in config.get("postprocessors") or ()
    ]
    return {**config, "postprocessors": nodes}
