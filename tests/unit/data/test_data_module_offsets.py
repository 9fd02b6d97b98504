"""The data module: exact offsets and statistics."""

import numpy as np
import pytest
import torch
from distorted import frames_of
from modules import module, ready, transforms
from schnetpack import properties
from schnetpack.data import AtomsDataModule
from schnetpack.transform import (
    AddOffsets,
    CastTo64,
    MatScipyNeighborList,
)

from schnetpack_tpainn.errors import DataError


def big_energies(n: int = 40) -> np.ndarray:
    return -29944.0 + np.random.default_rng(2).normal(scale=0.65, size=n)


@pytest.mark.parametrize("unit", ["eV", "kcal/mol"])
def test_offsets_of_one_composition_lose_nothing(database, unit: str) -> None:
    energies = big_energies()
    path = database(frames_of(40), energies=energies)
    datamodule = ready(
        path, property_units={"energy": unit}, transforms=transforms()[:-1], num_train=30
    )
    factor = datamodule.dataset.conversions["energy"]
    offsets = datamodule.get_atomrefs("energy", is_extensive=True)["energy"]
    assert offsets.dtype == torch.float64
    assert offsets.shape == (100,)
    add = AddOffsets("energy", add_atomrefs=True, estimate_atomref=True)
    add.datamodule(datamodule)
    mean = energies[datamodule.train_idx].mean()
    for batch in datamodule.test_dataloader():
        index = batch[properties.idx].numpy()
        np.testing.assert_allclose(
            batch["energy"].numpy(), (energies[index] - mean) * factor, atol=1e-7
        )
        back = add({**batch, "energy": batch["energy"].clone()})["energy"]
        np.testing.assert_allclose(back.numpy(), energies[index] * factor, rtol=1e-12)


def test_casting_after_the_offsets_keeps_nine_digits(database) -> None:
    energies = big_energies()
    datamodule = ready(database(frames_of(40), energies=energies), num_train=30)
    add = AddOffsets("energy", add_atomrefs=True, estimate_atomref=True)
    add.datamodule(datamodule)
    for batch in datamodule.train_dataloader():
        assert batch["energy"].dtype == torch.float32
        back = add(CastTo64()({**batch, "energy": batch["energy"].double()}))["energy"]
        np.testing.assert_allclose(back.numpy(), energies[batch[properties.idx]], rtol=1e-9)


def test_float32_labels_are_shifted_in_float64(database) -> None:
    energies = big_energies().astype(np.float32)
    datamodule = ready(
        database(frames_of(40), energies=energies), num_train=30, transforms=transforms()[:-1]
    )
    mean = energies[datamodule.train_idx].astype(float).mean()
    for i in range(5):
        sample = datamodule.train_dataset[i]
        exact = float(energies[sample[properties.idx].item()]) - mean
        assert sample["energy"].item() == pytest.approx(exact, abs=1e-7)


def test_offsets_come_from_the_training_frames_alone(database) -> None:
    energies = np.zeros(40)
    first = ready(database(frames_of(40), energies=energies), num_train=30)
    energies[first.test_idx] = 1e6
    second = ready(database(frames_of(40), energies=energies), num_train=30)
    assert second.get_atomrefs("energy", True)["energy"].abs().max() == 0


def test_intensive_offsets(database) -> None:
    frames = frames_of(40, ["CH3CH2OH", "H2O", "CH4", "CO2"])
    truth = np.zeros(100)
    truth[[1, 6, 8]] = 1.0, 2.0, 3.0
    energies = [truth[a.numbers].mean() for a in frames]
    datamodule = module(database(frames, energies=energies), num_train=30, transforms=None)
    datamodule.setup()
    offsets = datamodule.get_atomrefs("energy", is_extensive=False)["energy"]
    np.testing.assert_allclose(offsets.numpy(), truth, atol=1e-12)
    mean, std = datamodule.get_stats("energy", divide_by_atoms=False, remove_atomref=True)
    np.testing.assert_allclose([mean.item(), std.item()], 0, atol=1e-12)


def test_isolated_atom_energies_of_the_metadata(database) -> None:
    atomrefs = [0.0] * 100
    atomrefs[1], atomrefs[6], atomrefs[8] = -13.587654321987, -1029.123456789123, -2042.987654321
    energies = [
        sum(atomrefs[z] for z in a.numbers) - 33.0 - 0.1 * i for i, a in enumerate(frames_of(20))
    ]
    path = database(energies=energies, atomrefs={"energy": atomrefs})
    datamodule = ready(path, transforms=transforms(remove_atomrefs=True)[:-1])
    for i in range(10):
        sample = datamodule.train_dataset[i]
        expected = -33.0 - 0.1 * sample[properties.idx].item()
        assert sample["energy"].item() == pytest.approx(expected, abs=1e-9)
    stats = datamodule.get_stats("energy", divide_by_atoms=True, remove_atomref=True)
    left = (-33.0 - 0.1 * np.array(datamodule.train_idx)) / 9
    np.testing.assert_allclose([s.item() for s in stats], [left.mean(), left.std()], atol=1e-9)


@pytest.mark.parametrize("divide_by_atoms", [True, False])
def test_statistics_agree_with_schnetpack(database, divide_by_atoms: bool) -> None:
    frames = frames_of(20, ["CH3CH2OH", "H2O"])
    path = database(frames, energies=np.random.default_rng(0).normal(size=20))
    datamodule = ready(path, transforms=[MatScipyNeighborList(cutoff=5.0)])
    ours = datamodule.get_stats("energy", divide_by_atoms, remove_atomref=False)
    stock = AtomsDataModule.get_stats
    datamodule._stats.clear()
    theirs = stock(datamodule, "energy", divide_by_atoms, False)
    np.testing.assert_allclose(
        [s.item() for s in ours], [s.item() for s in theirs], rtol=1e-12, atol=1e-14
    )
    assert ours[0].dtype == torch.float64
    assert ours[0].shape == (1,)  # the shape of SchNetPack's buffers: checkpoints load


def test_mean_after_offsets(database) -> None:
    path = database(energies=np.linspace(-5, 5, 20))
    both = transforms(remove_atomrefs=True, estimate_atomref=True, remove_mean=True)
    datamodule = ready(path, transforms=both)
    total = sum(s["energy"].item() for s in (datamodule.train_dataset[i] for i in range(10)))
    assert total == pytest.approx(0, abs=1e-5)


def test_offsets_of_another_property_are_refused(database) -> None:
    with pytest.raises(DataError, match="got 'forces'"):
        ready(database()).get_atomrefs("forces", True)
    with pytest.raises(DataError, match="setup"):
        module("x.db").get_atomrefs("energy", True)
