"""SchNetPack's potential, with the option to compile energies and forces."""

import logging
from typing import Any
from weakref import WeakKeyDictionary

import schnetpack.properties as properties
import torch
from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances
from schnetpack.atomistic.response import Strain
from schnetpack.model import NeuralNetworkPotential
from schnetpack.transform import Transform

from schnetpack_tpainn.model.function import Function, Structure
from schnetpack_tpainn.representation import TPaiNN
from schnetpack_tpainn.representation.dispatch import make_plan
from schnetpack_tpainn.representation.fused import Plan

__all__ = ["TPaiNNPotential"]

SMALL = 1_000  # atoms, up to which starting kernels takes longer than running them

log = logging.getLogger(__name__)


class TPaiNNPotential(NeuralNetworkPotential):
    """``schnetpack.model.NeuralNetworkPotential`` that can compile energies and forces.

    With ``compile``, the first evaluation and the first training step of a process take longer, up
    to a minute, or seconds where torch's cache on disk has the code: the function from positions to
    energies and forces, and its derivative by the weights, are traced through T-PaiNN's fused
    kernels, compiled by torch's inductor for any number of atoms, and compared with what they were
    traced from. Where that fails (no C++ compiler, modules other than below, no fused kernel), the
    potential runs as without ``compile``, and a warning says why. The weights have the same names
    in both, and neither a pickle nor a checkpoint holds compiled code.

    A compiled evaluation (``eval()``) returns results without a graph; compiled training steps
    have one for a single ``backward()`` into the weights. ::

        _target_: schnetpack_tpainn.model.TPaiNNPotential
        compile: true
        input_modules:
          - _target_: schnetpack.atomistic.PairwiseDistances
        representation:
          _target_: schnetpack_tpainn.representation.TPaiNN
          ...
        output_modules:
          - _target_: schnetpack.atomistic.Atomwise
            n_in: 128
            output_key: energy
          - _target_: schnetpack.atomistic.Forces

    ``Forces`` with a ``force_key`` of null are left out: a model for energies alone, which is
    trained without second derivatives.

    Args:
        representation: builds the features; :class:`~schnetpack_tpainn.representation.TPaiNN` if
            compiled.
        input_modules: run before it; ``PairwiseDistances``, and ``Strain``, if compiled.
        output_modules: run after it; ``Atomwise`` for an energy, a sum over atoms, and ``Forces``,
            with or without stress, if compiled.
        postprocessors: transforms of the results.
        input_dtype_str: floating-point type of the inputs.
        do_postprocessing: apply the postprocessors.
        compile: compile energies and forces.
        cuda_graphs: on a GPU, let up to 1,000 atoms run by CUDA graphs, padded to buckets of sizes
            that grow by a quarter; each bucket keeps its memory. Only with ``compile``.
    """

    def __init__(
        self,
        representation: torch.nn.Module,
        input_modules: list[torch.nn.Module] | None = None,
        output_modules: list[torch.nn.Module] | None = None,
        postprocessors: list[Transform] | None = None,
        input_dtype_str: str = "float32",
        do_postprocessing: bool = True,
        compile: bool = False,  # noqa: A002 - torch's name
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__(
            representation,
            input_modules,
            [m for m in output_modules or () if not _is_silent(m)],
            postprocessors,
            input_dtype_str,
            do_postprocessing,
        )
        self.compiles, self.cuda_graphs = compile, cuda_graphs

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute energies and forces.

        Args:
            inputs: SchNetPack batch, lengths in Å.

        Returns:
            The outputs of the modules, under their keys.
        """
        if not torch.jit.is_scripting():
            results = _evaluate(self, inputs) if self.compiles else None
            if results is not None:
                inputs.update(results)
                return self.extract_outputs(self.postprocess(inputs))
        inputs = self.initialize_derivatives(inputs)
        for module in self.input_modules:
            inputs = module(inputs)
        inputs = self.representation(inputs)
        for module in self.output_modules:
            inputs = module(inputs)
        return self.extract_outputs(self.postprocess(inputs))


def _is_silent(module: torch.nn.Module) -> bool:
    """Whether a module would compute forces for nobody."""
    return isinstance(module, Forces) and module.force_key is None and not module.calc_stress


_programs: WeakKeyDictionary[TPaiNNPotential, dict[Any, Any]] = WeakKeyDictionary()


def _evaluate(
    potential: TPaiNNPotential, inputs: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor] | None:
    """Run the compiled program, made if need be; None where there is none."""
    programs = _programs.setdefault(potential, {})
    reason = _obstacle(potential)
    if reason is not None:
        _tell(programs, reason)
        return None
    model, (atomwise, forces) = potential.representation, potential.output_modules
    with torch.no_grad():
        r = PairwiseDistances()(dict(inputs))[properties.Rij]
        z, idx_i = inputs[properties.Z], inputs[properties.idx_i]
        plan = make_plan(model, r, idx_i, inputs[properties.idx_j], len(z))
    if plan is None:
        _tell(programs, "no fused kernel computes this model in this precision, or these pairs")
        return None
    if len(z) < 2:  # the compiler's symbol for a size stands for two and more
        return None
    idx_i = idx_i if plan.pairs.order is None else idx_i[plan.pairs.order]
    structure = Structure(z, plan.r, idx_i, plan.pairs.idx_j, plan.pairs.starts)
    training = potential.training and torch.is_grad_enabled()
    parts = (model, atomwise.outnet, forces.calc_stress, training)
    if parts not in programs:
        programs[parts] = Function(*parts)
    function = programs[parts]
    graphs = potential.cuda_graphs and r.is_cuda and len(z) <= SMALL
    key = (*parts, graphs, plan.kernel.name, r.dtype, r.device, *function.wanted())
    if key not in programs:
        programs[key] = _program(programs, function, plan, structure, graphs)
    if programs[key] is None:
        return None
    model.backend_used = f"{plan.kernel.name}, compiled"
    return _results(programs[key](plan, structure), inputs, atomwise, forces)


def _program(
    programs: dict, function: Function, plan: Plan, structure: Structure, graphs: bool
) -> Any:
    # torch's compiler is slow to import
    from schnetpack_tpainn.model.program import Program
    from schnetpack_tpainn.model.replay import Replay

    purpose = "training" if function.training else "energies and forces"
    log.info("compiling T-PaiNN for %s of any number of atoms: up to a minute, once", purpose)
    try:
        program = Program(function, plan, structure)
        return Replay(program) if graphs else program
    except Exception as error:  # compilers raise anything
        _tell(programs, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
        return None


def _results(
    found: list[torch.Tensor], inputs: dict[str, torch.Tensor], atomwise: Any, forces: Any
) -> dict[str, torch.Tensor]:
    """Add up what the atoms have."""
    n_molecules, idx_m = len(inputs[properties.n_atoms]), inputs[properties.idx_m]
    energies = found[0].squeeze(1)  # (N,)
    energy = energies.new_zeros(n_molecules).index_add(0, idx_m, energies)  # (M,)
    results = {atomwise.output_key: energy, forces.force_key: found[1]}
    if forces.calc_stress:
        virials = found[2]  # (N, 9)
        virial = virials.new_zeros(n_molecules, 9).index_add(0, idx_m, virials)
        volume = torch.linalg.det(inputs[properties.cell]).view(-1, 1, 1)  # (M, 1, 1)
        results[forces.stress_key] = virial.view(-1, 3, 3) / volume
    return results


def _obstacle(potential: TPaiNNPotential) -> str | None:
    """Say why a potential cannot be compiled; None if it can."""
    model = potential.representation
    if type(model) is not TPaiNN or len(model.electronic_embeddings):
        return "the representation is not TPaiNN without electronic embeddings"
    if any(type(m) not in (PairwiseDistances, Strain) for m in potential.input_modules):
        return "input_modules has more than PairwiseDistances"
    if [type(m) for m in potential.output_modules] != [Atomwise, Forces]:
        return "output_modules is not Atomwise and Forces"
    atomwise, forces = potential.output_modules
    if atomwise.aggregation_mode != "sum" or atomwise.n_out != 1:
        return "the energy is not a sum over atoms"
    expected = {atomwise.output_key, forces.force_key}
    expected |= {forces.stress_key} if forces.calc_stress else set()
    if set(potential.model_outputs) != expected or forces.energy_key != atomwise.output_key:
        return f"the outputs are not {', '.join(sorted(expected))}"
    return None


def _tell(programs: dict, reason: str) -> None:
    if reason not in programs:
        programs[reason] = None
        log.warning("T-PaiNN runs without compile=true: %s", reason)
