"""The portable form: what is written is the model, and building it runs nobody's code."""

import copy
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule
from hydra.utils import instantiate
from safetensors.torch import load_file
from schnetpack.transform import AddOffsets
from torch import nn

from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.md import TPaiNNCalculator
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.formats import FORMAT, Pretrained
from schnetpack_tpainn.transfer.portable import build_model, make_card, offsets_of, save_portable
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from schnetpack_tpainn.transfer.units import UNITS
from tests.fits import KINDS, build, data_module, make_labels, model_config

OFFSETS = torch.linspace(-2e4, 1e4, 100, dtype=torch.float64)


def portable(folder: Path, model: nn.Module, **card: Any) -> Path:
    path = folder / "m.safetensors"
    content = {"architecture": describe(model), "elements": [1, 6, 8], "units": UNITS, **card}
    save_portable(path, network_state(model), content, offsets_of(model))
    return path


def results(path: Path, dtype: str = "float64") -> tuple[float, np.ndarray]:
    atoms = molecule("CH3OH")
    atoms.calc = TPaiNNCalculator(path, dtype=dtype, device="cpu")
    return atoms.get_potential_energy(), atoms.get_forces()


@pytest.fixture
def model() -> Any:
    model = build("tpainn")
    model.postprocessors[0].set_offsets(OFFSETS)
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_comes_back(tmp_path: Path, kind: str, dtype: str) -> None:
    model = build(kind)
    model.postprocessors[0].set_offsets(OFFSETS)
    torch.save(model, tmp_path / "best_model")
    path = portable(tmp_path, model, model_config=model_config(kind))
    energy, forces = results(tmp_path / "best_model", dtype)
    again = results(path, dtype)
    assert again[0] == pytest.approx(energy, abs=1e-9)
    assert energy == pytest.approx(float(OFFSETS[[1, 1, 1, 1, 6, 8]].sum()), abs=100)
    assert again[1] == pytest.approx(forces, abs=1e-9)
    assert np.abs(forces).max() > 1e-3


def test_offsets_are_exact_and_apart_from_the_weights(tmp_path: Path, model: Any) -> None:
    path = portable(tmp_path, model)
    read = load_pretrained(path)
    assert read.offsets["energy"].dtype == torch.float64
    assert torch.equal(read.offsets["energy"], model.postprocessors[0].offsets())
    assert read.state.keys() == network_state(model).keys()
    assert load_file(path).keys() - read.state.keys() == {"offsets/energy"}


def test_others_can_read_the_file_if_the_umask_lets_them(tmp_path: Path, model: Any) -> None:
    (tmp_path / "other").touch()
    mode = stat.S_IMODE(portable(tmp_path, model).stat().st_mode)
    assert mode == stat.S_IMODE((tmp_path / "other").stat().st_mode)
    assert not list(tmp_path.glob(".*"))


def test_weights_keep_their_precision(tmp_path: Path) -> None:
    model = build("tpainn").double()
    read = load_pretrained(portable(tmp_path, model, model_config=model_config("tpainn")))
    rebuilt = build_model(read)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), rebuilt.parameters(), strict=True)
    )
    assert next(rebuilt.parameters()).dtype == torch.float64


def test_shared_interactions_stay_shared(tmp_path: Path) -> None:
    config = model_config("painn", shared_interactions=True)
    rebuilt = build_model(
        load_pretrained(portable(tmp_path, instantiate(config), model_config=config))
    )
    assert rebuilt.representation.interactions[0] is rebuilt.representation.interactions[1]


def test_the_card_is_complete(tmp_path: Path, model: Any) -> None:
    data = data_module(make_labels(tmp_path))
    data.setup()
    data.dataset.update_metadata(calculator={"_target_": "ase.calculators.emt.EMT"})
    card = make_card(model, model_config("tpainn"), data)
    assert card["format"] == FORMAT
    assert card["architecture"]["irreps"] == "8x0e+8x1o"
    assert (card["elements"], card["units"]) == ([1, 6, 8], UNITS)
    assert card["level_of_theory"] == {"_target_": "ase.calculators.emt.EMT"}
    assert card["data"]["path"] == str((tmp_path / "labels.db").resolve())
    assert card["versions"]["schnetpack"]
    rebuilt = build_model(load_pretrained(portable(tmp_path, model, **card)))
    assert rebuilt.metadata == card
    assert not rebuilt.training


@pytest.mark.parametrize("is_extensive", [True, False])
def test_schnetpacks_offsets_are_taken_over(tmp_path: Path, is_extensive: bool) -> None:
    config = model_config("schnet")
    config["postprocessors"] = [
        {"_target_": "schnetpack.transform.CastTo64"},
        {
            "_target_": "schnetpack.transform.AddOffsets",
            "property": "energy",
            "add_mean": True,
            "add_atomrefs": True,
            "is_extensive": is_extensive,
        },
    ]
    model = instantiate(config)
    adder = next(m for m in model.postprocessors if isinstance(m, AddOffsets))
    adder.atomref, adder.mean = OFFSETS.clone(), torch.tensor(-3.25)
    torch.save(model, tmp_path / "best_model")
    path = portable(tmp_path, model, model_config=config)
    if is_extensive:
        assert results(path)[0] == pytest.approx(results(tmp_path / "best_model")[0], abs=1e-6)
    else:  # no sum over atoms: must not be lost silently
        with pytest.raises(CheckpointError, match=r"differences in postprocessors\.1\.atomref"):
            results(path)


def test_an_activation_function_may_be_named(tmp_path: Path) -> None:
    silu = {"_target_": "torch.nn.functional.silu", "_partial_": True}
    config = model_config("painn", activation=silu)
    assert build_model(
        load_pretrained(portable(tmp_path, instantiate(config), model_config=config))
    )


@pytest.mark.parametrize(
    "target",
    [
        "os.mkdir",
        "builtins.exec",
        "schnetpack.representation.painn.torch.load",
        "schnetpack.utils.load_model",
        "pathlib.Path",
        "not_installed.Model",
    ],
)
def test_a_card_cannot_run_code(tmp_path: Path, model: Any, target: str) -> None:
    config = model_config("tpainn")
    config["output_modules"].append({"_target_": target, "path": str(tmp_path / "made")})
    read = load_pretrained(portable(tmp_path, model, model_config=config))
    with pytest.raises(CheckpointError, match=f"wants to call {target}, expected classes of"):
        build_model(read)
    assert not (tmp_path / "made").exists()


def test_why_a_module_cannot_be_had_is_told(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_engine.py").write_text("raise RuntimeError('libengine.so is not there')")
    monkeypatch.syspath_prepend(tmp_path)
    config = model_config("tpainn")
    config["output_modules"].append({"_target_": "broken_engine.Model"})
    read = load_pretrained(portable(tmp_path, model, model_config=config))
    with pytest.raises(CheckpointError, match=r"(?s)install the package .*libengine\.so is not"):
        build_model(read)


def test_a_card_cannot_hide_code_in_text(tmp_path: Path, model: Any) -> None:
    made = tmp_path / "made"
    config = model_config("tpainn")
    node = f"{{_target_: os.mkdir, path: {made}}}"
    config["representation"]["activation"] = f"${{oc.create:'{node}'}}"
    read = load_pretrained(portable(tmp_path, model, model_config=config))
    with pytest.raises(CheckpointError, match=r"interpolation .* expected plain values"):
        build_model(read)
    assert not made.exists()


def changed(what: str) -> tuple[Any, Any, Any]:
    """Configuration, weights and offsets that do not belong together."""
    model, config = build("tpainn"), model_config("tpainn")
    state, offsets = network_state(model), offsets_of(model)
    if what == "config":
        config = None
    elif what == "offsets":
        offsets = {}
    elif what == "missing":
        del state["representation.embedding.weight"]
    elif what == "left":
        state["extra"] = torch.zeros(1)
    elif what == "shape":
        state["representation.embedding.weight"] = torch.zeros(3, 3)
    else:
        config["representation"]["n_atom_basis"] = "many"
    return config, state, offsets


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("config", "does not say how its model is built"),
        ("offsets", r"differences in postprocessors\.0\.split"),
        ("missing", "differences in representation.embedding.weight"),
        ("left", "differences in extra"),
        ("shape", "cannot be built: .*size mismatch"),
        ("arguments", "cannot be built"),
    ],
)
def test_what_does_not_fit_is_not_built(what: str, message: str) -> None:
    config, state, offsets = changed(what)
    source = Pretrained(Path("x"), state, {"model_config": config}, offsets)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        build_model(source)


def test_a_portable_file_that_cannot_be_built_is_no_potential(tmp_path: Path, model: Any) -> None:
    with pytest.raises(CheckpointError, match="does not say how its model is built"):
        TPaiNNCalculator(portable(tmp_path, model))
    (tmp_path / "m.safetensors").write_bytes(b"no such thing")
    with pytest.raises(CheckpointError, match="damaged"):
        TPaiNNCalculator(tmp_path / "m.safetensors")


def test_the_configuration_is_left_as_it_is(model: Any) -> None:
    config = model_config("tpainn")
    before = copy.deepcopy(config)
    build_model(
        Pretrained(Path("x"), network_state(model), {"model_config": config}, offsets_of(model))
    )
    assert config == before
