"""Properties of liquids, and of other systems, from the trajectories of molecular dynamics."""

from schnetpack_tpainn.analysis.analyse import Analysis, analyse
from schnetpack_tpainn.analysis.contacts import Contacts, find_contacts
from schnetpack_tpainn.analysis.diffusion import (
    FiniteSize,
    SelfDiffusion,
    finite_size,
    self_diffusion,
    yeh_hummer_correction,
)
from schnetpack_tpainn.analysis.molecules import Dissociation, MolecularTrajectory, unwrap
from schnetpack_tpainn.analysis.output import write_analysis
from schnetpack_tpainn.analysis.rdf import Peak, RadialDistribution, radial_distributions
from schnetpack_tpainn.analysis.settings import AnalysisSettings
from schnetpack_tpainn.analysis.statistics import Average, average
from schnetpack_tpainn.analysis.trajectory import RunRecord, Trajectory, read_trajectory

__all__ = [
    "Analysis",
    "AnalysisSettings",
    "Average",
    "Contacts",
    "Dissociation",
    "FiniteSize",
    "MolecularTrajectory",
    "Peak",
    "RadialDistribution",
    "RunRecord",
    "SelfDiffusion",
    "Trajectory",
    "analyse",
    "average",
    "find_contacts",
    "finite_size",
    "radial_distributions",
    "read_trajectory",
    "self_diffusion",
    "unwrap",
    "write_analysis",
    "yeh_hummer_correction",
]
