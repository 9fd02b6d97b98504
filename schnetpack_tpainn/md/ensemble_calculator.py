"""The ASE calculator of an ensemble: mean energy and forces, and calibrated deviations."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from schnetpack.model import AtomisticModel

from schnetpack_tpainn.errors import MDError
from schnetpack_tpainn.files import file_sha256
from schnetpack_tpainn.md.calculator import TPaiNNCalculator
from schnetpack_tpainn.md.potential import Potential, open_potential
from schnetpack_tpainn.transfer.ensemble import (
    ENSEMBLE_NAME,
    Calibration,
    check_alike,
    find_ensemble,
    read_ensemble,
)
from schnetpack_tpainn.transfer.portable import build_model

__all__ = ["EnsembleCalculator", "open_calculator"]

log = logging.getLogger(__name__)


class EnsembleCalculator(TPaiNNCalculator):
    r"""Energy (eV), forces (eV/Å), stress (eV/Å³) of several networks, and how sure they are.

    With predictions :math:`x_m` of M members and the factor :math:`s` that was fitted to validation
    labels, the mean is :math:`\bar x` and the standard deviation

    .. math::
       \sigma = s \, \Big[ \frac{1}{M-1} \sum_m (x_m - \bar x)^2 \Big]^{1/2} .

    Beside ASE's properties, ``results`` holds ``energy_std`` (eV) and ``forces_std`` (eV/Å, shape
    (N,)): of each Cartesian component of the force on an atom, the mean square being taken over the
    three, so that it does not depend on how the molecule lies. The forces are the gradient of the
    energy. All members share one neighbour list; all else is as in
    :class:`~schnetpack_tpainn.md.TPaiNNCalculator`.

    .. code-block:: yaml

        calculator:
          _target_: schnetpack_tpainn.md.EnsembleCalculator
          path: runs/ensemble_tpainn_autotune

    Args:
        path: what ``tpainn-ensemble`` made, its directory or ``ensemble.safetensors``; or the paths
            of two models or more, such as ``best_model``, whose spread is then not calibrated.
            Unpickling a ``best_model`` runs code: open only models that you trust.
        device: ``cpu``, ``cuda``, ``cuda:1`` ..., or ``auto``: the GPU if there is one.
        dtype: ``float32`` or ``float64``, of the networks.
        energy_key: name of the energy among the models' outputs.
        force_key: name of the forces among the models' outputs.
        stress_key: name of the stress among the models' outputs.
        stress: compute the stress even if the models were trained without it.
        energy_unit: the models' unit of energy; by default what they recorded, or eV.
        skin_ang: the neighbour list reaches so much further than the cutoff, in Å.
        repulsion: add the repulsion of nuclei closer than any bond.

    Raises:
        CheckpointError: a file is damaged.
        EnsembleError: there are fewer than two members, or they differ in cutoff, elements or
            units.
        MDError: ``path`` is no ensemble, or as from
            :class:`~schnetpack_tpainn.md.TPaiNNCalculator`.
    """

    implemented_properties = (
        *TPaiNNCalculator.implemented_properties,
        "energy_std",
        "forces_std",
    )

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        device: str = "auto",
        dtype: str = "float32",
        energy_key: str = "energy",
        force_key: str = "forces",
        stress_key: str = "stress",
        stress: bool = False,
        energy_unit: str | None = None,
        skin_ang: float = 0.5,
        repulsion: bool = False,
    ) -> None:
        if not skin_ang >= 0:
            raise MDError(f"expected skin_ang >= 0, got {skin_ang}")
        sources, self.calibration, provenance = _members(path)
        potentials = [
            open_potential(
                source, device, dtype, energy_key, force_key, stress_key, stress, energy_unit
            )
            for source in sources
        ]
        check_alike([_essentials(p) for p in potentials])
        self._set_up(potentials[0], skin_ang, repulsion, provenance)
        self.models = [p.model for p in potentials]
        if self.calibration is None:
            log.warning("the spread of these models was never calibrated; its factor is taken as 1")

    def _evaluate(self, inputs: dict[str, torch.Tensor], has_stress: bool) -> dict[str, Any]:
        found = [self._of_model(model, dict(inputs), has_stress) for model in self.models]
        stacked = {key: np.array([one[key] for one in found]) for key in found[0]}
        spread = {key: stacked[key].var(axis=0, ddof=1) for key in ("energy", "forces")}
        factors = self.calibration
        results: dict[str, Any] = {key: value.mean(axis=0) for key, value in stacked.items()}
        results["energy"] = float(results["energy"])
        results["energy_std"] = (factors.energy if factors else 1.0) * float(
            spread["energy"]
        ) ** 0.5
        isotropic = np.sqrt(spread["forces"].mean(axis=1))  # (N,)
        results["forces_std"] = (factors.of_forces if factors else 1.0) * isotropic
        return results


def open_calculator(path: str | Path | Sequence[str | Path], **settings: Any) -> TPaiNNCalculator:
    """The calculator of a model or an ensemble.

    Args:
        path: a ``best_model`` or portable file, of one model or an ensemble; the directory of a
            ``tpainn-ensemble`` run; or several models.
        **settings: further arguments of :class:`EnsembleCalculator`.

    Returns:
        An :class:`EnsembleCalculator` where there is more than one model.
    """
    if isinstance(path, str | Path) and find_ensemble(path) is None and not Path(path).is_dir():
        return TPaiNNCalculator(path, **settings)
    return EnsembleCalculator(path, **settings)


def _members(
    path: str | Path | Sequence[str | Path],
) -> tuple[Sequence[str | Path | AtomisticModel], Calibration | None, dict[str, Any]]:
    """Members, calibration and what is to be remembered of the files."""
    if not isinstance(path, str | Path):
        paths = list(path)
        return paths, None, {"model_sha256": [file_sha256(p) for p in paths if Path(p).is_file()]}
    file = find_ensemble(path)
    if file is None:
        raise MDError(
            f"expected an ensemble, got {path}; give the directory of a finished tpainn-ensemble "
            f"run, its {ENSEMBLE_NAME}, or a list of models"
        )
    ensemble = read_ensemble(file)
    models = [build_model(member) for member in ensemble.members]
    return models, ensemble.calibration, {"model_sha256": file_sha256(file)}


def _essentials(potential: Potential) -> dict[str, Any]:
    """What the members of an ensemble must have in common."""
    return {
        "cutoff (Å)": potential.cutoff,
        "set of elements": potential.elements,
        "unit of energy": potential.energy_unit,
    }
