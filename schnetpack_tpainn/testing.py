"""Contract checks that any SchNetPack representation can be put through, in double precision.

Each check takes a representation, or a function that makes one, and a tolerance: the largest
deviation, relative to the largest value or 1. It raises :class:`ContractError` beyond that. In
your own tests::

    from schnetpack_tpainn import testing

    @pytest.mark.parametrize("check", testing.CHECKS)
    def test_contract(check):
        check(MyRepresentation(n_atom_basis=8, ...))

Energies come from a random SchNetPack head on ``scalar_representation``, so they have no unit;
lengths are in Å. The representation needs ``n_atom_basis`` and ``cutoff``, as SchNetPack's have.
"""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import schnetpack as spk
import torch
from ase import Atoms
from ase.build import molecule
from e3nn import o3
from schnetpack import properties
from schnetpack.interfaces.ase_interface import AtomsConverter
from schnetpack.transform import MatScipyNeighborList

__all__ = [
    "CHECKS",
    "ContractError",
    "batch",
    "check_batch_independence",
    "check_cutoff",
    "check_forces",
    "check_isolated_atom",
    "check_permutation",
    "check_reflection",
    "check_rotation",
    "check_second_derivatives",
    "check_translation",
    "potential",
    "systems",
]

Representation = torch.nn.Module | Callable[[], torch.nn.Module]
Batch = dict[str, torch.Tensor]


class ContractError(AssertionError):
    """A representation breaks the contract; the message says by how much."""


def systems() -> list[Atoms]:
    """Make the structures of the checks: molecules, an atom, and a cell below the cutoff sphere.

    Returns:
        Four structures, 11 atoms.
    """
    cell = Atoms("NaCl", [[0.0, 0.1, 0.2], [1.9, 2.1, 1.7]], pbc=True)
    cell.set_cell([[3.6, 0.0, 0.0], [0.4, 3.9, 0.0], [0.2, 0.3, 4.1]])
    structures = [molecule("CH3OH"), Atoms("Ar"), cell, molecule("CO")]
    for structure in structures:
        structure.rattle(0.05, seed=1)
    return structures


def batch(
    structures: Sequence[Atoms], cutoff: float, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    """Make a SchNetPack input batch with all pairs up to the cutoff.

    Args:
        structures: one structure or more.
        cutoff: in Å.
        dtype: ``torch.float32`` or ``torch.float64``.

    Returns:
        The batch that a ``NeuralNetworkPotential`` with ``PairwiseDistances`` takes.
    """
    return AtomsConverter(MatScipyNeighborList(cutoff), dtype=dtype)(list(structures))


def potential(representation: Representation, seed: int = 0) -> spk.model.NeuralNetworkPotential:
    """Put a random energy head, and forces, on a double-precision copy of a representation.

    Args:
        representation: the representation, or a function that makes it.
        seed: for the weights of the head; the random state outside stays as it is.

    Returns:
        The model, in evaluation mode; its outputs are ``energy`` (B,) and ``forces`` (N, 3).
    """
    if isinstance(representation, torch.nn.Module):
        module = copy.deepcopy(representation)
    else:
        module = representation()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = spk.atomistic.Atomwise(n_in=module.n_atom_basis, output_key=properties.energy)
    model = spk.model.NeuralNetworkPotential(
        representation=module,
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=[head, spk.atomistic.Forces()],
    )
    return model.double().eval()


def check_rotation(representation: Representation, tolerance: float = 1e-9) -> None:
    """Check that energies and scalars stay, forces and vectors turn with the structure."""
    _check_orthogonal("rotation", _rotation(), representation, tolerance)


def check_reflection(representation: Representation, tolerance: float = 1e-9) -> None:
    """Check the same as :func:`check_rotation` for a mirror image."""
    _check_orthogonal("reflection", -_rotation(), representation, tolerance)


def check_translation(representation: Representation, tolerance: float = 1e-9) -> None:
    """Check that nothing changes when everything is shifted."""
    model = potential(representation)
    inputs = batch(systems(), _cutoff(model))
    shifted = dict(inputs)
    shifted[properties.R] = inputs[properties.R] + torch.tensor([3.1, -2.7, 0.9]).double()
    _compare("translation", _evaluate(model, shifted), _evaluate(model, inputs), tolerance)


def check_permutation(representation: Representation, tolerance: float = 1e-9) -> None:
    """Check that outputs follow their atoms, whatever the order of atoms and of pairs."""
    model, rng = potential(representation), np.random.default_rng(0)
    structure = systems()[0]
    order = rng.permutation(len(structure))
    expected = _evaluate(model, batch([structure], _cutoff(model)))
    expected = {k: x if k == properties.energy else x[order] for k, x in expected.items()}
    inputs = batch([structure[order]], _cutoff(model))
    pairs = rng.permutation(len(inputs[properties.idx_i]))
    for key in (properties.idx_i, properties.idx_j, properties.offsets):
        inputs[key] = inputs[key][pairs]
    _compare("permutation", _evaluate(model, inputs), expected, tolerance)


def check_forces(representation: Representation, tolerance: float = 1e-6) -> None:
    """Check F = -dE/dR along random directions, against central differences over 2e-5 Å."""
    model, step = potential(representation), 1e-5
    inputs = batch(systems(), _cutoff(model))
    forces = _evaluate(model, inputs)[properties.forces]
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(forces.shape, generator=generator, dtype=forces.dtype)
        energies = []
        for shift in (step * direction, -step * direction):
            moved = {**inputs, properties.R: inputs[properties.R] + shift}
            energies.append(_evaluate(model, moved)[properties.energy].sum())
        slope = (energies[1] - energies[0]) / (2 * step)
        _compare("forces", {"F.u": (forces * direction).sum()}, {"F.u": slope}, tolerance)


def check_cutoff(representation: Representation, tolerance: float = 1e-3) -> None:
    """Check that energy and forces do not jump where a pair crosses the cutoff.

    Args:
        representation: the representation, or a function that makes it.
        tolerance: largest jump, relative to what the pair does at half the cutoff.
    """
    model, step = potential(representation), 1e-5
    cutoff = _cutoff(model)

    def at(distance: float) -> Batch:
        structure = Atoms("OHN", [[0.0, 0.0, 0.0], [0.6, 0.7, 0.0], [0.0, 0.0, -distance]])
        return _evaluate(model, batch([structure], cutoff))

    inside, outside, close = at(cutoff * (1 - step)), at(cutoff * (1 + step)), at(cutoff / 2)
    for key in (properties.energy, properties.forces):
        jump = (inside[key] - outside[key]).abs().max() / (close[key] - outside[key]).abs().max()
        _require(f"cutoff: jump of {key}", float(jump), tolerance)


def check_batch_independence(representation: Representation, tolerance: float = 1e-9) -> None:
    """Check that a structure has the same outputs alone and in a mixed batch."""
    model, structures = potential(representation), systems()
    together = _evaluate(model, batch(structures, _cutoff(model)))
    start = 0
    for index, structure in enumerate(structures):
        atoms, start = slice(start, start + len(structure)), start + len(structure)
        part = {
            key: x[index : index + 1] if key == properties.energy else x[atoms]
            for key, x in together.items()
        }
        alone = _evaluate(model, batch([structure], _cutoff(model)))
        _compare(f"batch independence of {structure.symbols}", part, alone, tolerance)


def check_isolated_atom(representation: Representation, tolerance: float = 1e-12) -> None:
    """Check that an atom without neighbours has a finite energy, and forces of zero."""
    model = potential(representation)
    outputs = _evaluate(model, batch([Atoms("Ar")], _cutoff(model)))
    energy, forces = outputs[properties.energy], outputs[properties.forces]
    _require("isolated atom: energy", float((energy - energy).abs()), tolerance)  # inf - inf is NaN
    _require("isolated atom: forces", float(forces.abs().max()), tolerance)


def check_second_derivatives(representation: Representation, tolerance: float = 1e-6) -> None:
    """Check how forces change with positions and parameters, as in training on forces.

    Autograd against central differences, along a random direction in all of them at once.

    Args:
        representation: the representation, or a function that makes it.
        tolerance: largest deviation, relative to the slope or 1.
    """
    model = potential(representation).train()
    inputs, generator = batch(systems(), _cutoff(model)), torch.Generator().manual_seed(0)
    start = {properties.R: inputs[properties.R], **dict(model.named_parameters())}
    shift, weights = (
        {k: torch.randn(x.shape, generator=generator, dtype=x.dtype) for k, x in start.items()}
        for _ in range(2)
    )

    def projected_forces(step: torch.Tensor) -> torch.Tensor:
        moved = {key: x.detach() + step * shift[key] for key, x in start.items()}
        moved_inputs = {**inputs, properties.R: moved.pop(properties.R)}
        outputs = torch.func.functional_call(model, moved, (moved_inputs,))
        return (weights[properties.R] * outputs[properties.forces]).sum()

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(projected_forces(step), step)
    ends = [projected_forces(torch.tensor(h, dtype=torch.float64)).detach() for h in (1e-5, -1e-5)]
    _compare(
        "second derivatives", {"slope": slope}, {"slope": (ends[0] - ends[1]) / 2e-5}, tolerance
    )


CHECKS: tuple[Callable[[Representation], None], ...] = (
    check_rotation,
    check_reflection,
    check_translation,
    check_permutation,
    check_forces,
    check_cutoff,
    check_batch_independence,
    check_isolated_atom,
    check_second_derivatives,
)


def _cutoff(model: spk.model.NeuralNetworkPotential) -> float:
    return float(model.representation.cutoff)


def _rotation() -> torch.Tensor:
    return o3.angles_to_matrix(*torch.tensor([0.7, 1.9, -2.3]).double())


def _evaluate(model: spk.model.NeuralNetworkPotential, inputs: Batch) -> Batch:
    """Run the model on a copy of the batch; give its outputs and the representation's."""
    inputs = {key: x.detach().clone() for key, x in inputs.items()}
    outputs = dict(model(inputs))
    features = ("scalar_representation", "vector_representation")
    outputs |= {key: inputs[key] for key in features if key in inputs}
    return {key: x.detach() for key, x in outputs.items()}


def _check_orthogonal(
    what: str, matrix: torch.Tensor, representation: Representation, tolerance: float
) -> None:
    model = potential(representation)
    inputs = batch(systems(), _cutoff(model))
    expected = _evaluate(model, inputs)
    expected[properties.forces] = expected[properties.forces] @ matrix.T
    if "vector_representation" in expected:
        expected["vector_representation"] = matrix @ expected["vector_representation"]
    for key in (properties.R, properties.offsets, properties.cell):
        inputs[key] = inputs[key] @ matrix.T
    _compare(what, _evaluate(model, inputs), expected, tolerance)


def _compare(what: str, got: Batch, expected: Batch, tolerance: float) -> None:
    for key, value in expected.items():
        scale = value.abs().max().clamp(min=1.0)
        _require(f"{what}: {key}", float((got[key] - value).abs().max() / scale), tolerance)


def _require(what: str, deviation: float, tolerance: float) -> None:
    if not deviation <= tolerance:  # NaN fails too
        raise ContractError(f"{what}: deviation {deviation:.2e}, tolerance {tolerance:.0e}")
