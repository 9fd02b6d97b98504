"""Compiled energies, forces, stress and training steps are those of the model as it is."""

import copy
import io
import logging

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hydra.utils import instantiate
from schnetpack.md.utils import activate_model_stress

from schnetpack_tpainn import testing
from schnetpack_tpainn.model import TPaiNNPotential, program
from schnetpack_tpainn.model.potential import _programs
from tests.conftest import potential_config

CRYSTAL = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
CRYSTAL.rattle(0.1, seed=0)
STRUCTURES = [[molecule("CH3CH2OH"), molecule("H2O")], [CRYSTAL], [molecule("C6H6")] * 3]


@pytest.fixture(scope="module")
def models() -> tuple[TPaiNNPotential, TPaiNNPotential]:
    """A potential that compiles, and a copy that does not."""
    torch.manual_seed(0)
    target = "schnetpack_tpainn.model.TPaiNNPotential"
    compiled = instantiate({**potential_config(), "_target_": target, "compile": True})
    plain = copy.deepcopy(compiled)
    plain.compiles = False
    return compiled, plain


def batch(structures: list[Atoms]) -> dict[str, torch.Tensor]:
    return testing.batch(structures, 4.0, torch.float32)


def assert_same(got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    for key in expected:
        assert got[key].dtype == expected[key].dtype
        torch.testing.assert_close(got[key], expected[key], rtol=1e-5, atol=1e-5)


def test_energies_and_forces(
    models: tuple[TPaiNNPotential, TPaiNNPotential], caplog: pytest.LogCaptureFixture
) -> None:
    compiled, plain = (m.eval() for m in models)
    with caplog.at_level(logging.INFO):
        for structures in STRUCTURES:
            assert_same(compiled(batch(structures)), plain(batch(structures)))
            assert compiled.representation.backend_used == "numba, compiled"
    assert len([r for r in caplog.records if r.message.startswith("compiling")]) == 1

    file = io.BytesIO()
    torch.save(compiled, file)  # as SchNetPack writes a `best_model`
    again = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert again.compiles
    assert again not in _programs
    with torch.no_grad():
        compiled.output_modules[0].outnet[0].weight.mul_(2)
        plain.output_modules[0].outnet[0].weight.mul_(2)
    assert_same(compiled(batch(STRUCTURES[0])), plain(batch(STRUCTURES[0])))


def test_compiled_code_that_differs_is_refused(
    models: tuple[TPaiNNPotential, TPaiNNPotential],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program, "TOLERANCE", {torch.float32: -1.0})
    compiled, plain = copy.deepcopy(models[0]).eval(), models[1].eval()
    with caplog.at_level(logging.WARNING):
        assert_same(compiled(batch(STRUCTURES[0])), plain(batch(STRUCTURES[0])))
    assert compiled.representation.backend_used == "numba"
    (said,) = [r.message for r in caplog.records]
    assert "the compiled results are off by" in said


def test_stress_in_float64_sums(models: tuple[TPaiNNPotential, TPaiNNPotential]) -> None:
    pair = [copy.deepcopy(m).eval() for m in models]
    for model in pair:
        activate_model_stress(model, "stress")
        model.output_modules[0].outnet.register_forward_hook(lambda _m, _x, y: y.double())
    assert_same(pair[0](batch([CRYSTAL])), pair[1](batch([CRYSTAL])))
    assert pair[0].representation.backend_used == "numba, compiled"


def test_training_steps(models: tuple[TPaiNNPotential, TPaiNNPotential]) -> None:
    pair = [m.train() for m in models]
    optimisers = [torch.optim.SGD(m.parameters(), lr=1e-3) for m in pair]
    for structures in STRUCTURES:
        for model, optimiser in zip(pair, optimisers, strict=True):
            results = model(batch(structures))
            loss = results["energy"].square().mean() + results["forces"].square().mean()
            optimiser.zero_grad()
            loss.backward()
        for (name, a), (_, b) in zip(*[m.named_parameters() for m in pair], strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=name)
        for optimiser in optimisers:
            optimiser.step()
    assert pair[0].representation.backend_used == "numba, compiled"


def test_frozen_weights_get_no_gradient(
    models: tuple[TPaiNNPotential, TPaiNNPotential],
) -> None:
    model = copy.deepcopy(models[0]).train()
    model.representation.requires_grad_(False)
    model(batch(STRUCTURES[0]))["energy"].sum().backward()
    assert model.representation.backend_used == "numba, compiled"
    assert all(p.grad is None for p in model.representation.parameters())
    assert all(p.grad is not None for p in model.output_modules.parameters())
