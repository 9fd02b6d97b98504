"""TPaiNN beyond scalars and vectors, and its errors and configs."""

from pathlib import Path

import hydra
import pytest
import schnetpack.nn as snn
import torch
import yaml
from e3nn.util.test import assert_equivariant
from schnetpack import properties

from schnetpack_tpainn import testing
from schnetpack_tpainn.representation import TPaiNN

CUTOFF = 4.0
ROOT = Path(__file__).parents[2]


def radial():
    return {"radial_basis": snn.GaussianRBF(8, CUTOFF), "cutoff_fn": snn.CosineCutoff(CUTOFF)}


@pytest.fixture
def wigner_dtype():
    """Sets the dtype in which e3nn makes the matrices that `assert_equivariant` compares with."""
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("hidden_irreps", "keys"),
    [
        ("8x0e + 8x1o", {"scalar", "vector"}),
        ("8x0e + 4x1o", {"scalar", "vector"}),
        ("8x0e", {"scalar"}),
        ("8x0e + 8x2e", {"scalar", "equivariant"}),
        ("8x0e + 6x1o + 4x2e", {"scalar", "vector", "equivariant"}),
        ("8x0e + 2x0o + 6x1o + 3x1e + 4x2e", {"scalar", "vector", "equivariant"}),
    ],
)
def test_features_are_equivariant(hidden_irreps, keys, wigner_dtype):
    torch.manual_seed(0)
    ours = TPaiNN(hidden_irreps=hidden_irreps, form="e3nn", **radial()).double()
    wigner_dtype(torch.float64)  # only now, for GaussianRBF cannot be made under float64
    structures = testing.systems()
    inputs = testing.batch([structures[0], structures[1], structures[3]], CUTOFF)
    idx_i, idx_j = inputs[properties.idx_i], inputs[properties.idx_j]

    def call(positions):
        outputs = ours({**inputs, properties.Rij: positions[idx_j] - positions[idx_i]})
        found = {k.removesuffix("_representation"): x for k, x in outputs.items() if k[0] != "_"}
        assert set(found) == keys
        features = [found["scalar"]]
        if "vector" in found:
            features.append(found["vector"].transpose(1, 2).flatten(1))
        if "equivariant" in found:
            assert torch.equal(found["equivariant"][:, :8], found["scalar"])
            features.append(found["equivariant"])
        return tuple(features)

    vectors = f"{ours.irreps_out.count('1o')}x1o"
    known = {"scalar": "8x0e", "vector": vectors, "equivariant": ours.irreps_out}
    irreps_out = [known[key] for key in ("scalar", "vector", "equivariant") if key in keys]
    positions = inputs[properties.R]
    assert_equivariant(call, [positions], irreps_in=["cartesian_points"], irreps_out=irreps_out)
    assert all((x.abs().amax(dim=0) > 0).all() for x in call(positions))


def test_second_order_trains():
    torch.manual_seed(0)
    ours = TPaiNN(n_interactions=2, hidden_irreps="8x0e + 8x1o + 4x2e", **radial())
    model = testing.potential(ours).train()
    inputs = testing.batch(testing.systems(), CUTOFF)
    target = torch.tensor([1.0, -1.0, 0.5, 2.0]).double()
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=5e-3), []
    for _ in range(20):
        outputs = model(dict(inputs))
        loss = (outputs["energy"] - target).square().sum() + outputs["forces"].square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    still = [name for name, x in model.named_parameters() if not x.grad.any()]
    assert still == ["representation.interactions.0.gate.lift.weight"]  # nothing there to lift yet
    assert losses[-1] < 0.1 * losses[0]


def test_a_cast_keeps_second_order_exact():
    torch.manual_seed(0)
    ours = TPaiNN(hidden_irreps="8x0e + 6x1o + 4x2e", **radial()).float().double()
    testing.check_rotation(ours, tolerance=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_irreps": "8x1o"}, "expected scalars.*got '8x1o'.*Add"),
        ({"hidden_irreps": "8 of them"}, "expected e3nn irreps.*got '8 of them'.*Write"),
        ({"hidden_irreps": "8x0e + 4x1e"}, "rounds of messages fill, '8x0e', got.*Leave"),
        ({"hidden_irreps": "8x0e+4x1o+2x1e", "n_interactions": 1}, "expected irreps that 1 rounds"),
        ({"hidden_irreps": "8x0e + 8x1o", "n_atom_basis": 16}, "n_atom_basis: expected 8.*got 16"),
        ({"hidden_irreps": "8x0e + 4x1o", "form": "premul"}, "as many vectors as scalars, got"),
        ({"hidden_irreps": "8x0e+8x1o+2x2e", "form": "premul"}, "Use form='e3nn'"),
        ({"form": "fast"}, "form: expected 'premul', 'e3nn' or None, got 'fast'"),
        ({"n_interactions": 0}, "n_interactions: expected at least 1, got 0"),
        ({"n_atom_basis": 0}, "expected scalars"),
        ({"cutoff_fn": None}, "expected a radial_basis and a cutoff_fn, got GaussianRBF"),
        ({"radial_basis": None}, "expected a radial_basis and a cutoff_fn, got None"),
    ],
)
def test_bad_arguments_get_a_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        TPaiNN(**{**radial(), **arguments})


def test_higher_orders_have_no_stock_model():
    with pytest.raises(ValueError, match=r"to_painn: expected .* got '8x0e\+8x1o\+2x2e'"):
        TPaiNN(hidden_irreps="8x0e+8x1o+2x2e", **radial()).to_painn()


def test_the_snippet_of_the_docstring_runs():
    snippet = TPaiNN.__doc__.split("representation: painn``::")[1].split("Args:")[0]
    ours = hydra.utils.instantiate(yaml.safe_load(snippet)["representation"])
    assert str(ours.irreps_out) == "64x0e+64x1o+32x2e"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "128x0e+128x1o"),
        (["model.representation.n_atom_basis=16"], "16x0e+16x1o"),
        (
            ["model.representation.n_atom_basis=8", "model.representation.hidden_irreps=8x0e+4x1o"],
            "8x0e+4x1o",
        ),
    ],
)
def test_the_config_replaces_painn(overrides, expected):
    with hydra.initialize_config_module("schnetpack.configs", version_base="1.2"):
        config = hydra.compose(
            "train",
            [
                "experiment=md17",
                "model/representation=tpainn",
                f"hydra.searchpath=[file://{ROOT / 'configs'}]",
                *overrides,
            ],
        )
    ours = hydra.utils.instantiate(config.model.representation)
    assert str(ours.irreps_out) == expected
    assert config.model.output_modules[0].n_in == ours.n_atom_basis
    assert float(ours.cutoff) == config.globals.cutoff
