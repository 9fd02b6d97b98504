"""Draws from the training labels: reproducible, and of training labels alone."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT

from schnetpack_tpainn.data import TPaiNNDataModule
from schnetpack_tpainn.data.label import compute_label
from schnetpack_tpainn.data.offsets import fit_offsets
from schnetpack_tpainn.data.resample import Bootstrap, Resampling, Subsample
from schnetpack_tpainn.data.store import write_database
from schnetpack_tpainn.errors import DataError
from tests.fits import N_TRAIN, data_module, make_labels

LABELS = [5, 3, 9, 12, 40, 7, 8, 1]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labels(tmp_path_factory.mktemp("labels"))


def test_a_bootstrap_draws_with_replacement() -> None:
    draws = [Bootstrap(seed)(LABELS) for seed in range(200)]
    assert all(len(draw) == len(LABELS) and set(draw) <= set(LABELS) for draw in draws)
    share = np.mean([len(set(draw)) / len(LABELS) for draw in draws])
    assert share == pytest.approx(1 - (1 - 1 / 8) ** 8, abs=0.02)
    assert Bootstrap(3)(LABELS) == draws[3] != draws[4]


def test_a_subsample_has_each_label_once() -> None:
    draws = [Subsample(0.75, seed)(LABELS) for seed in range(50)]
    assert all(len(draw) == len(set(draw)) == 6 and set(draw) < set(LABELS) for draw in draws)
    assert {i for draw in draws for i in draw} == set(LABELS)
    assert Subsample(0.75, 3)(LABELS) == draws[3] != draws[4]
    assert len(Subsample(0.01)(LABELS)) == 1


@pytest.mark.parametrize("fraction", [0, -0.5, 1.2, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match=f"fraction above 0, up to 1, got {fraction}"):
        Subsample(fraction)


@pytest.mark.parametrize("resampling", [Bootstrap(1), Subsample(0.5, 1)])
def test_a_run_draws_from_its_training_labels_alone(labels: Path, resampling: Resampling) -> None:
    plain, drawn = data_module(labels), data_module(labels)
    drawn.resampling = resampling
    for module in (plain, drawn):
        module.prepare_data()
        module.setup()
    assert drawn.train_idx == resampling(plain.train_idx)
    assert set(drawn.train_idx) < set(plain.train_idx)
    assert (drawn.val_idx, drawn.test_idx) == (plain.val_idx, plain.test_idx)
    drawn.setup()  # again, as Lightning does
    assert drawn.train_idx == resampling(plain.train_idx)


def test_a_label_drawn_twice_counts_twice(labels: Path) -> None:
    module = data_module(labels)
    module.resampling = Bootstrap(1)
    module.prepare_data()
    module.setup()
    assert len(set(module.train_idx)) < len(module.train_idx) == N_TRAIN
    assert module._frames is not None
    index = np.array(module.train_idx)
    expected = fit_offsets(module._frames.counts[index], module._frames.energies[index], "energy")
    np.testing.assert_allclose(module.get_atomrefs("energy", True)["energy"], expected)
    batch = next(iter(module.train_dataloader()))
    assert len(batch["energy"]) == N_TRAIN
    counts = np.unique(batch["energy"].numpy().round(5), return_counts=True)[1]
    assert sorted(counts) == sorted(np.unique(index, return_counts=True)[1])


def test_a_rare_element_that_is_not_drawn_stays_an_element_of_the_run(tmp_path: Path) -> None:
    frames = [molecule(name) for name in [*["CH4"] * 9, "CH3OH"]]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    labelled = [compute_label(atoms, EMT()) for atoms in frames]
    path = write_database(tmp_path / "rare.db", labelled, {})
    split = {"train_idx": [9, 0, 1, 2, 3], "val_idx": [4, 5], "test_idx": [6, 7, 8]}
    np.savez(tmp_path / "split.npz", **split)
    module = TPaiNNDataModule(
        str(path), 2, num_train=5, num_val=2, num_test=3, split_file=str(tmp_path / "split.npz")
    )
    module.resampling = Subsample(0.4, 0)
    module.setup()
    assert 9 not in module.train_idx
    assert module.elements() == [1, 6, 8]
