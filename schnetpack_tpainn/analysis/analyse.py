"""All properties of one trajectory."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from ase.data import chemical_symbols
from ase.units import _amu, _k

from schnetpack_tpainn.analysis.contacts import Contacts, find_contacts
from schnetpack_tpainn.analysis.diffusion import (
    FiniteSize,
    SelfDiffusion,
    finite_size,
    self_diffusion,
)
from schnetpack_tpainn.analysis.molecules import Dissociation, MolecularTrajectory
from schnetpack_tpainn.analysis.rdf import RadialDistribution, radial_distributions
from schnetpack_tpainn.analysis.settings import AnalysisSettings, read_pair
from schnetpack_tpainn.analysis.statistics import Average, average
from schnetpack_tpainn.analysis.trajectory import Trajectory
from schnetpack_tpainn.errors import AnalysisError

if TYPE_CHECKING:
    from schnetpack_tpainn.md.analyse import EnergyDrift

__all__ = ["Analysis", "analyse"]

WATER, WATER_K = "H2O", 298.0
MISFIT = 3.0  # standard errors
MIN_LINES = 3  # of a log, for a straight line
N_ELEMENTS = 3  # whose pairs are looked at by default

T = TypeVar("T")


@dataclass
class Analysis:
    """What a trajectory gave; None or nothing where it was not asked for or not possible.

    Attributes:
        trajectory: the trajectory.
        molecules: formula -> number of molecules in the first frame.
        rdf: radial distribution functions.
        diffusion: formula of a species -> its self-diffusion.
        finite_size: correction to be added to it.
        density: mean density in g/cm³.
        hydrogen_bonds: mean number per molecule.
        contacts: closest approaches.
        temperature: mean temperature in K.
        drift: drift of the total energy in NVE.
        dissociation: molecules that lost a bond.
        missing: property -> why there is none.
        warnings: what one should know before believing the numbers.
    """

    trajectory: Trajectory
    molecules: dict[str, int] = field(default_factory=dict)
    rdf: list[RadialDistribution] = field(default_factory=list)
    diffusion: dict[str, SelfDiffusion] = field(default_factory=dict)
    finite_size: FiniteSize | None = None
    density: Average | None = None
    hydrogen_bonds: Average | None = None
    contacts: Contacts | None = None
    temperature: Average | None = None
    drift: "EnergyDrift | None" = None
    dissociation: Dissociation | None = None
    missing: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def is_water(self) -> bool:
        """Whether it is a box of water and nothing else."""
        return set(self.molecules) == {WATER} and bool(self.trajectory.pbc.all())


def analyse(trajectory: Trajectory, settings: AnalysisSettings | None = None) -> Analysis:
    """Find the properties of a trajectory.

    .. code-block:: python

        from schnetpack_tpainn.analysis import analyse, read_trajectory

        result = analyse(read_trajectory("runs/md"))
        print(result.density, result.rdf[0].first, result.diffusion)

    Args:
        trajectory: the trajectory.
        settings: what is looked at; all properties when None.

    Returns:
        The properties, and why there is none of the others.

    Raises:
        AnalysisError: a property that the settings name cannot be found.
    """
    return _Analyst(trajectory, settings or AnalysisSettings()).run()


class _Analyst:
    def __init__(self, trajectory: Trajectory, settings: AnalysisSettings) -> None:
        self.trajectory, self.settings = trajectory, settings
        self.result = Analysis(trajectory)
        self.system = MolecularTrajectory(trajectory)

    def run(self) -> Analysis:
        result, system = self.result, self.system
        result.molecules = {name: len(found) for name, found in system.species.items()}
        if system.is_network:
            self._warn("the atoms are bonded through the whole cell: each counts as a molecule")
        result.dissociation = self._try("molecules", system.dissociation)
        result.temperature = self._try("temperature", self._temperature)
        result.drift = self._try("drift", self._drift)
        result.density = self._try("density", self._density)
        result.rdf = self._try("rdf", self._rdf) or []
        result.diffusion = self._try("diffusion", self._diffusion) or {}
        contacts = None
        if self.settings.wants("contacts") or self.settings.wants("hydrogen_bonds"):
            contacts = find_contacts(system)
            result.hydrogen_bonds = self._try(
                "hydrogen_bonds", lambda: average(contacts.mean_hydrogen_bonds())
            )
        result.contacts = contacts if self.settings.wants("contacts") else None
        self._judge()
        return result

    def _warn(self, text: str) -> None:
        self.result.warnings.append(text)

    def _try(self, name: str, find: Callable[[], T]) -> T | None:
        """A property, or None and the reason."""
        if not self.settings.wants(name):
            return None
        try:
            return find()
        except AnalysisError as error:
            asked = name == "rdf" and self.settings.pairs is not None
            if self.settings.only is not None or asked:
                raise AnalysisError(f"{self.trajectory.label}, {name}: {error}") from error
            self.result.missing[name] = str(error)
            return None

    def _temperature(self) -> Average:
        run = self.trajectory.run
        series = self.trajectory.temperatures_k if run is None else run.log["temperature_k"]
        if series is None or len(series) < 2:
            raise AnalysisError("expected frames with velocities, for a temperature, got none")
        return average(series)

    def _drift(self) -> "EnergyDrift | None":
        run = self.trajectory.run
        if run is None or run.ensemble["name"] != "NVE":
            if self.settings.only is None:
                return None  # nobody expects one
            got = "another file" if run is None else run.ensemble["name"]
            raise AnalysisError(f"expected an NVE run of tpainn-md, for its drift, got {got}")
        if len(run.log["time_fs"]) < MIN_LINES:
            raise AnalysisError(f"expected {MIN_LINES} lines of log.csv or more, for a drift")
        from schnetpack_tpainn.md.analyse import energy_drift

        return energy_drift(run.log["time_fs"], run.log["etot_ev"], len(self.trajectory.numbers))

    def _density(self) -> Average:
        mean = average(self.trajectory.densities)
        if not mean.is_trusted:
            self._warn(
                f"the density has {mean.n_independent:.0f} correlation times, fewer than 50: its "
                "error is rather too small; run longer"
            )
        return mean

    def _rdf(self) -> list[RadialDistribution]:
        settings = self.settings
        pairs = [read_pair(text) for text in settings.pairs or self._default_pairs()]
        return radial_distributions(
            self.system,
            pairs,
            settings.r_max_ang,
            settings.bin_ang,
            settings.intramolecular,
            settings.n_blocks,
        )

    def _default_pairs(self) -> list[str]:
        numbers = self.trajectory.numbers
        counts = Counter(numbers.tolist()).most_common(N_ELEMENTS)
        heaviest_first = sorted((z for z, _ in counts), reverse=True)
        symbols = [chemical_symbols[z] for z in heaviest_first]
        part = np.arange(len(numbers)) if self.settings.intramolecular else self.system.part
        pairs = []
        for a, b in combinations_with_replacement(symbols, 2):
            places = [part[numbers == chemical_symbols.index(s)] for s in (a, b)]
            if len(np.union1d(*places)) > 1:
                pairs.append(f"{a}-{b}")
        if not pairs:
            raise AnalysisError("expected pairs of atoms in different molecules, got one molecule")
        return pairs

    def _diffusion(self) -> dict[str, SelfDiffusion]:
        settings, system = self.settings, self.system
        _ = self.trajectory.volumes  # periodic, or there is no liquid
        if len(system.masses) < 2:
            raise AnalysisError("expected two molecules or more, for diffusion, got one")
        centres = system.centres()
        found = {
            formula: self_diffusion(
                centres[:, molecules],
                self.trajectory.interval_fs,
                settings.fit_from_ps,
                settings.seed,
            )
            for formula, molecules in system.species.items()
        }
        for formula, one in found.items():
            if one.misfit > MISFIT:
                self._warn(
                    f"the fit of the diffusion of {formula} misses the displacements by "
                    f"{one.misfit:.1f} standard errors; raise --fit-from-ps or run longer"
                )
        self._warn_of_friction(found)
        try:
            self.result.finite_size = self._finite_size()
        except AnalysisError as error:
            self.result.missing["finite-size correction"] = str(error)
        return found

    def _finite_size(self) -> FiniteSize:
        settings, result = self.settings, self.result
        temperature = settings.temperature_k
        if temperature is None:
            try:
                temperature = (result.temperature or self._temperature()).mean
            except AnalysisError as error:
                raise AnalysisError(f"{error}; give --temperature-k") from error
        given, cell = settings.viscosity_mpa_s, self.trajectory.cells[0]
        if given is None and result.is_water and abs(temperature - WATER_K) > 10:
            self._warn(
                f"the finite-size correction takes the viscosity of water at {WATER_K:g} K, the "
                f"run has {temperature:.0f} K; give --viscosity-mpa-s"
            )
        return finite_size(cell, temperature, given, result.is_water)

    def _warn_of_friction(self, found: dict[str, SelfDiffusion]) -> None:
        """Langevin dynamics adds its friction m γ to that of the liquid, k_B T / D."""
        run, temperature = self.trajectory.run, self.result.temperature
        friction = 0.0 if run is None else run.ensemble.get("friction_per_fs", 0.0)
        if not friction or temperature is None:
            return
        for formula, one in found.items():
            mass = self.system.masses[self.system.species[formula][0]] * _amu
            share = one.d_m2_per_s * mass * friction * 1e15 / (_k * temperature.mean)
            self._warn(
                f"Langevin friction of {friction:g}/fs slows {formula} down by about "
                f"{100 * share:.0f} %; for diffusion, run NVE or a Nosé-Hoover chain"
            )

    def _judge(self) -> None:
        result, run = self.result, self.trajectory.run
        lost = result.dissociation
        if lost is not None and lost.n_frames:
            self._warn(
                f"{lost.most} of {lost.n_molecules} molecules dissociated at a time, the first at "
                f"{lost.first_ps:.3g} ps, in {lost.n_frames} of {self.trajectory.n_frames} frames"
            )
        for pair, frames in (result.contacts.overlaps if result.contacts else {}).items():
            self._warn(
                f"{pair} came closer than 0.6 times the sum of covalent radii in {frames} of "
                f"{self.trajectory.n_frames} frames"
            )
        if run is not None and run.status != "finished":
            self._warn(f"the run is {run.status}" + (f": {run.reason}" if run.reason else ""))
