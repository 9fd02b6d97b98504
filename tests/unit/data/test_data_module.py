"""The data module: source, checks before training, cache."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.db import connect
from distorted import frames_of
from modules import module, ready
from schnetpack import properties
from schnetpack.transform import (
    MatScipyNeighborList,
)

from schnetpack_tpainn.data.store import fingerprint, labelled, write_database
from schnetpack_tpainn.errors import DataError


class Maker:
    """A source that counts how often it works."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.made = 0

    def make(self, path: str | Path) -> Path:
        self.made += 1
        frames = [labelled(a, -4200.0, np.zeros((len(a), 3))) for a in frames_of(20)]
        return write_database(path, frames, {"fingerprint": fingerprint(self.settings)})


def test_a_source_makes_an_absent_data_set_once(tmp_path: Path) -> None:
    source = Maker(a=1)
    path = tmp_path / "deep" / "x.db"
    for _ in range(2):
        datamodule = module(path, source=source)
        datamodule.prepare_data()
        datamodule.setup("fit")
        datamodule.setup("test")
    assert source.made == 1
    assert len(datamodule.test_dataset) == 6


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_data_module import Maker, module

class Slow(Maker):
    def make(self, path):
        with open("made", "a") as file:
            file.write("once ")
        time.sleep(1.0)
        return super().make(path)

Path(sys.argv[1]).touch()
while not (Path("1").exists() and Path("2").exists()):
    time.sleep(0.01)
module("x.db", source=Slow(a=1)).prepare_data()
"""
    processes = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, name], cwd=tmp_path)
        for name in ("1", "2")
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert (tmp_path / "made").read_text() == "once "


def test_a_data_set_of_other_settings_is_refused(tmp_path: Path, database) -> None:
    path = tmp_path / "x.db"
    module(path, source=Maker(a=1)).prepare_data()
    with pytest.raises(DataError, match=f"expected fingerprint {fingerprint({'a': 2})}, got"):
        module(path, source=Maker(a=2)).prepare_data()
    with pytest.raises(DataError, match="got None"):
        module(database(), source=Maker(a=2)).prepare_data()
    module(path).prepare_data()


def test_an_absent_data_set_without_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist.*data/source=tpainn_rdkit"):
        module(tmp_path / "x.db").prepare_data()
    with pytest.raises(DataError, match="does not exist"):
        module(tmp_path / "x.db").setup()


def test_nothing_wrong_reaches_training(database) -> None:
    energies = [0.0] * 19 + [np.nan]
    with pytest.raises(DataError, match="ids 20"):
        module(database(energies=energies)).setup()
    with pytest.raises(DataError, match="at most 20 frames"):
        module(database(), num_train=18).setup()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_train": 17}, r"n_frames = 20, got 17 \+ 4 \+ 1 = 22; .*data.source.n_frames"),
        ({"num_test": 7}, r"got 10 \+ 4 \+ 7 = 21"),
        ({"num_train": 16, "num_test": None}, r"got 16 \+ 4 \+ 1 = 21"),
    ],
)
def test_frames_that_cannot_suffice_are_not_made(tmp_path: Path, sizes, message) -> None:
    source = Maker(n_frames=20)
    with pytest.raises(DataError, match=message):
        module(tmp_path / "x.db", source=source, **sizes).prepare_data()
    assert source.made == 0
    assert not list(tmp_path.iterdir())


def test_molecules_that_cannot_suffice_are_not_made(tmp_path: Path) -> None:
    source = Maker(n_molecules=20)
    with pytest.raises(DataError, match=r"n_molecules = 20, .*data\.source\.n_molecules"):
        module(tmp_path / "x.db", source=source, num_train=17).prepare_data()
    assert source.made == 0


@pytest.mark.parametrize("sizes", [{}, {"num_test": 6}, {"num_train": 0.5, "num_test": 0.3}])
def test_frames_that_just_suffice_are_made(tmp_path: Path, sizes) -> None:
    source = Maker(n_frames=20)
    module(tmp_path / "x.db", source=source, **sizes).prepare_data()
    assert source.made == 1


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        x.dtype == y.dtype and torch.equal(x, y)
        for x, y in zip(a.values(), b.values(), strict=True)
    )


def test_cached_samples_are_those_of_schnetpack(database) -> None:
    path = database(frames_of(20, ["CH3CH2OH", "H2O"]))
    cached, plain = ready(path), ready(path, cache_gib=0)
    for i in range(10):
        first, second = cached.train_dataset[i], cached.train_dataset[i]
        assert equal(first, plain.train_dataset[i])
        assert equal(first, second)
    assert len(cached.cache) == 10
    assert len(plain.cache) == 0


def test_nothing_downstream_can_corrupt_the_cache(database) -> None:
    datamodule = ready(database())
    pristine = [datamodule.train_dataset[i] for i in range(10)]
    for sample in (datamodule.train_dataset[i] for i in range(10)):
        for tensor in sample.values():
            tensor.zero_()
        sample.clear()
    for size in (5, 1):
        datamodule._train_dataloader = None
        datamodule.batch_size = size
        for batch in datamodule.train_dataloader():
            for tensor in batch.values():
                tensor.zero_()
    assert all(equal(datamodule.train_dataset[i], pristine[i]) for i in range(10))


def test_the_cache_is_bounded_and_says_so_once(database, caplog) -> None:
    everything = ready(database(frames_of(40)), num_train=30)
    list(everything.train_dataloader())
    assert len(everything.cache) == 30
    with caplog.at_level(logging.INFO):
        half = ready(
            database(frames_of(40)), num_train=30, cache_gib=everything.cache.n_bytes / 2**31
        )
        for _ in range(2):
            assert sum(len(b["energy"]) for b in half.train_dataloader()) == 30
    assert 14 <= len(half.cache) <= 15
    assert half.cache.n_bytes <= half.cache.max_bytes
    assert caplog.text.count("cache is full") == 1


def test_clear_cache_lets_changed_offsets_through(database) -> None:
    datamodule = ready(database())
    before = datamodule.train_dataset[0]["energy"].item()
    datamodule.train_transforms[1].atomref = torch.zeros(100, dtype=torch.float64)
    assert datamodule.train_dataset[0]["energy"].item() == before
    datamodule.clear_cache()
    assert datamodule.cache.n_bytes == 0
    assert datamodule.train_dataset[0]["energy"].item() < -4000


def test_parts_with_transforms_of_their_own_do_not_mix(database) -> None:
    frames = frames_of(1) * 20
    datamodule = ready(database(frames), val_transforms=[MatScipyNeighborList(cutoff=2.0)])
    n_train = datamodule.train_dataset[0][properties.idx_i].numel()
    assert datamodule.val_dataset[0][properties.idx_i].numel() < n_train


def test_worker_processes_give_the_same_samples(database) -> None:
    path = database()
    alone, helped = ready(path), ready(path, num_workers=2)

    def by_index(loader: Any) -> dict[int, float]:
        return {
            i: e
            for batch in loader
            for i, e in zip(batch[properties.idx].tolist(), batch["energy"].tolist(), strict=True)
        }

    assert by_index(helped.train_dataloader()) == by_index(alone.train_dataloader())
    assert by_index(helped.val_dataloader()) == by_index(alone.val_dataloader())
    assert len(helped.cache) == 14  # filled before the processes start, which inherit it


def test_data_workdir(database, tmp_path: Path) -> None:
    datamodule = ready(database(), data_workdir=str(tmp_path / "scratch"))
    assert Path(datamodule.dataset.datapath).parent == tmp_path / "scratch"
    assert len(list(datamodule.train_dataloader())) == 2


def test_other_properties_do_not_get_in_the_way(database) -> None:
    path = database()
    with connect(path, use_lock_file=False) as db:
        db.metadata = {
            **db.metadata,
            "_property_unit_dict": {"energy": "eV", "forces": "eV/Ang", "gap": "eV"},
        }
    assert "gap" not in ready(path).train_dataset[0]


def test_periodic_frames(database) -> None:
    rng = np.random.default_rng(0)
    frames = [
        Atoms("OH2OH2", rng.uniform(0, 1, (6, 3)) + np.arange(6)[:, None], cell=[7] * 3, pbc=True)
        for _ in range(20)
    ]
    datamodule = ready(database(frames))
    batch = next(iter(datamodule.train_dataloader()))
    assert batch[properties.offsets].abs().max() > 0
