"""The choice of frames by tiny real models."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from pools import shaken

from schnetpack_tpainn.errors import CheckpointError, DataError, MDError, SelectionError
from schnetpack_tpainn.md import TPaiNNCalculator
from schnetpack_tpainn.selection.evaluate import disagreement, embed, open_models
from schnetpack_tpainn.selection.select import Selection, SelectionSettings, select
from schnetpack_tpainn.testing import batch
from schnetpack_tpainn.transfer.ensemble import ENSEMBLE_NAME, save_ensemble
from schnetpack_tpainn.transfer.formats import Pretrained
from schnetpack_tpainn.transfer.portable import save_portable
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from tests.fits import build

NEEDS = {"farthest": 1, "kmeans": 1, "committee": 3, "random": 0}


def choose(pool: list[Atoms], method: str, models: list[Path], n: int = 4, **more) -> Selection:
    known = {k: more.pop(k) for k in ("labelled", "excluded") if k in more}
    return select(pool, SelectionSettings(n, method, **more), models[: NEEDS[method]], **known)


def mixed() -> list[Atoms]:
    return [*shaken(5), molecule("H2O"), *shaken(2, "C2H6", first=9)]


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_disagreement_is_that_of_the_calculators(models: list[Path], reduce: str) -> None:
    frames = mixed()
    found = disagreement(open_models(models), frames, reduce, batch_size=3)
    for atoms, score in zip(frames, found, strict=True):
        forces = []
        for path in models:
            work = atoms.copy()
            work.calc = TPaiNNCalculator(path, device="cpu", dtype="float64")
            forces.append(work.get_forces())
        apart = np.array(forces) - np.mean(forces, axis=0)  # (K, N, 3)
        deviation = np.sqrt((apart**2).sum(2).mean(0))
        assert score == pytest.approx(getattr(deviation, reduce)(), rel=1e-6)


def test_a_committee_picks_the_frame_on_which_it_differs(tmp_path: Path) -> None:
    model = build("tpainn")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.representation.embedding.weight[7] += 0.5  # of nitrogen
    for name, content in (("a", model), ("b", other)):
        torch.save(content, tmp_path / name)
    pool = [*shaken(3), molecule("CH3CONH2"), *shaken(3, first=3)]
    found = select(pool, SelectionSettings(1, "committee"), [tmp_path / "a", tmp_path / "b"])
    assert found.index == [3]
    assert found.scores[0] > 0
    scores = disagreement(open_models([tmp_path / "a", tmp_path / "b"]), pool)
    assert np.flatnonzero(scores).tolist() == [3]


def test_features_are_means_and_spreads_by_element(models: list[Path]) -> None:
    frames = mixed()
    points = embed(*open_models(models[:1]), frames, batch_size=3)
    model = torch.load(models[0], weights_only=False).double()
    rows = []
    for atoms in frames:
        inputs = batch([atoms], 4.0)
        for module in (*model.input_modules, model.representation):
            inputs = module(inputs)
        x = inputs["scalar_representation"].detach().numpy()
        parts = [x[atoms.numbers == z] for z in (1, 6, 8)]
        empty = np.zeros((1, x.shape[1]))
        parts = [part if len(part) else empty for part in parts]
        rows.append(np.concatenate([f(part, 0) for part in parts for f in (np.mean, np.std)]))
    raw = np.array(rows) - np.mean(rows, 0)
    width = raw.std(0)
    tells = width > 1e-6 * width.max()
    raw[:, tells] /= width[tells]
    raw[:, ~tells] = 0.0  # one oxygen has no spread
    assert 0 < tells.sum() < len(tells)
    assert points == pytest.approx(raw / np.sqrt(tells.sum()), abs=1e-8)
    assert (points**2).sum(1).mean() == pytest.approx(1.0)


def test_an_ensemble_counts_as_its_members(tmp_path: Path, checkpoint: Path) -> None:
    first = load_pretrained(checkpoint)
    weights = {name: 1.1 * tensor for name, tensor in first.state.items()}
    members = [first, Pretrained(first.source, weights, first.card, first.offsets)]
    save_ensemble(tmp_path / ENSEMBLE_NAME, members, None)
    save_portable(tmp_path / "b.safetensors", weights, first.card, first.offsets)
    pool = shaken(6)
    two = [checkpoint, tmp_path / "b.safetensors"]
    apart = select(pool, SelectionSettings(3, "committee"), two)
    for path in (tmp_path, tmp_path / ENSEMBLE_NAME):
        found = select(pool, SelectionSettings(3, "committee"), [path])
        assert (found.index, found.scores) == (apart.index, apart.scores)
    with pytest.raises(SelectionError, match="expected 1 model for method kmeans"):
        select(pool, SelectionSettings(1), [tmp_path])


@pytest.mark.parametrize("method", NEEDS)
def test_the_same_choice_again_in_other_batches_and_as_a_prefix(
    models: list[Path], method: str
) -> None:
    pool = shaken(20)
    first = choose(pool, method, models, n=6, seed=3)
    again = choose(pool, method, models, n=6, seed=3, batch_size=7)
    assert first.index == again.index
    assert len(set(first.index)) == 6
    if method != "kmeans":
        assert choose(pool, method, models, n=3, seed=3).index == first.index[:3]
    if method == "random":
        assert choose(pool, method, models, n=6, seed=4).index != first.index


@pytest.mark.parametrize("method", NEEDS)
def test_labelled_excluded_and_repeated_frames_are_never_chosen(
    models: list[Path], method: str
) -> None:
    pool = shaken(12)
    pool += [pool[0].copy(), pool[11].copy()]
    found = choose(pool, method, models, n=8, labelled=pool[2:4], excluded=pool[5:7])
    assert sorted(found.index) == [0, 1, 4, 7, 8, 9, 10, 11]
    with pytest.raises(SelectionError, match="expected 9 frames, got 8 of 14 frames to choose"):
        choose(pool, method, models, n=9, labelled=pool[2:4], excluded=pool[5:7])


@pytest.mark.parametrize("method", ["farthest", "kmeans"])
def test_labelled_frames_are_kept_away_from(models: list[Path], method: str) -> None:
    pool = [*shaken(6), *shaken(2, "C2H6")]
    known = shaken(1, first=20)
    assert set(choose(pool, method, models, n=1, labelled=known).index) <= {6, 7}
    ethane = shaken(1, "C2H6", first=20)
    assert set(choose(pool, method, models, n=1, labelled=ethane).index) <= set(range(6))


@pytest.mark.parametrize("method", NEEDS)
def test_labels_are_never_read(models: list[Path], method: str) -> None:
    pool = shaken(10)
    plain = choose(pool, method, models, labelled=pool[:2], excluded=pool[2:4])
    for atoms in pool:
        atoms.calc = EMT()
        atoms.get_potential_energy()
        atoms.info["dft_energy"] = 1e6
    pool[5].calc.results["forces"][:] = np.nan
    found = choose(pool, method, models, labelled=pool[:2], excluded=pool[2:4])
    assert (found.index, found.scores) == (plain.index, plain.scores)
    for place, score, atoms in zip(found.index, found.scores, found.frames, strict=True):
        assert atoms.calc is None
        assert atoms.info["pool_index"] == place
        assert atoms.info["selection_method"] == method
        assert atoms.info.get("selection_score") == score
        assert np.array_equal(atoms.positions, pool[place].positions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "best"}, "expected a method of committee, farthest, kmeans, random, got 'bes"),
        ({"n": 0}, "expected one frame or more to choose"),
        ({"batch_size": 0}, "expected one frame or more"),
        ({"reduce": "sum"}, "expected to reduce by max or mean, got 'sum'"),
        ({"tolerance_ang": float("nan")}, "expected a tolerance of 0 Å or more, got nan"),
    ],
)
def test_settings_out_of_range(settings: dict, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        SelectionSettings(**{"n": 1, **settings})


@pytest.mark.parametrize(
    ("method", "n_models", "message"),
    [
        ("committee", 1, "expected two models or more for method committee, .* got 1; give"),
        ("committee", 0, "got 0"),
        ("farthest", 0, "expected 1 model for method farthest, .* got 0"),
        ("kmeans", 2, "expected 1 model for method kmeans, .* got 2"),
    ],
)
def test_a_wrong_number_of_models(
    models: list[Path], method: str, n_models: int, message: str
) -> None:
    with pytest.raises(SelectionError, match=message):
        select(shaken(3), SelectionSettings(1, method), models[:n_models])


def test_models_that_cannot_be_used(models: list[Path], knowing: Path, tmp_path: Path) -> None:
    pool = shaken(3)
    with pytest.raises(SelectionError, match="copies of one"):
        select(pool, SelectionSettings(1, "committee"), [models[0], models[0]])
    with pytest.raises(MDError, match=r"\(H, C, O\), got N too"):
        select([*pool, molecule("NH3")], SelectionSettings(1), [knowing])
    with pytest.raises(MDError, match="no such file"):
        select(pool, SelectionSettings(1), [tmp_path])
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="damaged"):
        select(pool, SelectionSettings(1), [tmp_path])
    sick = build("tpainn")
    with torch.no_grad():
        sick.representation.embedding.weight[:] = torch.nan
    torch.save(sick, tmp_path / "sick")
    with pytest.raises(SelectionError, match="expected finite features"):
        select(pool, SelectionSettings(1), [tmp_path / "sick"])
    with pytest.raises(SelectionError, match="expected finite forces, got others for frame 0"):
        select(pool, SelectionSettings(1, "committee"), [models[0], tmp_path / "sick"])


def test_a_damaged_pool_is_refused_before_a_model_is_opened(tmp_path: Path) -> None:
    pool = shaken(3)
    pool[1].positions[0] = np.inf
    with pytest.raises(DataError, match="frame 1 of the pool: expected finite positions"):
        select(pool, SelectionSettings(1), [tmp_path / "absent"])


def test_a_pool_of_one_frame(models: list[Path]) -> None:
    for method in NEEDS:
        assert choose(shaken(1), method, models, n=1).index == [0]
