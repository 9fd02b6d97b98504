"""The potential that compiles: everything but the compiler itself."""

import logging

import pytest
import torch
import torch._inductor.config
from hydra.utils import instantiate
from schnetpack import properties
from schnetpack.model import NeuralNetworkPotential

from schnetpack_tpainn import testing
from schnetpack_tpainn.model import TPaiNNPotential
from schnetpack_tpainn.model.function import Function, Structure
from schnetpack_tpainn.model.operators import ADDING, SETTING, OpaqueKernel
from schnetpack_tpainn.model.replay import bucket, padded
from schnetpack_tpainn.nn.kernels import load_kernel
from schnetpack_tpainn.representation.dispatch import make_plan
from tests.conftest import potential_config

KERNEL = load_kernel("numba", torch.device("cpu"), required=True)


def potential(compile: bool = True, **changes: object) -> TPaiNNPotential:  # noqa: A002
    torch.manual_seed(0)
    target = "schnetpack_tpainn.model.TPaiNNPotential"
    return instantiate({**potential_config(), "_target_": target, "compile": compile, **changes})


def batch() -> dict[str, torch.Tensor]:
    return testing.batch(testing.systems(), 4.0, torch.float32)


def plan_of(model: TPaiNNPotential, inputs: dict[str, torch.Tensor]) -> tuple:
    z, idx_i, idx_j = (inputs[k] for k in (properties.Z, properties.idx_i, properties.idx_j))
    r = inputs[properties.R][idx_j] - inputs[properties.R][idx_i] + inputs[properties.offsets]
    plan = make_plan(model.representation, r, idx_i, idx_j, len(z))
    assert plan is not None
    assert plan.pairs.order is None
    return plan, Structure(z, plan.r, idx_i, idx_j, plan.pairs.starts)


@pytest.mark.parametrize("training", [False, True])
def test_the_function_is_the_potential(training: bool) -> None:
    model, inputs = potential(compile=False).train(training), batch()
    plan, structure = plan_of(model, inputs)
    function = Function(
        model.representation, model.output_modules[0].outnet, virials=False, training=training
    )
    expected = model(dict(inputs))
    tangents = [torch.randn(len(structure.z), 1), torch.randn(len(structure.z), 3)]
    opaque = function(OpaqueKernel(KERNEL), function.arguments(plan, structure), tangents)
    torch.testing.assert_close(opaque[1], expected["forces"], rtol=1e-4, atol=1e-6)
    if training:
        energies = torch.zeros(len(expected["energy"])).index_add(
            0, inputs[properties.idx_m], opaque[0].squeeze(1)
        )
        torch.testing.assert_close(energies.double(), expected["energy"], rtol=1e-5, atol=1e-5)
        tangents[0] = torch.ones_like(tangents[0])
        gradients = function(KERNEL, function.arguments(plan, structure), tangents)[2:]
        loss = expected["energy"].sum() + (expected["forces"] * tangents[1]).sum()
        loss.backward()
        weights = [w for w in function.weights() if w.requires_grad]
        assert len(gradients) == len(weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            torch.testing.assert_close(gradient, weight.grad, rtol=1e-3, atol=1e-5)


def test_the_operator_is_as_torch_expects_and_knows_the_kernels_methods() -> None:
    model, inputs = potential(), batch()
    plan, structure = plan_of(model, inputs)
    x = torch.randn(len(structure.z), 3, 8)
    OpaqueKernel(KERNEL)
    arguments = [plan.r, plan.tables[0].detach(), plan.radial.grid, x, x[:0]]
    torch.library.opcheck(
        torch.ops.tpainn.run_kernel,
        ("numba", "message", structure.starts, structure.idx_j, arguments, [x[:, 0], x]),
        test_utils=("test_schema", "test_faketensor"),
    )
    assert all(hasattr(KERNEL, method) for method in (*ADDING, *SETTING))


def test_the_weights_are_those_of_schnetpacks_potential() -> None:
    plain = instantiate(potential_config())
    assert type(plain) is NeuralNetworkPotential
    model = potential()
    assert model.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(model.state_dict())


def test_it_is_scripted_as_before() -> None:
    model, inputs = potential(compile=True).eval(), batch()
    scripted = torch.jit.script(model)
    expected = potential(compile=False).eval()(dict(inputs))
    got = scripted(dict(inputs))
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-4, atol=1e-5)


ATOMWISE = {"_target_": "schnetpack.atomistic.Atomwise", "n_in": 8, "output_key": "energy"}
FORCES = {"_target_": "schnetpack.atomistic.Forces"}
DIPOLE = {"_target_": "schnetpack.atomistic.DipoleMoment", "n_in": 8}


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ([ATOMWISE, FORCES, DIPOLE], "Atomwise and Forces"),
        ([{**ATOMWISE, "aggregation_mode": "avg"}, FORCES], "not a sum over atoms"),
        ([{**ATOMWISE, "per_atom_output_key": "y"}, FORCES], "the outputs are not"),
    ],
)
def test_what_cannot_be_compiled_runs_as_without_and_says_so_once(
    outputs: list, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = potential(output_modules=outputs)
    plain = potential(output_modules=outputs, compile=False)
    with caplog.at_level(logging.WARNING):
        results = [m.eval()(batch()) for m in (model, plain, model)]
    for key in results[1]:
        torch.testing.assert_close(results[0][key], results[1][key], rtol=0, atol=0)
    said = [r.message for r in caplog.records if "compile=true" in r.message]
    assert len(said) == 1
    assert reason in said[0]


def test_without_a_compiler_it_runs_as_without_compile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    missing = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    model, plain = potential().eval(), potential(compile=False).eval()
    with caplog.at_level(logging.WARNING), torch._inductor.config.patch(missing):
        got, expected = model(batch()), plain(batch())
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    (said,) = [r.message for r in caplog.records if "compile=true" in r.message]
    assert "no-such-compiler" in said or "C++ compiler" in said, said


def test_buckets_hold_what_they_are_for_and_are_few() -> None:
    sizes = [bucket(n) for n in range(1, 10_000)]
    assert all(size >= n for n, size in enumerate(sizes, start=1))
    assert all(size <= 1.25 * n + 1 for n, size in enumerate(sizes, start=1) if n > 16)
    assert len(set(sizes)) < 32


def test_padding_changes_no_result() -> None:
    model, inputs = potential().eval(), batch()
    plan, structure = plan_of(model, inputs)
    function = Function(
        model.representation, model.output_modules[0].outnet, virials=True, training=False
    )
    n = len(structure.z)
    larger = padded(structure, n + 3, len(structure.r) + 5)
    assert len(larger.starts) == n + 4
    expected = function(KERNEL, function.arguments(plan, structure), [])
    got = function(KERNEL, function.arguments(plan, larger), [])
    assert len(got) == 3
    for x, y in zip(expected, got, strict=True):
        torch.testing.assert_close(y[:n], x, rtol=1e-5, atol=1e-6)


def test_without_a_fused_kernel_it_runs_as_without_compile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inputs = testing.batch(testing.systems(), 4.0, torch.float64)
    model, plain = potential().double().eval(), potential(compile=False).double().eval()
    with caplog.at_level(logging.WARNING):
        got, expected = model(dict(inputs)), plain(dict(inputs))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert "no fused kernel" in caplog.text
