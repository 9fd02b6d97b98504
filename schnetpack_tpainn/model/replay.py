"""Small structures on a GPU: a program as CUDA graphs, one for each bucket of sizes."""

import logging
from collections.abc import Callable
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from schnetpack_tpainn.model.function import Structure
from schnetpack_tpainn.model.program import Program
from schnetpack_tpainn.representation.fused import Plan

__all__ = ["Replay", "bucket", "padded"]

GROWTH = 1.25  # from one bucket to the next
GRAPHS = 2  # for a bucket, of passes before the first's gradient
FAR = 1e3  # Å, beyond every cutoff

log = logging.getLogger(__name__)


class Replay:
    """Runs a program by replaying CUDA graphs, which hold the GPU's work of a whole pass.

    A graph is for fixed sizes: structures are padded to buckets, and each bucket has its graph,
    recorded when it is first met. What a training pass keeps for its gradient stays in the graph's
    memory, so that a pass before that gradient takes a second graph, and the program beyond.

    Args:
        program: the program, on a GPU.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graphs: dict[tuple[int, int], list[_Graph]] = {}
        self.places: list[int] = []  # of the weights that the graphs read
        self.failed = False

    def __call__(self, plan: Plan, structure: Structure) -> list[Tensor]:
        """Compute as the program does.

        Args:
            plan: filters of the structure.
            structure: atoms and pairs.

        Returns:
            The program's results.
        """
        n_atoms, function = len(structure.z), self.program.function
        sizes = bucket(n_atoms + 1), bucket(len(structure.r))
        arguments = tuple(function.arguments(plan, padded(structure, *sizes)))
        places = [x.data_ptr() for x in arguments[: len(function.names)]]
        if places != self.places:
            self.graphs, self.places = {}, places
        graph = self._free(sizes, arguments)
        if graph is None:
            results = self.program.run(*arguments)
        elif function.training:
            use = _Use()
            graph.use = ref(use)
            results = graph.run(*_Own.apply(use, *arguments))
        else:
            with torch.no_grad():
                results = graph.run(*arguments)
        return [x[:n_atoms].clone() for x in results]  # the next replay overwrites them

    def _free(self, sizes: tuple[int, int], arguments: tuple[Tensor, ...]) -> "_Graph | None":
        """A graph that no gradient waits for; None if there can be none."""
        graphs = self.graphs.setdefault(sizes, [])
        free = next((graph for graph in graphs if not graph.awaited()), None)
        if free is not None or len(graphs) == GRAPHS or self.failed:
            return free
        try:
            graphs.append(_Graph(torch.cuda.make_graphed_callables(self.program.run, arguments)))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            log.warning("T-PaiNN runs without cuda_graphs=true: %s", reason)
            self.failed = True
            return None
        return graphs[-1]


class _Use:
    """A training pass, until its gradient is computed or dropped."""

    over = False


class _Graph:
    """A recorded pass, and the last use of it."""

    def __init__(self, run: Any) -> None:
        self.run: Callable[..., tuple[Tensor, ...]] = run
        self.use: Callable[[], _Use | None] = lambda: None

    def awaited(self) -> bool:
        """Whether a gradient of its last use can still be asked for."""
        use = self.use()
        return use is not None and not use.over


class _Own(torch.autograd.Function):
    """Hands tensors on; their gradients become copies, which the next replay does not overwrite."""

    @staticmethod
    def forward(ctx: Any, use: _Use, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.use = use
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.use.over = True
        return None, *(x if x is None else x.clone() for x in gradients)


def bucket(n: int) -> int:
    """Smallest size of a bucket that holds n."""
    size = 16.0
    while size < n:
        size *= GROWTH
    return int(size) if int(size) >= n else int(size) + 1


def padded(structure: Structure, n_atoms: int, n_pairs: int) -> Structure:
    """Add ghosts that nothing feels: they receive over no pair, and their pairs are too long.

    Args:
        structure: atoms and pairs.
        n_atoms: number of atoms to reach, more than there are.
        n_pairs: number of pairs to reach.

    Returns:
        The padded structure.
    """
    z, r, idx_i, idx_j, starts = structure
    more_atoms, more_pairs = n_atoms - len(z), n_pairs - len(r)
    last = idx_i.new_full((more_pairs,), n_atoms - 1)
    return Structure(
        torch.cat([z, z.new_zeros(more_atoms)]),
        torch.cat([r, r.new_full((more_pairs, 3), FAR)]),
        torch.cat([idx_i, last]),
        torch.cat([idx_j, last]),
        torch.cat([starts, starts.new_full((more_atoms,), len(r))]),
    )
