"""Many replicas at once: SchNetPack models in torch-sim's batched dynamics and relaxation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import schnetpack.properties as keys
import torch
from schnetpack.model import AtomisticModel
from schnetpack.units import convert_units

from schnetpack_tpainn.md.potential import open_potential

try:
    from torch_sim.models.interface import ModelInterface
    from torch_sim.neighbors import torchsim_nl
    from torch_sim.state import SimState
    from torch_sim.transforms import pbc_wrap_batched_and_get_lattice_shifts
except ImportError as error:
    raise ImportError(
        "TPaiNNModel needs torch-sim, which is not installed: "
        "pip install 'schnetpack-tpainn[torchsim]'"
    ) from error

__all__ = ["TPaiNNModel"]


class TPaiNNModel(ModelInterface):
    """Energy (eV), forces (eV/Å) and stress (eV/Å³) of a SchNetPack model, for torch-sim.

    `torch-sim <https://torchsim.github.io/torch-sim>`_ (Cohen et al., arXiv:2508.06628) moves a
    batch of systems in one pass through the network. Each has the energy, forces and stress that
    :class:`~schnetpack_tpainn.md.TPaiNNCalculator` gives it. Positions and energies are float64
    whatever the network's type, as with ASE.

    .. code-block:: python

        import torch_sim as ts
        from schnetpack_tpainn.md.torchsim import TPaiNNModel

        model = TPaiNNModel("runs/autotuned/best_model")
        final = ts.integrate(
            [atoms] * 100,
            model,
            integrator=ts.Integrator.nvt_langevin,
            n_steps=1000,
            temperature=300,  # K
            timestep=0.0005,  # ps
        )

    Args:
        model: SchNetPack's ``best_model`` or its path, which is as trusted as code, for unpickling
            runs it.
        device: ``cpu``, ``cuda``, ``cuda:1`` ..., or ``auto``: the GPU if there is one.
        dtype: ``float32`` or ``float64``, of the network.
        energy_key: name of the energy among the model's outputs.
        force_key: name of the forces among the model's outputs.
        stress_key: name of the stress among the model's outputs.
        stress: compute the stress even if the model was trained without it.
        energy_unit: the model's unit of energy; by default what it recorded, or eV. Its unit of
            length must be Å.
        neighbor_list_fn: torch-sim's function that finds the pairs; by default the best that is
            installed.

    Raises:
        MDError: as from :class:`~schnetpack_tpainn.md.TPaiNNCalculator`.
        ImportError: torch-sim is not installed.
    """

    def __init__(
        self,
        model: str | Path | AtomisticModel,
        device: str = "auto",
        dtype: str = "float32",
        energy_key: str = "energy",
        force_key: str = "forces",
        stress_key: str = "stress",
        stress: bool = False,
        energy_unit: str | None = None,
        neighbor_list_fn: Callable[..., Any] = torchsim_nl,
    ) -> None:
        super().__init__()
        self.potential = open_potential(
            model, device, dtype, energy_key, force_key, stress_key, stress, energy_unit
        )
        self.model = self.potential.model
        self.neighbor_list_fn = neighbor_list_fn
        self._device = self.potential.device
        self._dtype = torch.float64
        self._compute_forces = True
        self._compute_stress = self.potential.stress_key is not None
        self._unit = convert_units(self.potential.energy_unit, "eV")

    def forward(self, state: SimState, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Compute what the integrators need.

        Args:
            state: S systems of N atoms in all.
            **kwargs: ignored, as torch-sim's interface asks.

        Returns:
            ``energy`` (S,) in eV, ``forces`` (N, 3) in eV/Å and, if the model computes it,
            ``stress`` (S, 3, 3) in eV/Å³, NaN unless the systems are periodic in three directions.

        Raises:
            MDError: a system has an element that the model does not know.
        """
        self.potential.check_elements(state.atomic_numbers.unique().tolist())
        outputs = self.model(self._inputs(state))
        found = {
            "energy": outputs[self.potential.energy_key].reshape(-1),
            "forces": outputs[self.potential.force_key],
        }
        if self.potential.stress_key is not None:
            # SchNetPack divides by a volume that is negative for left-handed cells
            sign = torch.linalg.det(state.cell).sign()[:, None, None]
            stress = outputs[self.potential.stress_key] * sign
            found["stress"] = stress.where(state.pbc.all(), torch.nan)
        return {name: (t.detach() * self._unit).to(state.dtype) for name, t in found.items()}

    def _inputs(self, state: SimState) -> dict[str, torch.Tensor]:
        """SchNetPack's batch, its pairs in the order of their first atoms."""
        dtype = self.potential.dtype
        cell = state.row_vector_cell  # (S, 3, 3)
        pbc = state.pbc.expand(state.n_systems, 3)
        # in the cell, for float32 to have its digits where they count
        positions, _ = pbc_wrap_batched_and_get_lattice_shifts(
            state.positions.detach(), cell, state.system_idx, pbc
        )
        pairs, systems, shifts = self.neighbor_list_fn(
            positions, cell, pbc, self.potential.cutoff, state.system_idx
        )
        order = pairs[0].argsort(stable=True)
        offsets = (shifts.to(cell.dtype)[:, :, None] * cell[systems]).sum(dim=1)  # (E, 3)
        n_atoms = state.system_idx.bincount(minlength=state.n_systems)
        return {
            keys.idx: torch.arange(state.n_systems, device=self.device),
            keys.n_atoms: n_atoms,
            keys.idx_m: state.system_idx,
            keys.Z: state.atomic_numbers.long(),
            keys.R: positions.to(dtype),
            keys.cell: cell.to(dtype),
            keys.pbc: pbc,
            keys.idx_i: pairs[0, order].long(),
            keys.idx_j: pairs[1, order].long(),
            keys.offsets: offsets[order].to(dtype),
        }
