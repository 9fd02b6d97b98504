"""TPaiNN, in both forms, is the function that the stock PaiNN is."""

import copy

import pytest
import schnetpack.nn as snn
import torch
from schnetpack import properties
from schnetpack.representation import PaiNN

from schnetpack_tpainn import testing
from schnetpack_tpainn.representation import TPaiNN

CUTOFF, FORMS = 4.0, ("premul", "e3nn")
SYSTEMS = {"molecule": [0], "atom": [1], "cell": [2], "mixed batch": [0, 1, 2, 3, 1]}


def radial():
    return {"radial_basis": snn.GaussianRBF(8, CUTOFF), "cutoff_fn": snn.CosineCutoff(CUTOFF)}


def embeddings(n):
    return {
        "nuclear_embedding": snn.NuclearEmbedding(101, n),
        "electronic_embeddings": [
            snn.ElectronicEmbedding("total_charge", n, is_charged=True),
            snn.ElectronicEmbedding("spin_multiplicity", n, is_charged=False),
        ],
    }


OPTIONS = {
    "default": dict,
    "shared filters": lambda: {"shared_filters": True},
    "shared interactions": lambda: {"shared_interactions": True},
    "everything shared": lambda: {"shared_filters": True, "shared_interactions": True},
    "embeddings": lambda: embeddings(16),
    "tanh, epsilon": lambda: {"activation": torch.tanh, "epsilon": 1e-3},
    "linear": lambda: {"activation": None},
}


def stock(n=16, layers=2, **options):
    """A PaiNN none of whose parameters is zero."""
    torch.manual_seed(0)
    painn = PaiNN(n, layers, **radial(), **options)
    with torch.no_grad():
        for parameter in painn.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return painn.eval()


def run(representation, names=(0, 1, 2, 3, 1), dtype=torch.float64):
    structures = [testing.systems()[i] for i in names]
    inputs = testing.batch(structures, CUTOFF, dtype)
    inputs["total_charge"] = torch.arange(len(names)).to(dtype) - 1
    inputs["spin_multiplicity"] = torch.arange(len(names)).to(dtype) + 1
    outputs = testing.potential(representation).to(dtype)(inputs)
    outputs |= {key: inputs[key] for key in ("scalar_representation", "vector_representation")}
    return {key: x.detach() for key, x in outputs.items()}


def deviation(got, expected):
    scale = expected.abs().max().clamp(min=1e-3)
    return float((got - expected).abs().max() / scale)


@pytest.mark.parametrize("names", SYSTEMS.values(), ids=SYSTEMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS)
def test_agrees_with_stock(form, dtype, names):
    painn = stock(n=64, layers=3)
    got = run(TPaiNN.from_painn(painn, form), names, dtype)
    for key, value in run(painn, names).items():  # float64: stock's own rounding is not ours
        assert got[key].dtype == dtype
        single = 1e-6 if key == "energy" else 1e-5
        assert deviation(got[key], value) <= (1e-10 if dtype == torch.float64 else single), key
    if names == [1]:
        assert not got["forces"].any()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_weights_go_there_and_back(form, options):
    painn = stock(**options())
    ours = TPaiNN.from_painn(painn, form)
    back = ours.to_painn()
    for model in (ours, back):
        assert list(model.state_dict()) == list(painn.state_dict())
        for key, value in painn.state_dict().items():
            assert torch.equal(model.state_dict()[key], value), key
        for key, value in run(painn).items():
            assert deviation(run(model)[key], value) < 1e-12, key
    theirs = {id(p) for p in painn.parameters()}
    assert not theirs & {id(p) for m in (ours, back) for p in m.parameters()}
    assert len(list(ours.parameters())) == len(list(painn.parameters()))


@pytest.mark.parametrize("form", FORMS)
def test_state_dicts_load_between_forms(form):
    painn = stock()
    for source in (painn, *(TPaiNN.from_painn(painn, other) for other in FORMS)):
        ours = TPaiNN(16, 2, form=form, **radial())
        ours.load_state_dict(source.state_dict())
        assert deviation(run(ours)["energy"], run(painn)["energy"]) < 1e-12


def test_conversion_keeps_dtype_mode_and_a_model_in_training():
    painn = stock(**embeddings(16)).double().train()
    inputs = testing.batch(testing.systems(), CUTOFF)
    inputs |= {k: torch.ones(4).double() for k in ("total_charge", "spin_multiplicity")}
    inputs[properties.Rij] = (
        inputs[properties.R][inputs["_idx_j"]] - inputs[properties.R][inputs["_idx_i"]]
    )
    painn(inputs)  # NuclearEmbedding now holds a graph, which cannot be copied
    ours = TPaiNN.from_painn(painn)
    assert {p.dtype for p in ours.parameters()} == {torch.float64}
    assert ours.training
    assert painn.training
    assert painn.embedding.training
    assert not TPaiNN.from_painn(painn.eval()).training


@pytest.mark.parametrize("form", FORMS)
def test_a_seed_gives_the_weights_of_stock(form):
    torch.manual_seed(3)
    painn = PaiNN(16, 2, **radial())
    torch.manual_seed(3)
    ours = TPaiNN(16, 2, form=form, **radial())
    for ours_p, stock_p in zip(ours.parameters(), painn.parameters(), strict=True):
        assert torch.equal(ours_p, stock_p)


@pytest.mark.parametrize("form", FORMS)
def test_training_on_forces_goes_the_same_way(form):
    painn = stock(n=8)
    after = []
    for representation in (painn, TPaiNN.from_painn(painn, form)):
        model = testing.potential(representation).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(5):
            outputs = model(testing.batch(testing.systems(), CUTOFF))
            optimizer.zero_grad()
            (outputs["energy"].square().sum() + outputs["forces"].square().sum()).backward()
            optimizer.step()
        after.append(copy.deepcopy(model.representation.state_dict()))
    for key, value in after[0].items():
        assert deviation(after[1][key], value) < 1e-8, key


@pytest.mark.parametrize("form", FORMS)
def test_attributes_are_those_of_painn_and_irreps(form):
    painn, ours = stock(), TPaiNN(16, 2, form=form, **radial())
    for name in ("n_atom_basis", "n_interactions", "cutoff", "share_filters"):
        assert getattr(ours, name) == getattr(painn, name)
    assert isinstance(ours.radial_basis, snn.GaussianRBF)
    assert isinstance(ours.cutoff_fn, snn.CosineCutoff)
    assert str(ours.hidden_irreps) == str(ours.irreps_out) == "16x0e+16x1o"
    assert ours.form == form


def test_defaults():
    ours = TPaiNN(**radial())
    assert (ours.n_atom_basis, ours.n_interactions, ours.form) == (128, 3, "premul")
    assert TPaiNN(hidden_irreps="8x1o + 8x0e", **radial()).form == "premul"
    assert TPaiNN(hidden_irreps="8x0e + 4x1o", **radial()).form == "e3nn"
