"""The blocks: reduction to the stock ones, equivariance, and e3nn operations without state."""

import copy
import io

import e3nn
import pytest
import torch
import torch.nn.functional as F
from e3nn import o3
from e3nn.util.test import assert_equivariant
from schnetpack.representation.painn import PaiNNInteraction, PaiNNMixing

from schnetpack_tpainn.irreps import order_irreps, painn_irreps, to_e3nn, to_schnetpack
from schnetpack_tpainn.nn import (
    ChannelMix,
    EquivariantMessage,
    EquivariantUpdate,
    Gate,
    PremulMessage,
    PremulUpdate,
)
from schnetpack_tpainn.nn.e3nn_ops import SphericalHarmonics, TensorProduct
from schnetpack_tpainn.nn.equivariant_message import angular_orders, message_paths, reachable

N, E, F0, K = 5, 12, 6, 4
GENERAL = [
    "6x0e + 4x1o + 3x2e",
    "6x0e + 6x2e",
    "6x0e + 2x0o + 6x1o + 3x1e + 2x2e + 2x2o + 2x3o",
    "6x0e",
]


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def graph():
    idx_i, idx_j = torch.randint(N, (2, E))
    return F.normalize(torch.randn(E, 3)), torch.randn(E, K + 1), idx_i, idx_j


@pytest.mark.parametrize("first", [True, False])
def test_messages_are_the_stock_ones(graph, first):
    dir_ij, basis, idx_i, idx_j = graph
    q, mu, filters = torch.randn(N, F0), torch.randn(N, 3, F0), torch.randn(3 * F0, K + 1)
    mu = torch.zeros_like(mu) if first else mu
    stock = PaiNNInteraction(F0, F.silu)
    w = (basis @ filters.T)[:, None]
    expected_q, expected_mu = stock(q[:, None], mu, w, dir_ij, idx_i, idx_j, N)

    premul, general = PremulMessage(F0, F.silu), EquivariantMessage(painn_irreps(F0), F.silu)
    premul.load_state_dict(stock.state_dict())
    general.load_state_dict(stock.state_dict())
    new_q, new_mu = premul(q, None if first else mu, basis, filters, dir_ij, idx_i, idx_j)
    torch.testing.assert_close((new_q, new_mu), (expected_q[:, 0], expected_mu))
    sh = SphericalHarmonics([0, 1], normalize=False, normalization="norm")(dir_ij)
    v = None if first else to_e3nn(mu)
    new_q, new_v = general(q, v, basis, filters, sh, idx_i, idx_j)
    torch.testing.assert_close((new_q, to_schnetpack(new_v)), (expected_q[:, 0], expected_mu))


def test_updates_are_the_stock_ones():
    q, mu = torch.randn(N, F0), torch.randn(N, 3, F0)
    stock = PaiNNMixing(F0, F.silu, epsilon=1e-2)
    expected_q, expected_mu = stock(q[:, None], mu)
    premul = PremulUpdate(F0, F.silu, epsilon=1e-2)
    general = EquivariantUpdate(painn_irreps(F0), F.silu, epsilon=1e-2)
    premul.load_state_dict(stock.state_dict())
    general.load_state_dict(stock.state_dict())
    torch.testing.assert_close(premul(q, mu), (expected_q[:, 0], expected_mu))
    new_q, new_v = general(q, to_e3nn(mu))
    torch.testing.assert_close((new_q, to_schnetpack(new_v)), (expected_q[:, 0], expected_mu))


@pytest.mark.parametrize("text", GENERAL)
def test_message_is_equivariant(graph, text):
    irreps = order_irreps(text)
    dir_ij, basis, idx_i, idx_j = graph
    message = EquivariantMessage(irreps, F.silu)
    harmonics = SphericalHarmonics(angular_orders(irreps), normalize=False, normalization="norm")
    filters = torch.randn(message.n_filters, K + 1)

    def call(x, r):
        q, v = x.split([F0, irreps.dim - F0], dim=1)
        return torch.cat(message(q, v, basis, filters, harmonics(r), idx_i, idx_j), dim=1)

    x = irreps.randn(N, -1)
    assert_equivariant(call, [x, dir_ij], irreps_in=[irreps, "1x1o"], irreps_out=irreps)
    assert (call(x, dir_ij) - x).abs().amax(dim=0).min() > 0  # every feature gets a message


@pytest.mark.parametrize("text", GENERAL)
def test_update_is_equivariant(text):
    irreps = order_irreps(text)
    update = EquivariantUpdate(irreps, F.silu)

    def call(x):
        return torch.cat(update(*x.split([F0, irreps.dim - F0], dim=1)), dim=1)

    x = irreps.randn(N, -1)
    assert_equivariant(call, [x], irreps_in=irreps, irreps_out=irreps)
    assert (call(x) - x).abs().amax(dim=0).min() > 0


def test_paths_of_painn_are_its_three():
    assert message_paths(painn_irreps(8)) == [(0, 0, 0), (0, 1, 1), (1, 0, 1)]


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [(1, "4x0e+2x1o"), (2, "4x0e+2x1o+2x1e"), (3, "4x0e+2x0o+2x1o+2x1e")],
)
def test_pseudotensors_are_reached_in_turn(rounds, expected):
    assert str(reachable(order_irreps("4x0e+2x0o+2x1o+2x1e"), rounds)) == expected


def test_channel_mix_is_dense_on_every_component():
    mix = ChannelMix(o3.Irreps("4x1o"), [(0, 6)])
    assert mix.weight.shape == (6, 4)
    x = torch.randn(N, 3, 4)
    torch.testing.assert_close(to_schnetpack(mix(to_e3nn(x))), F.linear(x, mix.weight))


def test_gate_mixes_channels_only_where_their_numbers_differ():
    irreps = o3.Irreps("4x1o")
    assert Gate(irreps, o3.Irreps("4x1o"), [(0, 0)]).lift is None
    gate = Gate(irreps, o3.Irreps("4x1o + 2x1o"), [(0, 0), (0, 1)])
    x, gates = torch.randn(N, 3, 4), torch.randn(N, 6)
    y = gate(to_e3nn(x), gates)
    torch.testing.assert_close(to_schnetpack(y[:, :12]), x * gates[:, None, :4])
    lifted = F.linear(x, gate.lift.weight) * gates[:, None, 4:]
    torch.testing.assert_close(to_schnetpack(y[:, 12:]), lifted)


def second_order_product():
    return TensorProduct(
        "2x1o",
        "1x2e",
        "2x1o",
        [(0, 0, 0, "uvu", True)],
        shared_weights=False,
        internal_weights=False,
    )


def coefficients(product):
    (found,) = [x for name, x in product.named_buffers() if "_w3j_" in name]
    return found


def test_coefficients_survive_a_cast_and_a_copy():
    exact = o3.wigner_3j(1, 2, 1)
    product = second_order_product().float().double()
    assert torch.equal(coefficients(product), exact)
    buffer = io.BytesIO()
    torch.save(product, buffer)
    buffer.seek(0)
    for copied in (copy.deepcopy(product), torch.load(buffer, weights_only=False)):
        assert copied.state_dict() == {}
        assert torch.equal(coefficients(copied.float().double()), exact)


def test_the_choice_of_e3nn_code_stays_the_users():
    before = e3nn.get_optimization_defaults()["jit_mode"]
    e3nn.set_optimization_defaults(jit_mode="script")
    try:
        code = second_order_product()._compiled_main_left_right
        assert isinstance(code, torch.fx.GraphModule)  # eager: it pickles
        assert e3nn.get_optimization_defaults()["jit_mode"] == "script"
    finally:
        e3nn.set_optimization_defaults(jit_mode=before)
