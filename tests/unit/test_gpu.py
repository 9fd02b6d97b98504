"""The potential and MD on a GPU against the CPU's plain torch."""

from collections.abc import Iterator

import pytest
import torch
from ase.build import molecule
from schnetpack import properties

from schnetpack_tpainn import testing
from schnetpack_tpainn.md import TPaiNNCalculator
from schnetpack_tpainn.model import TPaiNNPotential
from tests.unit.test_compiled import potential

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
VARIANTS = {
    "as it is": {"compile": False},
    "compiled": {},
    "CUDA graphs": {"cuda_graphs": True},
}


def batch(n: int, device: str) -> dict[str, torch.Tensor]:
    systems = [atoms for atoms in testing.systems() if len(atoms) > 1][:n]
    given = testing.batch(systems, 4.0, torch.float32)
    return {key: x.to(device) for key, x in given.items()}


def both(variant: dict[str, bool], training: bool) -> tuple[TPaiNNPotential, TPaiNNPotential]:
    """A potential on the GPU, and the same in plain torch on the CPU."""
    plain = potential(compile=False).train(training)
    plain.representation.backend = "torch"
    return potential(**variant).cuda().train(training), plain


def gradients(model: TPaiNNPotential, *batches: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Energies, forces and the gradients of a loss of both, added up over batches."""
    model.zero_grad()
    for inputs in batches:
        found = model(dict(inputs))
        loss(found).backward()
    return on_cpu(model, found)


def loss(found: dict[str, torch.Tensor]) -> torch.Tensor:
    return found["energy"].square().sum() + found["forces"].square().sum()


def on_cpu(model: TPaiNNPotential, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {key: x.detach().cpu().double() for key, x in (found | named).items()}


def assert_close(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for key, y in expected.items():
        bound = (1e-4 if "." in key else 1e-5) * float(y.abs().max())  # parameters have dots
        torch.testing.assert_close(got[key], y, rtol=0, atol=max(bound, 1e-6), msg=key)


@pytest.fixture(autouse=True)
def no_fallback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail where a warning says that something else ran."""
    yield
    assert not [r.message for r in caplog.get_records("call") if "runs without" in r.message]


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_energies_and_forces_are_those_of_the_cpu(variant: dict[str, bool]) -> None:
    model, plain = both(variant, training=False)
    for n in (1, 2, 3, 1):  # other sizes in between
        results = model(batch(n, "cuda"))
        assert not (model.compiles and any(x.requires_grad for x in results.values()))
        got = {key: x.detach().cpu().double() for key, x in results.items()}
        expected = {key: x.detach().double() for key, x in plain(batch(n, "cpu")).items()}
        assert_close(got, expected)
    used = model.representation.backend_used
    assert used == ("triton, compiled" if model.compiles else "triton")


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_training_steps_are_those_of_the_cpu(variant: dict[str, bool]) -> None:
    model, plain = both(variant, training=True)
    for sizes in ([1], [3], [2], [1, 1], [3, 1]):
        got = gradients(model, *(batch(n, "cuda") for n in sizes))
        assert_close(got, gradients(plain, *(batch(n, "cpu") for n in sizes)))
        with torch.no_grad():  # a graph must see the weights as they are
            for p in (*model.parameters(), *plain.parameters()):
                p.mul_(1.01)
            if sizes == [2]:
                for p in model.parameters():
                    p.data = p.data.clone()  # and where they are
    used = model.representation.backend_used
    assert used == ("triton, compiled" if model.compiles else "triton")


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_several_passes_before_one_gradient(variant: dict[str, bool]) -> None:
    model, plain = both(variant, training=True)
    found = []
    for network, device in ((model, "cuda"), (plain, "cpu")):
        moved = batch(2, device)
        moved[properties.R] = moved[properties.R] * 1.02
        results = [network(dict(given)) for given in (batch(2, device), moved, batch(2, device))]
        sum(loss(x) for x in results).backward()
        found.append(on_cpu(network, results[1]))
    assert_close(*found)


def test_dynamics_give_the_forces_of_the_cpu(tmp_path) -> None:
    path = tmp_path / "best_model"
    torch.save(potential(compile=False), path)
    atoms = molecule("CH3CH2OH")
    found = {}
    for device in ("cpu", "cuda"):
        atoms.calc = TPaiNNCalculator(path, device=device)
        found[device] = atoms.get_potential_energy(), atoms.get_forces()
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-5)
    assert abs(found["cuda"][1] - found["cpu"][1]).max() < 1e-5 * abs(found["cpu"][1]).max()
