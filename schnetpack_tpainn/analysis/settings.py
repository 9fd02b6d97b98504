"""Settings of an analysis."""

from collections.abc import Sequence
from dataclasses import dataclass

from schnetpack_tpainn.analysis.statistics import engine
from schnetpack_tpainn.errors import AnalysisError, refuse_unknown

__all__ = ["PROPERTIES", "AnalysisSettings", "read_pair"]

PROPERTIES = {  # and the libraries that they need
    "rdf": ("freud",),
    "diffusion": ("kinisi", "scipp"),
    "density": ("emcee",),
    "hydrogen_bonds": ("emcee",),
    "contacts": (),
    "temperature": ("emcee",),
    "drift": (),
    "molecules": (),
}


def read_pair(text: str) -> tuple[str, str]:
    """Elements of a pair.

    Args:
        text: such as ``O-H``.

    Returns:
        The elements' symbols.

    Raises:
        AnalysisError: it is no pair.
    """
    first, dash, second = text.partition("-")
    if not (first and dash and second):
        raise AnalysisError(f"expected a pair of elements such as O-H, got {text}")
    return first, second


@dataclass(frozen=True)
class AnalysisSettings:
    """What is looked at in a trajectory, and how.

    Attributes:
        only: properties to find, of which one that a trajectory does not allow is an error; all
            that it allows when None.
        pairs: pairs of elements of the radial distribution functions, such as ``O-H``; those of the
            three most frequent elements when None.
        r_max_ang: their largest distance in Å; half the box, at most 10 Å, when None.
        bin_ang: width of their bins in Å.
        intramolecular: whether they count pairs within a molecule.
        fit_from_ps: shortest time lag in ps of the fit that gives the self-diffusion.
        viscosity_mpa_s: shear viscosity in mPa s, for the finite-size correction; for water the
            experimental 0.89 mPa s at 298 K when None.
        temperature_k: temperature in K for that; that of the trajectory when None.
        n_blocks: blocks of the trajectory for the errors of the radial distribution functions.
        seed: seed of the posterior samples of the self-diffusion.

    Raises:
        AnalysisError: a setting is out of range, or a library that it needs is not installed.
    """

    only: Sequence[str] | None = None
    pairs: Sequence[str] | None = None
    r_max_ang: float | None = None
    bin_ang: float = 0.02
    intramolecular: bool = False
    fit_from_ps: float = 2.0
    viscosity_mpa_s: float | None = None
    temperature_k: float | None = None
    n_blocks: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_unknown(self.only or (), PROPERTIES, "the properties", AnalysisError)
        for name in ("r_max_ang", "bin_ang", "fit_from_ps", "viscosity_mpa_s", "temperature_k"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise AnalysisError(f"expected {name} > 0, got {value}")
        if self.n_blocks < 2:
            raise AnalysisError(f"expected n_blocks >= 2, for an error, got {self.n_blocks}")
        for pair in self.pairs or ():
            read_pair(pair)
        for name in PROPERTIES:
            if self.wants(name):
                for library in PROPERTIES[name]:
                    engine(library)

    def wants(self, name: str) -> bool:
        """Whether a property is to be found.

        Args:
            name: one of the properties.

        Returns:
            True if it is.
        """
        return self.only is None or name in self.only
