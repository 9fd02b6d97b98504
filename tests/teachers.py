"""Teachers of a DFT potential, good and wrong: tiny networks trained on MMFF94, in seconds."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from hydra.utils import instantiate
from schnetpack.transform import CastTo32, RemoveOffsets, SubtractCenterOfMass
from torch.nn.functional import mse_loss

from schnetpack_tpainn.data import EmbeddedEthanol, TPaiNNDataModule
from schnetpack_tpainn.data.neighbors import VesinNeighbors
from schnetpack_tpainn.data.sampling import sample_trajectory
from schnetpack_tpainn.data.split import PartSplit
from schnetpack_tpainn.data.store import labelled, write_database
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.portable import save_portable
from schnetpack_tpainn.transfer.units import UNITS
from tests.conftest import potential_config

MMFF94 = {"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField", "force_field": "MMFF94"}
CUTOFF = 5.0
N_FRAMES, N_STEPS = 150, 150


def model_config() -> dict[str, Any]:
    """Hydra node of the network: PyTorch's kernel needs no compilation."""
    config = potential_config(n_atom_basis=16, cutoff=CUTOFF, n_rbf=12)
    config["representation"]["backend"] = "torch"
    return config


def sample(temperature_k: float, n_frames: int, seed: int = 0, smiles: str = "CCO") -> list[Atoms]:
    """Frames of a molecule with MMFF94 labels."""
    return sample_trajectory(
        embed_smiles(smiles), MMFF94, temperature_k, n_frames, 10.0, 0.5, 0.02, 200.0, seed
    )


def pretraining_frames(n_frames: int = N_FRAMES) -> list[Atoms]:
    """What a pretraining run samples."""
    return [
        frame for seed, t in enumerate((300, 450, 600)) for frame in sample(t, n_frames // 3, seed)
    ]


def shuffled(frames: Sequence[Atoms]) -> list[Atoms]:
    """The frames with the labels of others."""
    order = np.random.default_rng(0).permutation(len(frames))
    return [
        labelled(frame, frames[i].get_potential_energy(), frames[i].get_forces())
        for frame, i in zip(frames, order, strict=True)
    ]


def data_module(path: Path, **settings: Any) -> TPaiNNDataModule:
    """A data module that is set up."""
    transforms = [
        SubtractCenterOfMass(),
        RemoveOffsets("energy", remove_atomrefs=True, estimate_atomref=True),
        VesinNeighbors(CUTOFF),
        CastTo32(),
    ]
    module = TPaiNNDataModule(
        str(path),
        20,
        transforms=transforms,
        property_units={"energy": "eV", "forces": "eV/Ang"},
        distance_unit="Ang",
        num_workers=0,
        split_file=None,
        **settings,
    )
    module.prepare_data()
    module.setup()
    return module


def ethanol(folder: Path, n_train: int = 10) -> TPaiNNDataModule:
    """The DFT labels that are shipped."""
    settings = {"num_train": n_train, "num_val": 10, "num_test": 20}
    return data_module(
        folder / "ethanol.db", source=EmbeddedEthanol(), splitting=PartSplit(), **settings
    )


def teach(frames: Sequence[Atoms], database: Path, n_steps: int = N_STEPS) -> Any:
    """A network that has learned the frames' labels, which are kept in a database."""
    write_database(database, frames, {})
    module = data_module(database, num_train=len(frames) - 2, num_val=1, num_test=1)
    torch.manual_seed(0)
    model = instantiate(model_config())
    model.initialize_transforms(module)
    model.do_postprocessing = False
    optimiser = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, n_steps)
    batches = itertools.chain.from_iterable(module.train_dataloader() for _ in itertools.count())
    for batch in itertools.islice(batches, n_steps):
        results = model(dict(batch))
        loss = mse_loss(results["forces"], batch["forces"])
        loss = loss + 0.1 * mse_loss(results["energy"], batch["energy"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model


def save(model: Any, folder: Path, frames: Path | None = None) -> Path:
    """A network's weights as a pretraining run leaves them."""
    card = {"architecture": describe(model), "elements": [1, 6, 8], "units": UNITS}
    card |= {} if frames is None else {"data": {"path": str(frames)}}
    save_portable(folder / "model.safetensors", network_state(model), card)
    return folder / "model.safetensors"
