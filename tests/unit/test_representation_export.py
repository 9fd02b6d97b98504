"""TPaiNN copies, pickles, goes to TorchScript through spkdeploy, any device and mixed precision."""

import copy
import io
import runpy
import sys
from pathlib import Path

import pytest
import schnetpack.nn as snn
import torch
from schnetpack import properties

from schnetpack_tpainn import testing
from schnetpack_tpainn.representation import TPaiNN

CUTOFF = 4.0
MODELS = {
    "premul": {"n_atom_basis": 8},
    "e3nn": {"n_atom_basis": 8, "form": "e3nn"},
    "shared": {"n_atom_basis": 8, "shared_filters": True, "shared_interactions": True},
    "second order": {"hidden_irreps": "8x0e + 6x1o + 4x2e"},
    "scalars": {"hidden_irreps": "8x0e"},
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    torch.manual_seed(0)
    radial = {"radial_basis": snn.GaussianRBF(8, CUTOFF), "cutoff_fn": snn.CosineCutoff(CUTOFF)}
    representation = TPaiNN(n_interactions=2, **radial, **MODELS[request.param])
    return testing.potential(representation).float()


def assert_same(got, expected):
    for structures in (testing.systems(), testing.systems()[1:2]):
        for _ in range(2):  # TorchScript optimises the second run
            inputs = testing.batch(structures, CUTOFF, torch.float32)
            a, b = got(dict(inputs)), expected(dict(inputs))
            for key in ("energy", "forces"):
                torch.testing.assert_close(a[key], b[key], rtol=1e-6, atol=1e-6)


def test_copies(model):
    copied = copy.deepcopy(model)
    assert list(copied.state_dict()) == list(model.state_dict())
    assert_same(copied, model)


def test_pickles(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert_same(loaded, model)


def test_spkdeploy(model, tmp_path, monkeypatch):
    source, target = str(tmp_path / "best_model"), str(tmp_path / "deployed")
    torch.save(model, source)
    script = Path(sys.executable).with_name("spkdeploy")
    monkeypatch.setattr(sys, "argv", [str(script), source, target])
    runpy.run_path(str(script), run_name="__main__")
    metadata = {"cutoff": ""}
    deployed = torch.jit.load(target, _extra_files=metadata)
    assert float(metadata["cutoff"]) == CUTOFF
    assert_same(deployed, model)


def test_stays_on_its_device_without_host_syncs(model):
    # "meta" stands in for a GPU: it refuses tensors of other devices, and values for the host.
    representation = copy.deepcopy(model.representation).to("meta")
    inputs = testing.batch(testing.systems(), CUTOFF, torch.float32)
    inputs = {key: x.to("meta") for key, x in inputs.items()}
    r_ij = torch.randn(len(inputs[properties.idx_i]), 3, device="meta", requires_grad=True)
    outputs = representation({**inputs, properties.Rij: r_ij})
    (slope,) = torch.autograd.grad(outputs["scalar_representation"].sum(), r_ij, create_graph=True)
    slope.square().sum().backward()
    assert all(x.is_meta for x in outputs.values())


def test_runs_in_mixed_precision(model):
    inputs = testing.batch(testing.systems(), CUTOFF, torch.float32)
    expected = model(dict(inputs))["energy"]
    with torch.autocast("cpu", torch.bfloat16):
        energy = copy.deepcopy(model).train()(dict(inputs))["energy"]
    torch.testing.assert_close(energy.float(), expected, rtol=0.05, atol=0.05)
