"""What a refitted force field adds to its energies and forces, and the file that keeps it."""

import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schnetpack_tpainn.data.bondgraph import BondGraph
from schnetpack_tpainn.data.internal import InternalTerms
from schnetpack_tpainn.errors import DataError
from schnetpack_tpainn.files import write_json

__all__ = ["Correction"]

FORMAT = 1


@lru_cache(maxsize=64)
def _terms(graph: BondGraph, radii: tuple[int, ...]) -> InternalTerms:
    return InternalTerms(graph, radii)


@dataclass(frozen=True)
class Correction:
    """What is added to a force field's energies and forces.

    Attributes:
        radii: how many bonds away the types of atoms look.
        coefficients: term -> eV in the unit of the term (Å), as named by
            :class:`~schnetpack_tpainn.data.internal.InternalTerms`; empty if it is not used.
        references: length in Å or cosine by type of bond and angle.
        constants_ev: energy of every labelled molecule in eV.
        elements_ev: element -> eV, for molecules without a label.
        summary: strength, rank and errors of the fit.
    """

    radii: tuple[int, ...]
    coefficients: dict[str, float]
    references: dict[str, float]
    constants_ev: dict[str, float]
    elements_ev: dict[int, float]
    summary: dict[str, Any] = field(default_factory=dict)

    def apply(self, graph: BondGraph, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energies and forces to add.

        Args:
            graph: the molecule's bonds.
            positions: Å, shape (M, n, 3).

        Returns:
            Energies in eV, shape (M,), and forces in eV/Å, shape (M, n, 3).
        """
        terms = _terms(graph, self.radii)
        weights = torch.tensor(
            [
                sum(self.coefficients.get(name, 0.0) for name in names)
                for names in zip(*terms.names, strict=True)
            ],
            dtype=torch.float64,
        )
        where = torch.tensor(positions, dtype=torch.float64, requires_grad=True)
        energies = terms.values(where, terms.reference(self.references)) @ weights
        (gradient,) = torch.autograd.grad(energies.sum(), where)
        return energies.detach().numpy() + self.constant(graph), -gradient.numpy()

    def constant(self, graph: BondGraph) -> float:
        """Energy in eV that does not depend on the geometry.

        Args:
            graph: the molecule's bonds.

        Returns:
            That of the labelled molecule, or the sum over its elements.
        """
        other = sum(self.elements_ev.get(z, 0.0) for z in graph.numbers)
        return self.constants_ev.get(graph.name, other)

    def known(self, graph: BondGraph) -> bool:
        """Whether a label of this molecule took part in the fit.

        Args:
            graph: the molecule's bonds.

        Returns:
            True if so.
        """
        return graph.name in self.constants_ev

    def write(self, path: Path) -> None:
        """Keep the correction as JSON, in numbers that are read back exactly.

        Args:
            path: the file.
        """
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> "Correction":
        """Read what :meth:`write` has written.

        Args:
            path: the file.

        Returns:
            The correction.

        Raises:
            DataError: the file is absent or holds something else.
        """
        try:
            found = json.loads(path.read_text("utf-8"))
            if found.pop("format") != FORMAT:
                raise DataError(f"{path} has another format than {FORMAT}; make it anew")
            elements = {int(z): value for z, value in found.pop("elements_ev").items()}
            return cls(**{**found, "radii": tuple(found["radii"])}, elements_ev=elements)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"expected the file that data/source=tpainn_refit leaves beside its database, "
                f"cannot read {path}: {error}"
            ) from error
