"""A potential's function traced, compiled, and checked against the function itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from functorch.compile import min_cut_rematerialization_partition
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import once_differentiable
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

from schnetpack_tpainn.model.function import Function, Structure
from schnetpack_tpainn.model.operators import OpaqueKernel
from schnetpack_tpainn.representation.fused import Plan

__all__ = ["Program"]

N_ATOMS, N_PAIRS = 101, 2003  # what the compiler tunes for; it compiles for any
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


class Program:
    """A compiled :class:`~schnetpack_tpainn.model.function.Function`.

    The numbers of atoms and pairs are symbols, so that one program computes every structure. In
    training, the traced function is cut in two: one graph for the results, another for the gradient
    by the weights, and what the second needs of the first is kept or computed anew, whichever costs
    less.

    Args:
        function: the function.
        plan: of any structure.
        structure: that structure; the program is compared with the function on it.

    Raises:
        RuntimeError: the two differ.
    """

    def __init__(self, function: Function, plan: Plan, structure: Structure) -> None:
        self.function, self.wanted = function, function.wanted()
        arguments, tangents = _fakes(function, plan, structure)
        kernel, n = OpaqueKernel(plan.kernel), len(arguments)
        inputs = [*arguments, *tangents]
        with _symbolic(inputs[0]), torch.enable_grad():
            graph = make_fx(lambda *x: function(kernel, list(x[:n]), list(x[n:])))(*inputs)
        if function.training:
            graph, second = _halves(graph, inputs, len(tangents))
            outputs: Any = graph.graph.output_node().args[0]
            kept = [node.name for node in outputs]
            self._order = [kept.index(node.name) for node in _inputs(second)[: -len(tangents)]]
            self._back = _compiled(second)
        self._results = _compiled(graph)
        self._check(plan, structure)

    def __call__(self, plan: Plan, structure: Structure) -> list[Tensor]:
        """Compute energies (N, 1), forces (N, 3) and, if wanted, virials (N, 9) of the atoms.

        Args:
            plan: filters of the structure.
            structure: atoms and pairs.

        Returns:
            They; in training, they can be differentiated by the weights.
        """
        return list(self.run(*self.function.arguments(plan, structure)))

    def run(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """Compute from the function's arguments.

        Args:
            *arguments: of :meth:`~schnetpack_tpainn.model.function.Function.arguments`.

        Returns:
            As a call.
        """
        if self.function.training:
            return _Trained.apply(self, *arguments)
        with torch.no_grad():
            return tuple(self._results(*arguments))

    def _check(self, plan: Plan, structure: Structure) -> None:
        """Compare with the function; gradients all together, for single ones may be zero."""
        arguments = self.function.arguments(plan, structure)
        with torch.enable_grad():
            got = list(self.run(*arguments))
            tangents = [x.detach() + 1 for x in got]
            expected = self.function(plan.kernel, arguments, tangents)
            groups = [([x.detach()], [y]) for x, y in zip(got, expected, strict=False)]
            if self.function.training:
                asked = [w for w in self.function.weights() if w.requires_grad]
                gradients = list(torch.autograd.grad(got, asked, tangents))
                groups.append((gradients, expected[len(got) :]))
        for results, references in groups:
            scale = max(float(x.abs().max()) for x in references)
            off = max(float((x - y).abs().max()) for x, y in zip(results, references, strict=True))
            if not off <= TOLERANCE[structure.r.dtype] * scale:
                raise RuntimeError(f"the compiled results are off by {off:.1e} of {scale:.1e}")


class _Trained(torch.autograd.Function):
    """The two compiled graphs of a training step."""

    @staticmethod
    def forward(ctx: Any, program: Program, *arguments: Tensor) -> tuple[Tensor, ...]:
        results = program._results(*arguments)
        kept = [results[k] for k in program._order]
        ctx.program, ctx.n_arguments = program, len(arguments)
        ctx.sizes = [None if isinstance(x, Tensor) else x for x in kept]
        ctx.save_for_backward(*[x for x in kept if isinstance(x, Tensor)])
        return tuple(results[: len(program.function.widths)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
        tensors = iter(ctx.saved_tensors)
        kept = [next(tensors) if size is None else size for size in ctx.sizes]
        found = iter(ctx.program._back(*kept, *[x.contiguous() for x in tangents]))
        gradients = [next(found) if wanted else None for wanted in ctx.program.wanted]
        return None, *gradients, *[None] * (ctx.n_arguments - len(gradients))


def _fakes(
    function: Function, plan: Plan, structure: Structure
) -> tuple[list[Tensor], list[Tensor]]:
    """Arguments and tangents without contents: atoms and pairs are symbols, other sizes fixed."""
    mode = FakeTensorMode(shape_env=ShapeEnv())

    def symbolic(x: Tensor, n: int) -> Tensor:
        rule = [DimDynamic.DUCK, *[DimDynamic.STATIC] * (x.dim() - 1)]  # equal n, equal symbol
        context: Any = StatelessSymbolicContext(dynamic_sizes=rule)
        return mode.from_tensor(x.new_empty(n, *x.shape[1:]), symbolic_context=context)

    arguments: list[Tensor] = [
        mode.from_tensor(x.detach(), static_shapes=True)
        for x in function.arguments(plan, structure)[: -len(structure)]
    ]
    sizes = (N_ATOMS, N_PAIRS, N_PAIRS, N_PAIRS, N_ATOMS + 1)
    arguments += [symbolic(x, n) for x, n in zip(structure, sizes, strict=True)]
    widths = function.widths if function.training else ()
    return arguments, [symbolic(structure.r.new_empty(1, width), N_ATOMS) for width in widths]


@contextmanager
def _symbolic(fake: Any) -> Iterator[None]:
    """Trace without contents; torch 2.11 needs Python's dispatcher for symbols as sizes."""
    with fake.fake_mode, enable_python_dispatcher():
        yield


def _halves(
    graph: fx.GraphModule, inputs: list[Tensor], n_results: int
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a graph into one for the results, and one for what depends on their tangents."""
    with _symbolic(inputs[0]):
        joint = make_fx(functionalize(fx.Interpreter(graph).run))(*inputs)
    joint.graph.eliminate_dead_code()
    for k, node in enumerate(_inputs(joint)):  # names by which the cutter knows them
        tangent = k - len(inputs) + n_results
        node.name = node.target = f"tangents_{tangent}" if tangent >= 0 else f"primals_{k}"
    joint.recompile()
    return min_cut_rematerialization_partition(joint, inputs, num_fwd_outputs=n_results)


def _compiled(graph: fx.GraphModule) -> Any:
    values = [node.meta["val"] for node in _inputs(graph)]
    device = next(x.device for x in values if isinstance(x, Tensor))
    with torch.no_grad():  # constants are traced on the CPU, where CUDA graphs cannot read them
        return torch._inductor.compile(graph.to(device), values)


def _inputs(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "placeholder"]
