import pytest
import torch
from e3nn import o3

from schnetpack_tpainn.irreps import is_painn, order_irreps, painn_irreps, to_e3nn, to_schnetpack


@pytest.mark.parametrize("components", [1, 3, 5])
def test_layouts_round_trip(components):
    x = torch.randn(4, components, 7)
    assert to_e3nn(x).shape == (4, 7 * components)
    assert torch.equal(to_schnetpack(to_e3nn(x), components), x)
    flat = torch.randn(4, 7 * components)
    assert torch.equal(to_e3nn(to_schnetpack(flat, components)), flat)


@pytest.mark.parametrize("shape", [(0, 3, 7), (4, 3, 0)])
def test_layouts_round_trip_when_empty(shape):
    x = torch.empty(shape)
    assert to_schnetpack(to_e3nn(x)).shape == x.shape


def test_a_vector_keeps_its_components_in_place():
    x = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]])  # (1, xyz, F)
    assert to_e3nn(x).tolist() == [[1.0, 2.0, 3.0, 10.0, 20.0, 30.0]]


def test_rotating_commutes_with_the_layout():
    torch.manual_seed(0)
    rotation = o3.rand_matrix(dtype=torch.float64)
    x = torch.randn(4, 3, 7, dtype=torch.float64)
    wigner = o3.Irreps("7x1o").D_from_matrix(rotation).double()
    torch.testing.assert_close(to_e3nn(rotation @ x), to_e3nn(x) @ wigner.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("4x1o + 8x0e", "8x0e+4x1o"),
        ("2x0e + 4x1o + 6x0e", "8x0e+4x1o"),
        ("2x0o + 8x0e + 3x1e + 4x1o + 0x2e", "8x0e+2x0o+4x1o+3x1e"),
    ],
)
def test_irreps_are_ordered(given, expected):
    assert str(order_irreps(given)) == expected


def test_only_equal_multiplicities_are_painn():
    assert is_painn(painn_irreps(8))
    assert not any(
        is_painn(o3.Irreps(i)) for i in ("8x0e", "8x0e+4x1o", "8x0e+8x1e", "8x0e+8x1o+2x2e")
    )


@pytest.mark.parametrize("text", ["8 scalars", "8x1o", "8x0o + 8x1o", ""])
def test_bad_irreps_get_a_remedy(text):
    with pytest.raises(ValueError, match=r"hidden_irreps: expected .*got(.|\n)*(Write|Add)"):
        order_irreps(text)
