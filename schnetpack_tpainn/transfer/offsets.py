"""Energy offsets that survive every cast, and the places of a model and its data that hold them."""

from typing import Any

import schnetpack.properties as properties
import torch
from schnetpack.nn import scatter_add
from schnetpack.transform import RemoveOffsets, Transform
from torch import nn

from schnetpack_tpainn.errors import TPaiNNError

__all__ = ["AddAtomicOffsets", "get_offsets", "offsets_name", "set_offsets", "share_offsets"]

ZMAX = 100


class AddAtomicOffsets(Transform):
    r"""Adds :math:`\sum_i c_{Z_i}` to the energy, in float64 whatever the model is cast to.

    SchNetPack's ``AddOffsets`` holds its offsets in a buffer that ``model.to(torch.float32)``, as
    ``SpkCalculator`` does, rounds to seven digits: 1e-3 eV at 1e4 eV. Here each offset is the sum
    of two float32 numbers, 48 bits in all, which no cast between the two types can harm.

    .. code-block:: yaml

        postprocessors:
          - _target_: schnetpack_tpainn.transfer.offsets.AddAtomicOffsets
            property: energy

    Args:
        property: key of the energy (eV) in the model's results.
        zmax: number of atomic numbers provided for.
    """

    is_preprocessor: bool = False
    is_postprocessor: bool = True
    split: torch.Tensor

    def __init__(self, property: str, zmax: int = ZMAX) -> None:  # noqa: A002 - SchNetPack's name
        super().__init__()
        self._property = property
        self.register_buffer("split", torch.zeros(2, zmax))  # (2, zmax)

    @torch.jit.unused
    def datamodule(self, value: Any) -> None:
        """Take the offsets from the data module's least-squares fit.

        Args:
            value: data module with ``get_atomrefs``.
        """
        refs = value.get_atomrefs(property=self._property, is_extensive=True)
        self.set_offsets(refs[self._property])

    @torch.jit.unused
    def set_offsets(self, offsets: torch.Tensor) -> None:
        """Store offsets.

        Args:
            offsets: eV per atomic number, float64, shape (zmax,).
        """
        high = offsets.to(torch.float32)
        low = (offsets.double() - high.double()).to(torch.float32)
        self.split.copy_(torch.stack([high, low]))

    @torch.jit.export
    def offsets(self) -> torch.Tensor:
        """Offsets in eV per atomic number, float64, shape (zmax,)."""
        return self.split.to(torch.float64).sum(dim=0)

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add the offsets to the energy.

        Args:
            inputs: the model's results; the energy has shape (M,).

        Returns:
            The same dictionary with a float64 energy.
        """
        energy = inputs[self._property].to(torch.float64)  # (M,)
        per_atom = self.offsets()[inputs[properties.Z]]  # (N,)
        inputs[self._property] = energy + scatter_add(
            per_atom, inputs[properties.idx_m], dim_size=energy.shape[0]
        )
        return inputs


def _holder(model: nn.Module, energy_key: str) -> AddAtomicOffsets:
    holders = [
        m for m in model.modules() if isinstance(m, AddAtomicOffsets) and m._property == energy_key
    ]
    if len(holders) != 1:
        raise TPaiNNError(
            f"expected one postprocessor that adds offsets to '{energy_key}', got {len(holders)}; "
            "put schnetpack_tpainn.transfer.offsets.AddAtomicOffsets into model.postprocessors, "
            "in the place of schnetpack.transform.AddOffsets"
        )
    return holders[0]


def get_offsets(model: nn.Module, energy_key: str) -> torch.Tensor:
    """Per-element offsets that a model adds to its energy.

    Args:
        model: SchNetPack model.
        energy_key: key of the energy.

    Returns:
        eV per atomic number, float64, shape (zmax,), on the CPU.

    Raises:
        TPaiNNError: the model has not one :class:`AddAtomicOffsets` for that key.
    """
    return _holder(model, energy_key).offsets().cpu()


def offsets_name(model: nn.Module, energy_key: str) -> str:
    """Where a model's state dict holds the offsets.

    Args:
        model: SchNetPack model.
        energy_key: key of the energy.

    Returns:
        Name of the buffer.
    """
    holder = _holder(model, energy_key)
    return next(f"{name}.split" for name, module in model.named_modules() if module is holder)


def set_offsets(
    model: nn.Module, datamodule: object, energy_key: str, offsets: torch.Tensor
) -> None:
    """Give model and data the same offsets: what the data loses, the model adds.

    Args:
        model: SchNetPack model.
        datamodule: data module whose ``RemoveOffsets`` transforms follow; its cache is cleared.
        energy_key: key of the energy.
        offsets: eV per atomic number, float64, shape (zmax,).

    Raises:
        TPaiNNError: model or data have no transform for offsets.
    """
    holder = _holder(model, energy_key)
    offsets = offsets.detach().double().cpu()
    holder.set_offsets(offsets)
    removers = {
        id(t): t
        for name in ("train_transforms", "val_transforms", "test_transforms")
        for t in getattr(datamodule, name, [])
        if isinstance(t, RemoveOffsets) and t._property == energy_key
    }
    if not removers:
        raise TPaiNNError(
            f"expected a schnetpack.transform.RemoveOffsets for '{energy_key}' among the data's "
            "transforms, got none; see configs/data/tpainn_labels.yaml"
        )
    if all(r.remove_atomrefs and torch.equal(r.atomref, offsets) for r in removers.values()):
        return
    for remover in removers.values():
        remover.remove_mean, remover.remove_atomrefs = False, True
        remover.atomref = offsets
    clear_cache = getattr(datamodule, "clear_cache", None)
    if clear_cache is not None:
        clear_cache()


def share_offsets(model: nn.Module, datamodule: object, energy_key: str) -> None:
    """Let data follow a model that was read from a checkpoint.

    Args:
        model: SchNetPack model.
        datamodule: see :func:`set_offsets`.
        energy_key: key of the energy.
    """
    set_offsets(model, datamodule, energy_key, get_offsets(model, energy_key))
