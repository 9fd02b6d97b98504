"""The sample cache: batches as SchNetPack makes them, bounds, the file in a folder."""

import logging
import pickle
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from distorted import frames_of
from modules import module, ready, transforms
from schnetpack import properties
from schnetpack.data import AtomsLoader
from schnetpack.data.loader import _atoms_collate_fn
from schnetpack.transform import CastTo32, CollectAtomTriples, MatScipyNeighborList, Transform
from torch.utils.data import Subset

from schnetpack_tpainn.data.cache import SampleCache
from schnetpack_tpainn.data.dataset import collate
from schnetpack_tpainn.data.packed import ENTRY, PackedSamples, pack
from schnetpack_tpainn.errors import DataError

Sample = dict[str, torch.Tensor]


class AnyShape(Transform):
    """Adds keys of shapes and types that molecules have not by default."""

    is_preprocessor = True
    is_postprocessor = False

    def forward(self, inputs: Sample) -> Sample:
        n = len(inputs[properties.Z])
        inputs["tensor"] = torch.arange(n * 18.0).view(n, 3, 3, 2).transpose(1, 2)
        inputs["half"] = torch.arange(n, dtype=torch.bfloat16)[:, None]
        inputs["flag"] = inputs[properties.Z] == 1
        inputs["few"] = torch.zeros(n % 2, 2, dtype=torch.int16)
        return inputs


def equal(a: Sample, b: Sample) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype for k in a) and same(a, b)


def same(a: Sample, b: Sample) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def molecules(n: int = 20) -> list[Atoms]:
    """Ethanol, water and single atoms, which have no neighbours, in turn."""
    frames = frames_of(n, ["CH3CH2OH", "H2O"])
    for i in range(0, n, 5):
        frames[i] = Atoms("He")
    return frames


def plain(path: Path, **settings: Any) -> list[Sample]:
    """Training samples as they are without a cache."""
    data = ready(path, cache_gib=0, **settings).train_dataset
    return [data[i] for i in range(len(data))]


CHAINS = {
    "molecules": lambda: transforms(remove_mean=True),
    "triples": lambda: [MatScipyNeighborList(cutoff=3.0), CollectAtomTriples(), CastTo32()],
    "any shape": lambda: [MatScipyNeighborList(cutoff=3.0), AnyShape()],
    "no neighbour list": list,
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("where", [{}, {"cache_gib": 0, "cache_dir": "cache"}])
def test_batches_are_those_of_schnetpack(database, tmp_path: Path, chain: str, where) -> None:
    if "cache_dir" in where:
        where = where | {"cache_dir": str(tmp_path / "cache")}
    frames = frames_of(20, ["CH3CH2OH", "H2O"]) if chain == "triples" else molecules()
    path = database(frames)
    samples = plain(path, transforms=CHAINS[chain]())
    datamodule = ready(path, transforms=CHAINS[chain](), **where)
    data = datamodule.train_dataset
    for indices in ([3, 1, 4], [0], [7, 7], list(range(10))):
        expected = _atoms_collate_fn([samples[i] for i in indices])
        for _ in range(2):  # read, then from the cache
            assert equal(collate(data.__getitems__(indices)), expected)
            assert equal(_atoms_collate_fn(data.__getitems__(indices)), expected)
    assert len(datamodule.cache) == 10
    assert all(equal(data[i], samples[i]) for i in range(10))


def test_only_single_atoms(database) -> None:
    path = database([Atoms("He")] * 20)
    data = ready(path, transforms=CHAINS["molecules"]()).train_dataset
    data.fill(0)
    batch = collate(data.__getitems__([0, 1]))
    assert equal(batch, _atoms_collate_fn([data[0], data[1]]))
    assert batch[properties.idx_i].shape == (0,)
    assert batch[properties.offsets].shape == (0, 3)


def test_a_cached_batch_reads_no_database(database, monkeypatch) -> None:
    data = ready(database()).train_dataset
    data.fill(0)
    monkeypatch.setattr(data, "read", None)
    assert len(collate(data.__getitems__([0, 5]))[properties.Z]) == 18


def test_subsets_keep_to_their_frames(database) -> None:
    data = ready(database()).train_dataset
    data.fill(0)
    indices = [4, 2]
    expected = collate(data.__getitems__(indices))
    assert equal(collate(data.subset(indices).__getitems__([0, 1])), expected)
    assert equal(next(iter(AtomsLoader(Subset(data, indices), 2))), expected)
    assert equal(next(iter(AtomsLoader(Subset(data, indices), 2, collate_fn=collate))), expected)


def test_new_transforms_begin_anew(database) -> None:
    data = ready(database()).train_dataset
    before = data[0][properties.idx_i].numel()
    data.transforms = [MatScipyNeighborList(cutoff=2.0)]
    assert data[0][properties.idx_i].numel() < before


def test_samples_of_other_types_are_not_mixed_in() -> None:
    packed = PackedSamples(SampleCache(10**6), 4)
    sample = {"x": torch.ones(2, 3)}
    assert packed.put(0, pack(sample))
    assert not packed.put(1, pack({"x": torch.ones(2, 3).double()}))
    assert not packed.put(1, pack({"x": torch.ones(2, 4)}))
    assert not packed.put(1, pack({"y": torch.ones(2, 3)}))
    assert not PackedSamples(SampleCache(10**6), 4).put(0, pack({"x": torch.ones(2, 0)}))
    assert packed.put(3, pack({"x": torch.zeros(5, 3)}))
    assert packed.has([0, 1, 2, 3]).tolist() == [True, False, False, True]
    assert same(packed.get([0])[0], sample)


def test_the_bytes_are_counted(database) -> None:
    datamodule = ready(database())
    datamodule.train_dataset.fill(0)
    samples = [datamodule.train_dataset[i] for i in range(10)]
    size = sum(t.numel() * t.element_size() for s in samples for t in s.values())
    assert datamodule.cache.n_bytes == size + 10 * ENTRY
    assert datamodule.cache.n_file_bytes == 0


def test_what_exceeds_the_memory_goes_into_a_file_that_has_no_name(
    database, tmp_path: Path, caplog
) -> None:
    path, folder = database(), tmp_path / "deep" / "cache"
    samples = plain(path)
    one = len(pack(samples[0]).content) + ENTRY
    with caplog.at_level(logging.INFO):
        datamodule = ready(path, cache_gib=3.5 * one / 2**30, cache_dir=str(folder))
        datamodule.train_dataset.fill(0)
    assert caplog.text.count(f"go into a file in {folder}") == 1
    assert "full" not in caplog.text
    cache = datamodule.cache
    assert cache.n_bytes == 3 * one
    assert cache.n_file_bytes == 7 * (one - ENTRY)
    assert len(cache) == 10
    assert not list(folder.iterdir())
    expected = _atoms_collate_fn(samples)
    assert equal(collate(datamodule.train_dataset.__getitems__(range(10))), expected)
    datamodule.clear_cache()
    assert (len(cache), cache.n_bytes, cache.n_file_bytes) == (0, 0, 0)
    assert equal(collate(datamodule.train_dataset.__getitems__(range(10))), expected)


def test_a_full_disk_is_said_and_survived(database, tmp_path: Path, caplog) -> None:
    path = database()
    samples = plain(path)
    datamodule = ready(path, cache_gib=0, cache_dir=str(tmp_path))
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # the kernel writes what still fits, then refuses, as on a full disk
    room = int(3.5 * len(pack(samples[0]).content))
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        datamodule.train_dataset.fill(0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caplog.text.count("takes no more samples") == 1
    assert len(datamodule.cache) == 3
    for indices in (range(10), [0, 1], [3, 9]):
        batch = collate(datamodule.train_dataset.__getitems__(indices))
        assert equal(batch, _atoms_collate_fn([samples[i] for i in indices]))
    assert len(datamodule.cache) == 3


def test_a_folder_that_cannot_be(database, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    data = ready(database(), cache_gib=0, cache_dir=str(tmp_path / "file")).train_dataset
    with pytest.raises(DataError, match=r"written to as data\.cache_dir, got .*file"):
        data.fill(0)


def test_a_relative_folder_is_that_of_the_start(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    datamodule = module("x.db", cache_dir="cache")
    assert datamodule.cache.directory == tmp_path / "cache"


def test_a_copy_for_another_process_is_empty(database, tmp_path: Path) -> None:
    data = ready(database(), cache_gib=0, cache_dir=str(tmp_path / "cache")).train_dataset
    sample = data[0]
    packed = pickle.loads(pickle.dumps(data.packed))  # noqa: S301 - our own
    assert len(data.packed) == 1
    assert len(packed) == len(packed.cache) == 0
    packed.put(0, pack(sample))
    assert equal(packed.get([0])[0], sample)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_filling(database, tmp_path: Path, n_workers: int) -> None:
    path = database(frames_of(200))
    sizes = {"num_train": 180, "num_val": 10}
    full = ready(path, **sizes)
    full.train_dataset.fill(n_workers)
    assert len(full.cache) == 180
    samples = plain(path, **sizes)
    assert all(equal(full.train_dataset[i], samples[i]) for i in range(180))
    half = ready(path, cache_gib=full.cache.n_bytes / 2**31, **sizes)
    half.train_dataset.fill(n_workers)
    assert len(half.cache) == 90
    assert half.cache.full


def test_workers_share_the_file(database, tmp_path: Path) -> None:
    path = database()
    datamodule = ready(path, cache_gib=0, cache_dir=str(tmp_path / "cache"), num_workers=2)
    energies = {
        int(i): float(e)
        for _ in range(2)
        for batch in datamodule.train_dataloader()
        for i, e in zip(batch[properties.idx], batch["energy"], strict=True)
    }
    assert energies == {int(s[properties.idx]): float(s["energy"]) for s in plain(path)}
    assert not list((tmp_path / "cache").iterdir())
