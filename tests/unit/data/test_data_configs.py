"""The data configs compose in SchNetPack's application and make what they say."""

from pathlib import Path
from typing import Any

import ase.io
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from distorted import frames_of
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import MissingMandatoryValue
from schnetpack.data import AtomsDataModule

from schnetpack_tpainn.data import QM9, MDSampler, TPaiNNDataModule
from schnetpack_tpainn.data.split import PartSplit, SeededSplit

TINY = ("data.num_train=6", "data.num_val=3", "data.split_file=null")
SHORT = (
    "data.source.n_frames=12",
    "data.source.interval_fs=5",
    "data.source.equilibration_fs=5",
    "data.source.n_trajectories=1",
    "data.source.n_workers=1",
)


@pytest.fixture
def build(tmp_path: Path, monkeypatch):
    """Compose `spktrain`'s configuration and instantiate its data module as `spktrain` does."""
    monkeypatch.setenv("PWD", str(tmp_path))

    def run(*overrides: str) -> TPaiNNDataModule:
        with initialize_config_module("schnetpack.configs", version_base="1.2"):
            config: Any = compose(
                "train", ["+globals.cutoff=5.0", f"run.work_dir={tmp_path}", *TINY, *overrides]
            )
        return instantiate(config.data, train_sampler_cls=config.data.train_sampler_cls)

    return run


def use(datamodule: TPaiNNDataModule) -> TPaiNNDataModule:
    datamodule.prepare_data()
    datamodule.setup()
    batch = next(iter(datamodule.train_dataloader()))
    assert batch["forces"].shape == batch["_positions"].shape
    return datamodule


def test_simulation(build, tmp_path: Path) -> None:
    datamodule = use(build("data=tpainn_simulation", "+seed=3", *SHORT))
    assert isinstance(datamodule, AtomsDataModule)
    assert isinstance(datamodule.source, MDSampler)
    assert datamodule.splitting.seed == 3
    assert datamodule.datapath == str(tmp_path / "data" / "tpainn_rdkit.db")
    assert len(datamodule.dataset) == 12
    assert datamodule.dataset.metadata["structures"] == ["CCO"]
    use(build("data=tpainn_simulation", *SHORT))  # as it was left


def test_any_calculator(build) -> None:
    choice = ("data=tpainn_simulation", "data/source=tpainn_calculator", *SHORT)
    lj = "data.source.calculator._target_=ase.calculators.lj.LennardJones"
    epsilon = "+data.source.calculator.epsilon=0.01"
    datamodule = build(*choice, "data.source.structures=[O]", lj, epsilon)
    assert datamodule.source.settings["calculator"]["epsilon"] == 0.01
    with pytest.raises(MissingMandatoryValue, match="structures"):
        build(*choice, lj)


def test_labels_of_ones_own(build, database) -> None:
    datamodule = use(build("data=tpainn_labels", f"data.datapath={database()}"))
    assert datamodule.source is None
    assert isinstance(datamodule.splitting, SeededSplit)
    assert datamodule.splitting.seed == 0


def test_relative_paths_count_from_the_start_directory(
    build, database, tmp_path: Path, monkeypatch
) -> None:
    path = database()
    monkeypatch.chdir(tmp_path)
    assert build("data=tpainn_labels", f"data.datapath={path.name}").datapath == str(path)


def test_import(build, tmp_path: Path) -> None:
    frames = frames_of(12)
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=atoms.positions)
    ase.io.write(tmp_path / "x.extxyz", frames)
    choice = (
        "data=tpainn_labels",
        "data/source=tpainn_import",
        f"data.source.files=[{tmp_path / 'x.extxyz'}]",
        "data.source.distance_unit=Ang",
        "data.source.energy_unit=eV",
    )
    with pytest.raises(MissingMandatoryValue, match="forces_unit"):
        build(*choice)
    assert len(use(build(*choice, "data.source.forces_unit=eV/Ang")).dataset) == 12


def test_shipped_labels(build) -> None:
    datamodule = use(build("data=tpainn_labels", "data/source=tpainn_ethanol"))
    assert isinstance(datamodule.splitting, PartSplit)
    assert len(datamodule.test_dataset) == 500


def test_qm9(build, tmp_path: Path) -> None:
    choice = ("data=tpainn_labels", "data/source=tpainn_qm9")
    datamodule = build(*choice, "data.source.n_molecules=40", "data.source.seed=2")
    assert datamodule.source.settings == QM9(40, seed=2).settings
    assert datamodule.forces_key is None
    assert datamodule.load_properties == ["energy"]
    assert datamodule.datapath == str(tmp_path / "data" / "tpainn_qm9.db")
    assert build(*choice).source.settings == QM9().settings


@pytest.mark.parametrize(
    "choice", ["tpainn_labels", "tpainn_simulation", "tpainn_labels data/source=tpainn_ethanol"]
)
def test_test_frames_can_have_a_seed_of_their_own(build, choice: str) -> None:
    plain = build(*f"data={choice}".split(), "data.datapath=x.db", "+seed=3")
    assert (plain.splitting.seed, plain.splitting.test_seed) == (3, None)
    fixed = build(*f"data={choice}".split(), "data.datapath=x.db", "data.splitting.test_seed=0")
    assert (fixed.splitting.seed, fixed.splitting.test_seed) == (0, 0)


@pytest.mark.parametrize("data", ["tpainn_simulation", "tpainn_labels"])
def test_every_setting_of_schnetpack_is_there(build, data: str) -> None:
    with initialize_config_module("schnetpack.configs", version_base="1.2"):
        ours, theirs = (compose("train", [f"data={d}"]).data for d in (data, "custom"))
    assert set(theirs) <= set(ours)
