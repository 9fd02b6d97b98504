"""Energies of 1e4 eV come out of every interface the same, to 1e-6 eV."""

import math
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.db import connect
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf
from schnetpack.data import ASEAtomsData
from schnetpack.interfaces import AtomsConverter, SpkCalculator
from schnetpack.transform import MatScipyNeighborList

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.md import TPaiNNCalculator
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.offsets import get_offsets
from schnetpack_tpainn.transfer.portable import build_model, save_portable
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from schnetpack_tpainn.transfer.units import UNITS
from tests.conftest import Spktrain

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SHIFT = {1: -16.472913, 6: -3036.2381234567, 8: -4041.8407654321}  # eV
MOLECULES = {"several": ["CCO", "CO", "CCCO", "COC"], "single": ["CCO"]}
CUTOFF = 5.0
SMALL = ("model.representation.n_atom_basis=16", "model.representation.radial_basis.n_rbf=12")


def make_labels(path: Path, molecules: list[str]) -> None:
    """Shaken molecules with MMFF94 energies, shifted by thousands of eV per heavy atom."""
    frames, labels = [], []
    for k in range(24):
        frame = embed_smiles(molecules[k % len(molecules)])
        frame.calc = RDKitForceField("MMFF94", smiles=frame.info["smiles"])
        frame.rattle(0.03, seed=k)
        frame.positions -= frame.get_center_of_mass()
        energy = frame.get_potential_energy() + sum(SHIFT[z] for z in frame.numbers)
        labels.append({"energy": np.array([energy]), "forces": frame.get_forces()})
        frames.append(frame)
    units = {k: UNITS[k] for k in ("energy", "forces")}
    ASEAtomsData.create(str(path), "Ang", units).add_systems(labels, frames)


def make_pretrained(path: Path) -> None:
    """An untrained network, as a pretraining run would leave a trained one."""
    import schnetpack.cli  # noqa: F401 - registers its resolvers

    with initialize_config_module("schnetpack.configs", version_base="1.2"):
        config = compose("train", ["experiment=tpainn_autotune", "run.path=.", *SMALL])
    torch.manual_seed(0)
    model = instantiate(OmegaConf.to_container(config.model, resolve=True))
    card = {"architecture": describe(model), "elements": [1, 6, 8], "units": UNITS}
    save_portable(path, network_state(model), card)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, spktrain: Spktrain) -> Path:
    """One sweep over both data sets."""
    place = tmp_path_factory.mktemp("roundtrip")
    for name, molecules in MOLECULES.items():
        make_labels(place / f"{name}.db", molecules)
    make_pretrained(place / "pretrained.safetensors")
    spktrain(
        place,
        "-m",
        "experiment=tpainn_autotune",
        "data/source=tpainn_database",
        f"transfer.checkpoint={place}/pretrained.safetensors",
        f"data.datapath={place}/several.db,{place}/single.db",
        *("data.num_train=12", "data.num_val=4", "data.num_test=8", "run.id=run"),
        *("trainer.max_steps=20", "trainer.val_check_interval=20"),
        *SMALL,
    )
    return place


@dataclass
class Run:
    """A finished run and its test frames.

    Attributes:
        folder: run directory.
        frames: test frames.
        labels: their labelled energies in eV.
        expected: their energies in eV: the network in float64, and offsets added one by one.
    """

    folder: Path
    frames: list[Atoms]
    labels: list[float]
    expected: list[float]


@pytest.fixture(scope="module", params=list(MOLECULES))
def run(place: Path, request: pytest.FixtureRequest) -> Run:
    folder = place / "runs" / f"run_{list(MOLECULES).index(request.param)}"
    split = np.load(folder / "split.npz")
    with connect(place / f"{request.param}.db") as db:
        rows = [db.get(int(i) + 1) for i in split["test_idx"]]
    frames = [row.toatoms() for row in rows]
    labels = [row.data["energy"].item() for row in rows]
    model = torch.load(folder / "best_model", weights_only=False).double()
    offsets = get_offsets(model, "energy").tolist()
    model.do_postprocessing = False
    convert = AtomsConverter(MatScipyNeighborList(CUTOFF), dtype=torch.float64)
    expected = [
        math.fsum([model(convert(f))["energy"].item(), *(offsets[z] for z in f.numbers)])
        for f in frames
    ]
    assert max(abs(e) for e in expected) > 1e4
    return Run(folder, frames, labels, expected)


def of_report(run: Run) -> list[float]:
    return np.load(run.folder / "test_predictions.npz")["energy"].tolist()


def of_best_model(run: Run) -> list[float]:
    model = torch.load(run.folder / "best_model", weights_only=False)
    return called(model, run)


def called(model: Any, run: Run) -> list[float]:
    convert = AtomsConverter(MatScipyNeighborList(CUTOFF), dtype=torch.float32)
    return [model(convert(f))["energy"].item() for f in run.frames]


def of_schnetpack_calculator(run: Run) -> list[float]:
    path = str(run.folder / "best_model")
    calculator = SpkCalculator(path, MatScipyNeighborList(CUTOFF), energy_unit="eV")
    return calculated(calculator, run)


def of_own_calculator(run: Run) -> list[float]:
    return calculated(TPaiNNCalculator(run.folder / "best_model", device="cpu"), run)


def calculated(calculator: Any, run: Run) -> list[float]:
    return [calculator.get_potential_energy(f) for f in run.frames]


def of_spkdeploy(run: Run) -> list[float]:
    deploy = runpy.run_path(str(Path(sys.executable).with_name("spkdeploy")))
    model = torch.load(run.folder / "best_model", weights_only=False)
    deploy["save_jit_model"](model, str(run.folder / "deployed"))
    return called(torch.jit.load(run.folder / "deployed"), run)


def of_spkpredict(run: Run) -> list[float]:
    with connect(run.folder / "test.db") as db:
        db.metadata = {"_property_unit_dict": {}, "_distance_unit": "Ang", "atomrefs": {}}
        for frame in run.frames:
            db.write(frame)
    command = [
        "spkpredict",
        f"datapath={run.folder}/test.db",
        f"modeldir={run.folder}",
        f"outputdir={run.folder}/predicted",
        f"cutoff={CUTOFF}",
        *("write_interval=batch", "enable_grad=true"),
    ]
    with mock.patch.object(sys, "argv", command):
        runpy.run_path(str(Path(sys.executable).with_name("spkpredict")), run_name="__main__")
    return torch.load(run.folder / "predicted" / "0" / "0.pt")["energy"].tolist()


def of_portable_form(run: Run) -> list[float]:
    return called(build_model(load_pretrained(run.folder / "model.safetensors")), run)


INTERFACES = (
    of_report,
    of_best_model,
    of_schnetpack_calculator,
    of_own_calculator,
    of_spkdeploy,
    of_spkpredict,
    of_portable_form,
)


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda f: f.__name__)
def test_energies(interface: Callable[[Run], list[float]], run: Run) -> None:
    energies = interface(run)
    assert energies == pytest.approx(run.expected, rel=0, abs=1e-6)


def test_labels_come_back_too(run: Run) -> None:
    stored = np.load(run.folder / "test_predictions.npz")["energy_label"].tolist()
    assert stored == pytest.approx(run.labels, rel=0, abs=1e-6)
    assert run.expected == pytest.approx(run.labels, rel=0, abs=1.0)  # the fit found the shift
