"""Is a teacher useful? Real small networks, taught right and wrong, before the shipped labels."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.units import Hartree, kcal, kJ, mol
from hydra.utils import instantiate

from schnetpack_tpainn.data.store import labelled, write_database
from schnetpack_tpainn.transfer.align import scale_head
from schnetpack_tpainn.transfer.context import Context
from schnetpack_tpainn.transfer.coverage import unknown
from schnetpack_tpainn.transfer.diagnose import diagnose, lines, tables
from schnetpack_tpainn.transfer.evaluate import Predictions
from schnetpack_tpainn.transfer.strategies import Autotune
from tests import teachers

pytestmark = pytest.mark.filterwarnings("ignore")
PUBLISHED = Path(__file__).resolve().parents[4] / "shared" / "data" / "ethanol_rmd17_train.extxyz"
NO_FRAMES = unknown("nobody asked")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture(scope="module")
def frames() -> list[Atoms]:
    return teachers.pretraining_frames()


@pytest.fixture(scope="module")
def right(place: Path, frames: list[Atoms]) -> Any:
    return teachers.teach(frames, place / "right.db")


@pytest.fixture(scope="module")
def shuffled(place: Path, frames: list[Atoms]) -> Any:
    return teachers.teach(teachers.shuffled(frames), place / "shuffled.db")


@pytest.fixture(scope="module")
def ethanol(place: Path) -> Any:
    return teachers.ethanol(place)


Judge = Callable[..., dict[str, Any]]


@pytest.fixture
def judge(ethanol: Any, place: Path, tmp_path: Path) -> Judge:
    """The diagnosis in an autotuning run that starts from a network."""

    def run(teacher: Any, factor: float = 1.0, labels: Any = ethanol, **settings: Any) -> Any:
        scale_head(teacher, "energy", factor)
        checkpoint = teachers.save(teacher, tmp_path, place / "right.db")
        scale_head(teacher, "energy", 1 / factor)
        model = instantiate(teachers.model_config())
        model.initialize_transforms(labels)
        strategy = Autotune(checkpoint=str(checkpoint), **settings)
        strategy.prepare(model)
        return strategy.apply(Context(model, labels, "energy", "forces")).diagnosis

    return run


def test_a_good_teacher_is_useful(
    right: Any, judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = judge(right)
    assert found["verdict"] == "useful"
    assert found["n_frames"] == 10
    assert found["forces"]["cosine"] > 0.85
    assert found["forces"]["mae_mev_per_ang"] < found["forces"]["zero_mae_mev_per_ang"] / 2
    assert found["energy"]["mae_mev"] < found["energy"]["composition_mae_mev"] / 2
    assert found["coverage"]["outside"] < 0.3
    assert {e: g["n_atoms"] for e, g in found["by_element"].items()} == {"H": 60, "C": 20, "O": 10}
    assert "--trial" in found["reasons"][-1]
    said = [r for r in caplog.records if "teacher: useful, by 10 training labels" in r.message]
    assert [r.levelname for r in said] == ["INFO"]
    json.dumps(found, allow_nan=False)


@pytest.mark.data
@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published data are not at hand")
def test_a_good_teacher_is_useful_for_published_labels(
    right: Any, judge: Judge, tmp_path: Path
) -> None:
    frames = [
        labelled(frame, frame.get_potential_energy(), frame.get_forces())
        for frame in ase.io.read(PUBLISHED, index="::25")
    ]
    write_database(tmp_path / "rmd17.db", frames, {})
    labels = teachers.data_module(tmp_path / "rmd17.db", num_train=10, num_val=5, num_test=5)
    found = judge(right, labels=labels)
    assert found["verdict"] == "useful"
    assert found["coverage"]["outside"] < 0.5


def hurts(found: dict[str, Any], caplog: pytest.LogCaptureFixture) -> str:
    """The teacher must be condemned, aloud; the first reason."""
    assert found["verdict"] == "likely to hurt"
    said = [r for r in caplog.records if "teacher: likely to hurt" in r.message]
    assert [r.levelname for r in said] == ["WARNING"]
    assert found["reasons"][0] in said[0].message
    return found["reasons"][0]


def test_shuffled_labels(shuffled: Any, judge: Judge, caplog: pytest.LogCaptureFixture) -> None:
    assert "little to do with the DFT forces" in hurts(judge(shuffled), caplog)


def test_flipped_forces(right: Any, judge: Judge, caplog: pytest.LogCaptureFixture) -> None:
    reason = hurts(judge(right, -1.0), caplog)
    assert "against the DFT forces" in reason
    assert "wrong sign" in reason


@pytest.mark.parametrize(
    ("in_ev", "unit"), [(kcal / mol, "kcal/mol"), (kJ / mol, "kJ/mol"), (Hartree, "Hartree")]
)
def test_units_of_the_pretraining(
    right: Any, judge: Judge, caplog: pytest.LogCaptureFixture, in_ev: float, unit: str
) -> None:
    reason = hurts(judge(right, 1 / in_ev), caplog)
    assert f"as if the pretraining labels were in {unit}" in reason


def test_a_head_that_is_new_tells_nothing(right: Any, judge: Judge) -> None:
    found = judge(right, head="reset")
    assert found["verdict"] == "not judged"
    assert found["reasons"][0] == "parts of it were reinitialised"
    assert found["coverage"]["outside"] < 0.3
    assert lines(found)[0] == "teacher: not judged, by 10 training labels"


def predictions(composition: list[list[int]], noise: float = 0.2, seed: int = 0) -> Predictions:
    """A teacher of H and C that is right but for some noise."""
    rng = np.random.default_rng(seed)
    counts = torch.zeros(len(composition), 100, dtype=torch.float64)
    counts[:, [1, 6]] = torch.tensor(composition, dtype=torch.float64)
    numbers = torch.cat([torch.tensor([1] * h + [6] * c) for h, c in composition])
    energy = torch.from_numpy(rng.normal(size=len(counts)))
    forces = torch.from_numpy(rng.normal(size=(len(numbers), 3)))
    off = torch.from_numpy(rng.normal(size=forces.shape)) * noise
    shift = counts[:, [1, 6]] @ torch.tensor([-3.0, 12.5], dtype=torch.float64)
    return Predictions(energy, energy + shift, forces, forces + off, counts, numbers)


MIXED = [[4, 1], [6, 2], [8, 3], [2, 2], [4, 2], [2, 1]]


def test_the_numbers() -> None:
    p = predictions(MIXED)
    aligned = replace(p, forces=1.1 * p.forces, energy=p.energy_label + 0.02)
    found = diagnose(p, aligned, 1.1, NO_FRAMES).plain()
    f, label = p.forces.numpy(), p.forces_label.numpy()
    size = np.linalg.norm(label, axis=1)
    cosines = (f * label).sum(1) / np.linalg.norm(f, axis=1) / size
    error = np.abs(1.1 * f - label) * 1e3
    forces = found["forces"]
    assert forces["cosine"] == pytest.approx(np.average(cosines, weights=size))
    assert forces["correlation"] == pytest.approx(np.corrcoef(f.ravel(), label.ravel())[0, 1])
    assert forces["slope"] == pytest.approx(
        np.linalg.lstsq(f.reshape(-1, 1), label.ravel(), rcond=None)[0][0]
    )
    assert forces["ratio"] == pytest.approx(np.sqrt((label**2).mean() / (f**2).mean()))
    assert forces["mae_mev_per_ang"] == pytest.approx(error.mean())
    assert forces["zero_mae_mev_per_ang"] == pytest.approx(np.abs(label).mean() * 1e3)
    carbon = (p.numbers == 6).numpy()
    assert found["by_element"]["C"]["n_atoms"] == 11
    assert found["by_element"]["C"]["mae_mev_per_ang"] == pytest.approx(error[carbon].mean())
    first = found["by_magnitude"][0]
    assert first["up_to_ev_per_ang"] == pytest.approx(np.quantile(size, 0.25))
    weakest = size <= first["up_to_ev_per_ang"]
    assert first["mae_mev_per_ang"] == pytest.approx(error[weakest].mean())
    assert sum(g["n_atoms"] for g in found["by_magnitude"]) == len(f)
    assert found["energy"]["mae_mev"] == pytest.approx(20.0)
    assert found["scale"] == 1.1


def test_offsets_take_no_part_in_the_energies_correlation() -> None:
    p = predictions(MIXED)
    found = diagnose(p, p, 1.0, NO_FRAMES)
    assert found.energy["correlation"] == pytest.approx(1.0)
    assert found.energy["freedom"] == 4
    assert found.energy["composition_mae_mev"] > 0


@pytest.mark.parametrize("n_frames", [1, 2])
def test_with_few_frames_energies_have_no_correlation(n_frames: int) -> None:
    p = predictions([[4, 1]] * n_frames)
    found = diagnose(p, p, 1.0, NO_FRAMES).plain()
    assert found["energy"]["correlation"] is None
    assert found["energy"]["composition_mae_mev"] is None
    assert found["verdict"] == "useful"
    assert any(line.startswith("  energies: MAE") for line in lines(found))
    three = predictions([[4, 1]] * 3)
    assert diagnose(three, three, 1.0, NO_FRAMES).energy["correlation"] == pytest.approx(1.0)


def doubtful(p: Predictions, coverage: dict[str, Any] = NO_FRAMES) -> str:
    found = diagnose(p, p, 1.0, coverage)
    assert found.verdict == "doubtful"
    assert len(found.reasons) == 2
    return found.reasons[0]


def test_doubts() -> None:
    p = predictions([[8, 1]] * 40)
    assert diagnose(p, p, 1.0, NO_FRAMES).verdict == "useful"
    far = {"outside": 0.8, "why": None, "elements": {}}
    assert "80% of the labelled atoms lie outside" in doubtful(p, far)
    assert "no unit explains" in doubtful(replace(p, forces=p.forces / 6))
    assert "follow the DFT forces loosely" in doubtful(predictions([[8, 1]] * 40, noise=1.5))
    elsewhere = replace(p, energy=p.energy.roll(7))
    assert "energies do not follow" in doubtful(elsewhere)
    wrong = p.forces.clone()
    wrong[p.numbers == 6] *= -1
    assert "forces on C (-0.9" in doubtful(replace(p, forces=wrong))


def test_units_of_the_labels() -> None:
    p = predictions([[4, 1]] * 5)
    reason = diagnose(p, replace(p), 23.0, NO_FRAMES).reasons
    assert "units" not in reason[0]
    found = diagnose(replace(p, forces=p.forces * kcal / mol), p, 23.0, NO_FRAMES)
    assert found.verdict == "likely to hurt"
    assert "the DFT labels were in kcal/mol" in found.reasons[0]


def test_labels_without_forces_tell_nothing() -> None:
    p = predictions([[4, 1]] * 3)
    at_rest = replace(p, forces_label=torch.zeros_like(p.forces))
    found = diagnose(at_rest, at_rest, 1.0, NO_FRAMES)
    assert (found.verdict, found.reasons[0]) == (
        "not judged",
        "the labelled forces are all but zero",
    )
    json.dumps(found.plain(), allow_nan=False)


def test_tables_have_a_row_for_each_element_and_quarter() -> None:
    p = predictions(MIXED)
    covered = {"H": {"outside": 0.25}, "C": {"outside": 1.0}}
    found = diagnose(p, p, 1.0, {"outside": 0.4, "why": None, "elements": covered})
    elements, sizes = tables(found.plain())
    assert [(row[0], row[-1]) for row in elements[2]] == [("H", "25%"), ("C", "100%")]
    assert len(sizes[2]) == 4
    for _, columns, rows in (elements, sizes):
        assert {len(row) for row in rows} == {len(columns)}
