"""Low-rank adapters: they begin with the pretrained function, and leave plain models behind."""

import copy
import io
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule
from schnetpack.interfaces import SpkCalculator
from schnetpack.nn import Dense
from schnetpack.transform import MatScipyNeighborList

from schnetpack_tpainn import testing
from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.lora import Lora, merged
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from schnetpack_tpainn.transfer.task import TransferTask
from tests.fits import CUTOFF, KINDS, Fit, build, fit, make_task, strategy

pytestmark = pytest.mark.filterwarnings("ignore")

ATOMS = molecule("CH3OH")


def inputs(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return testing.batch([ATOMS], CUTOFF, dtype)


def spread(model: Any) -> Any:
    """The model in evaluation, its adapters far from where they began."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def energy_and_forces(model: Any, dtype: torch.dtype = torch.float32) -> tuple[float, Any]:
    results = model.eval()(inputs(dtype))
    return results["energy"].item(), results["forces"].detach().numpy()


@pytest.mark.parametrize("kind", [*KINDS, "shared"])
def test_adapters_start_at_the_pretrained_function_and_merge_into_a_plain_model(kind: str) -> None:
    changes = {"shared_interactions": True} if kind == "shared" else {}
    model = build("tpainn" if kind == "shared" else kind, **changes)
    names = model.state_dict().keys()
    energy, forces = energy_and_forces(model)
    Lora(rank=2).attach(model)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-5)):
        same = energy_and_forces(model.to(dtype), dtype)
        assert same[0] == pytest.approx(energy, abs=tolerance)
        assert same[1] == pytest.approx(forces, abs=10 * tolerance)
    model = spread(model.float())
    energy, forces = energy_and_forces(model)
    file = io.BytesIO()
    torch.save(model, file)
    pickled = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    for plain in (merged(model), pickled):
        assert plain.state_dict().keys() == names
        assert not any("Parametrized" in type(m).__name__ for m in plain.modules())
        other = energy_and_forces(plain)
        assert other[0] == pytest.approx(energy, abs=1e-6)
        assert other[1] == pytest.approx(forces, abs=1e-5)
    copied = copy.deepcopy(model)
    assert copied.state_dict().keys() == model.state_dict().keys() != names
    spread(copied)  # a copy shares nothing with what it was made from
    assert energy_and_forces(model)[0] == energy
    assert energy_and_forces(copied)[0] != pytest.approx(energy, abs=1e-4)
    double = merged(model.double())
    assert energy_and_forces(double, torch.float64)[0] == pytest.approx(energy, abs=1e-4)
    assert {p.dtype for p in double.parameters()} == {torch.float64}


def test_a_run_starts_at_the_pretrained_function(fitted: Callable[..., Fit]) -> None:
    records = [fitted("tpainn", name).task.record for name in ("full", "lora")]
    for stage in ("copied", "aligned", "validation"):
        for key, value in records[0].zero_shot[stage].items():
            assert records[1].zero_shot[stage][key] == pytest.approx(value, rel=1e-6), (stage, key)
    blocks = records[1].blocks
    assert blocks["head"]["adapter"] == blocks["head"]["trained"] > 0
    assert blocks["head"]["frozen"] == blocks["head"]["copied"] > 0
    assert blocks["embedding"]["adapter"] == 0


def test_the_best_model_is_plain_and_the_same(fitted: Callable[..., Fit], tmp_path: Path) -> None:
    run = fitted("tpainn", "lora")
    task = TransferTask.load_from_checkpoint(run.checkpoint)  # as SchNetPack does at the end
    task.save_model(str(tmp_path / "best_model"), do_postprocessing=True)
    torch.save(task, tmp_path / "best_model.task")
    task.model.do_postprocessing = True
    energy, forces = energy_and_forces(task.model)
    assert task.model.representation.backend_used == "numba"
    assert any(n.endswith(".up") and p.any() for n, p in task.model.named_parameters())

    calculator = SpkCalculator(
        str(tmp_path / "best_model"), MatScipyNeighborList(cutoff=CUTOFF), energy_unit="eV"
    )
    atoms = ATOMS.copy()
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-6)
    assert atoms.get_forces() == pytest.approx(forces, abs=1e-5)
    best = torch.load(tmp_path / "best_model", weights_only=False)
    assert {type(m) for m in best.modules() if isinstance(m, torch.nn.Linear)} == {Dense}
    deploy = runpy.run_path(str(Path(sys.executable).with_name("spkdeploy")))["get_jit_model"]
    deployed = deploy(best)(calculator.converter(atoms))
    assert deployed["energy"].item() == pytest.approx(energy, abs=1e-5)

    whole = torch.load(tmp_path / "best_model.task", weights_only=False)
    assert energy_and_forces(whole.model)[0] == pytest.approx(energy, abs=1e-6)
    assert isinstance(whole.strategy.tuning.lora, Lora)
    with pytest.raises(TransferError, match="got one in which they are merged"):
        whole.factors()  # would train the merged weights


def test_a_checkpoint_with_adapters_is_read_as_a_plain_model(
    fitted: Callable[..., Fit], place: Path, labels: Path
) -> None:
    run = fitted("tpainn", "lora")
    read, model = load_pretrained(run.checkpoint).state, run.task.model
    state = network_state(model)
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=1e-7)
    again = fit(
        place / "again", labels, make_task("tpainn", strategy("full", run.checkpoint)), 1, 1
    )
    start = again.watch.weights[0]
    for name in start:
        if name.startswith("representation."):
            assert torch.equal(start[name], read[name])


def test_adapters_run_on_the_fused_kernel(
    place: Path,
    labels: Path,
    pretrained: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = make_task("tpainn", strategy("lora", pretrained("tpainn")))
    fit(place / "fused", labels, task, 2)
    assert task.model.representation.backend_used == "numba"
    assert "plain torch" not in caplog.text
    plain = make_task("tpainn", strategy("lora", pretrained("tpainn")))
    plain.model.representation.backend = "torch"
    other = fit(place / "unfused", labels, plain, 2)
    assert plain.model.representation.backend_used == "torch"
    fused = dict(task.model.named_parameters())
    for name, tensor in other.watch.weights[-1].items():
        np.testing.assert_allclose(fused[name].detach(), tensor, atol=2e-3, err_msg=name)


@pytest.mark.slow
def test_compiled_steps_are_the_same() -> None:
    gradients = []
    for compiles in (False, True):
        model = build("tpainn", compiles=compiles, n_interactions=1)
        Lora(rank=2).attach(model)
        spread(model).train()
        results = model(inputs())
        assert model.representation.backend_used == ("numba, compiled" if compiles else "numba")
        (results["energy"].sum() + results["forces"].square().mean()).backward()
        named = model.named_parameters()
        gradients.append({name: p.grad for name, p in named if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient.any()
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)
