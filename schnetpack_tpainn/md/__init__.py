"""Molecular dynamics through ASE: run it, resume it, and judge the trajectory."""

from schnetpack_tpainn.md.analyse import (
    Comparison,
    EnergyDrift,
    compare_with_reference,
    energy_drift,
)
from schnetpack_tpainn.md.calculator import TPaiNNCalculator
from schnetpack_tpainn.md.ensemble_calculator import EnsembleCalculator, open_calculator
from schnetpack_tpainn.md.ensembles import NPT, NVE, NVT, Ensemble
from schnetpack_tpainn.md.guard import ExplosionError, Limits
from schnetpack_tpainn.md.nose_hoover import MTKNPT, NoseHooverNVT
from schnetpack_tpainn.md.output import read_log
from schnetpack_tpainn.md.report import MDResult
from schnetpack_tpainn.md.repulsion import ZBL
from schnetpack_tpainn.md.run import run_md
from schnetpack_tpainn.md.settings import MDSettings
from schnetpack_tpainn.md.structure import read_structure
from schnetpack_tpainn.md.uncertainty import Uncertainty, UncertaintyError

__all__ = [
    "MTKNPT",
    "NPT",
    "NVE",
    "NVT",
    "ZBL",
    "Comparison",
    "EnergyDrift",
    "Ensemble",
    "EnsembleCalculator",
    "ExplosionError",
    "Limits",
    "MDResult",
    "MDSettings",
    "NoseHooverNVT",
    "TPaiNNCalculator",
    "Uncertainty",
    "UncertaintyError",
    "compare_with_reference",
    "energy_drift",
    "open_calculator",
    "read_log",
    "read_structure",
    "run_md",
]
