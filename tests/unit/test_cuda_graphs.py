"""Bookkeeping of CUDA graphs, on the CPU: a stand-in records as they do, in memory of its own."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from schnetpack_tpainn.model.function import Structure
from schnetpack_tpainn.model.replay import GRAPHS, Replay


def record(run: Any, sample: tuple[torch.Tensor, ...]) -> Any:
    """Like ``torch.cuda.make_graphed_callables``: the gradient is that of the last pass."""
    fixed = [x.detach().clone().requires_grad_(x.requires_grad) for x in sample]
    results: list[torch.Tensor] = []

    class Graphed(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with torch.no_grad():
                for own, given in zip(fixed, arguments, strict=True):
                    own.copy_(given)
            with torch.enable_grad():
                results[:] = run(*fixed)
            return tuple(x.detach().clone() for x in results)

        @staticmethod
        def backward(_: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            asked = [x for x in fixed if x.requires_grad]
            found = iter(torch.autograd.grad(results, asked, gradients, retain_graph=True))
            return tuple(next(found) if x.requires_grad else None for x in fixed)

    return Graphed.apply


def structure(n: int, seed: int) -> Structure:
    r = torch.randn(2 * n, 3, generator=torch.Generator().manual_seed(seed))
    i = torch.arange(n).repeat_interleave(2)
    return Structure(torch.ones(n, dtype=torch.int64), r, i, i.flip(0), torch.arange(n + 1) * 2)


def energies(weight: torch.Tensor, z: torch.Tensor, r: torch.Tensor, i: Any, *_: Any) -> tuple:
    y = torch.tanh(weight * r.clamp(-5, 5)).square().sum(1)
    return (torch.zeros(len(z)).index_add(0, i, y).unsqueeze(1),)


class Program:
    def __init__(self, training: bool = True) -> None:
        self.weight = torch.nn.Parameter(torch.tensor([0.5, -0.3, 0.8]))
        self.recorded, self.run = 0, energies
        self.function = SimpleNamespace(
            names=["weight"], training=training, arguments=lambda _, s: [self.weight, *s]
        )


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []

    def counted(run: Any, sample: tuple[torch.Tensor, ...]) -> Any:
        found.append(len(sample[1]))
        return record(run, sample)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", counted)
    return found


def gradient(passes: Any, program: Any, structures: list[Structure]) -> torch.Tensor:
    program.weight.grad = None
    sum(passes(s)[0].pow(3).sum() for s in structures).backward()
    return program.weight.grad.clone()


@pytest.mark.parametrize("n_passes", [1, 2, GRAPHS + 2])
def test_passes_before_one_gradient_do_not_disturb_each_other(n_passes, recorded) -> None:
    program, structures = Program(), [structure(9, seed) for seed in range(n_passes)]
    replay: Any = Replay(program)
    for _ in range(3):
        got = gradient(lambda s: replay(None, s), program, structures)
        expected = gradient(lambda s: energies(program.weight, *s), program, structures)
        torch.testing.assert_close(got, expected)
    assert len(recorded) == min(n_passes, GRAPHS)  # no more in later steps


def test_a_pass_without_a_gradient_gives_its_graph_back(recorded) -> None:
    replay: Any = Replay(Program())
    for seed in range(5):
        replay(None, structure(9, seed))
    assert len(recorded) == 1


def test_gradients_add_up(recorded) -> None:
    program, replay = Program(), None
    replay = Replay(program)
    for seed in range(2):
        replay(None, structure(9, seed))[0].sum().backward()
    added = program.weight.grad.clone()
    program.weight.grad = None
    sum(energies(program.weight, *structure(9, seed))[0].sum() for seed in range(2)).backward()
    torch.testing.assert_close(added, program.weight.grad)


def test_weights_that_moved_are_recorded_anew(recorded) -> None:
    program = Program()
    replay: Any = Replay(program)
    for weight in (program.weight.data, 2 * program.weight.data):
        program.weight.data = weight.clone()
        got = replay(None, structure(9, 0))[0]
        torch.testing.assert_close(got, energies(program.weight, *structure(9, 0))[0])
    assert len(recorded) == 2


def test_an_evaluation_has_no_gradient(recorded) -> None:
    replay: Any = Replay(Program(training=False))
    assert not replay(None, structure(9, 0))[0].requires_grad
    assert not replay(None, structure(30, 0))[0].requires_grad
    assert len(recorded) == 2


def test_a_recording_that_fails_is_told_once(monkeypatch, caplog) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("capture failed\nat some place")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    program = Program()
    replay: Any = Replay(program)
    for seed in range(3):
        got = replay(None, structure(9, seed))[0]
        torch.testing.assert_close(got, energies(program.weight, *structure(9, seed))[0])
    assert [r.message for r in caplog.records] == [
        "T-PaiNN runs without cuda_graphs=true: capture failed"
    ]
