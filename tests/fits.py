"""Short real fits of tiny models of every kind, in this process; models stand for pretrained ones.

What `transfer=lora` and the like mean is read from the config groups.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import molecule
from ase.calculators.emt import EMT
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from schnetpack.data import ASEAtomsData

from schnetpack_tpainn.data import TPaiNNDataModule
from schnetpack_tpainn.transfer.architecture import describe
from schnetpack_tpainn.transfer.copying import network_state
from schnetpack_tpainn.transfer.ema import WeightAverage
from schnetpack_tpainn.transfer.portable import save_portable
from schnetpack_tpainn.transfer.task import TransferTask
from schnetpack_tpainn.transfer.units import UNITS
from tests.conftest import potential_config

CUTOFF = 4.0
N_TRAIN, N_VAL, N_TEST = 8, 4, 4
TPAINN = {"_target_": "schnetpack_tpainn.representation.TPaiNN"}
KINDS: dict[str, dict[str, Any]] = {
    "schnet": {"_target_": "schnetpack.representation.SchNet"},
    "painn": {"_target_": "schnetpack.representation.PaiNN"},
    "so3net": {"_target_": "schnetpack.representation.SO3net", "lmax": 1},
    "tpainn": TPAINN,
    "l2": {**TPAINN, "hidden_irreps": "8x0e+8x1o+4x2e"},
}


def model_config(kind: str, compiles: bool | None = None, **changes: Any) -> dict[str, Any]:
    """Hydra node of a tiny potential with one of the representations."""
    config = potential_config(cutoff=CUTOFF)
    if compiles is not None:
        ours = {"_target_": "schnetpack_tpainn.model.TPaiNNPotential", "compile": compiles}
        config = {**config, **ours}
    config["representation"] = {**config["representation"], **KINDS[kind], **changes}
    return config


def build(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A potential none of whose parameters is zero or like another."""
    torch.manual_seed(seed)
    model = instantiate(model_config(kind, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def save_pretrained(folder: Path, kind: str, elements: tuple[int, ...] = (1, 6, 8)) -> Path:
    """A potential's weights in the portable form, as a pretraining run leaves them."""
    path = folder / f"{kind}.safetensors"
    model = build(kind)
    card = {"architecture": describe(model), "elements": list(elements), "units": UNITS}
    save_portable(path, network_state(model), card)
    return path


def make_labels(folder: Path, with_forces: bool = True) -> Path:
    """Methanol, shaken, labelled by a classical potential."""
    frames, labels = [], []
    kinds = ("energy", "forces") if with_forces else ("energy",)
    for seed in range(N_TRAIN + N_VAL + N_TEST):
        frame = molecule("CH3OH", calculator=EMT())
        frame.rattle(0.05, seed=seed)
        energy = np.array([frame.get_potential_energy()])
        label = {"energy": energy, "forces": frame.get_forces()}
        labels.append({k: label[k] for k in kinds})
        frames.append(frame)
    units = {k: UNITS[k] for k in kinds}
    database = ASEAtomsData.create(str(folder / "labels.db"), "Ang", units)
    database.add_systems(labels, frames)
    return folder / "labels.db"


def data_module(
    labels: Path, batch_size: int = N_TRAIN, forces_key: str | None = "forces"
) -> TPaiNNDataModule:
    """The labels; all training frames in a batch, whose order then does not matter."""
    transforms: list[dict[str, Any]] = [
        {"_target_": "schnetpack.transform.SubtractCenterOfMass"},
        {
            "_target_": "schnetpack.transform.RemoveOffsets",
            "property": "energy",
            "remove_atomrefs": True,
            "estimate_atomref": True,
        },
        {"_target_": "schnetpack_tpainn.data.neighbors.VesinNeighbors", "cutoff": CUTOFF},
        {"_target_": "schnetpack.transform.CastTo32"},
    ]
    return TPaiNNDataModule(
        str(labels),
        batch_size,
        num_train=N_TRAIN,
        num_val=N_VAL,
        num_test=N_TEST,
        split_file=None,
        num_workers=0,
        forces_key=forces_key,
        property_units={k: UNITS[k] for k in ("energy", "forces")},
        distance_unit="Ang",
        transforms=[instantiate(t) for t in transforms],
    )


@functools.cache
def _group(overrides: tuple[str, ...]) -> Any:
    import schnetpack.cli  # noqa: F401 - registers its resolvers

    with initialize_config_module("schnetpack.configs", version_base="1.2"):
        return compose("train", ["experiment=tpainn_autotune", "run.path=.", *overrides])


def strategy(name: str, checkpoint: Path | None = None, *overrides: str) -> dict[str, Any]:
    """Hydra node that `transfer=<name>` and further overrides give."""
    config = OmegaConf.to_container(_group((f"transfer={name}", *overrides)).transfer, resolve=True)
    assert isinstance(config, dict)
    return config if name == "scratch" else {**config, "checkpoint": str(checkpoint)}


@dataclass
class Watch(Callback):
    """Notes what every step starts from and does.

    Attributes:
        weights: weights that each step starts from, and last those at the end of training.
        validated: weights that each validation used.
        losses: what each validation found.
        known: names of the parameters that the optimiser has state for, before each step.
        rates: factor -> learning rate, of each step.
        stop: kill the run before this step.
    """

    weights: list[dict[str, torch.Tensor]] = field(default_factory=list)
    validated: list[dict[str, torch.Tensor]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    known: list[set[str]] = field(default_factory=list)
    rates: list[dict[float, float]] = field(default_factory=list)
    stop: int | None = None

    def on_train_batch_start(self, trainer: Trainer, task: Any, *args: Any) -> None:
        if trainer.global_step == self.stop:
            raise RuntimeError("killed")
        self.weights.append(weights(task.model))
        state = trainer.optimizers[0].state
        self.known.append({name for name, p in task.model.named_parameters() if p in state})

    def on_train_start(self, trainer: Trainer, task: Any) -> None:
        def note(optimizer: Any, *args: Any) -> None:
            self.rates.append({g["factor"]: g["lr"] for g in optimizer.param_groups})

        trainer.optimizers[0].register_step_pre_hook(note)

    def on_validation_end(self, trainer: Trainer, task: Any) -> None:
        self.validated.append(weights(task.model))
        self.losses.append(trainer.callback_metrics["val_loss"].item())

    def on_train_end(self, trainer: Trainer, task: Any) -> None:
        self.weights.append(weights(task.model))

    def moved(self, step: int) -> set[str]:
        """Names of the parameters that a step changed."""
        before, after = self.weights[step], self.weights[step + 1]
        return {name for name in before if not torch.equal(before[name], after[name])}


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Copies of a model's parameters, under all of their names."""
    parameters = model.named_parameters(remove_duplicate=False)
    return {name: p.detach().clone() for name, p in parameters}


OUTPUTS = [
    {
        "_target_": "schnetpack.task.ModelOutput",
        "name": name,
        "loss_fn": {"_target_": "torch.nn.MSELoss"},
        "loss_weight": weight,
        "metrics": {"mae": {"_target_": "torchmetrics.regression.MeanAbsoluteError"}},
    }
    for name, weight in (("energy", 0.1), ("forces", 0.9))
]


def make_task(
    kind: str,
    transfer: dict[str, Any] | None,
    forces_key: str | None = "forces",
    **settings: Any,
) -> TransferTask:
    """The task; weight decay would move every weight that the optimiser knows."""
    seed_everything(0, verbose=False)
    arguments = {"optimizer_args": {"lr": 1e-2, "weight_decay": 0.1}, **settings}
    config, outputs = model_config(kind), OUTPUTS
    if forces_key is None:
        config = model_config(kind, compiles=False)
        config["output_modules"][1]["force_key"] = None
        outputs = [OUTPUTS[0], {**OUTPUTS[1], "name": None}]
    return TransferTask(config, outputs, transfer=transfer, forces_key=forces_key, **arguments)


@dataclass
class Fit:
    """A fit that is over, or was interrupted.

    Attributes:
        task: the task.
        trainer: the trainer, which has the data.
        watch: what was seen.
        checkpoint: file of the last validation.
    """

    task: TransferTask
    trainer: Trainer
    watch: Watch
    checkpoint: Path

    @property
    def optimizer(self) -> Any:
        return self.trainer.optimizers[0]

    def stored(self) -> dict[str, Any]:
        return torch.load(self.checkpoint, weights_only=True)


def fit(
    folder: Path,
    labels: Path,
    task: TransferTask,
    steps: int = 6,
    validate: int = 2,
    stop: int | None = None,
    resume: Path | None = None,
    callbacks: tuple[Callback, ...] = (WeightAverage,),
    forces_key: str | None = "forces",
    **settings: Any,
) -> Fit:
    """Train, as `spktrain` would have it; `stop` kills the run before that step."""
    watch = Watch(stop=stop)
    checkpoint = ModelCheckpoint(folder, monitor="step", mode="max", save_last=True)
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=validate,
        check_val_every_n_epoch=None,
        callbacks=[*(c() for c in callbacks), watch, checkpoint],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        num_sanity_val_steps=0,
        inference_mode=False,
        **{"gradient_clip_val": 10.0, **settings},
    )
    try:
        data = data_module(labels, forces_key=forces_key)
        trainer.fit(task, datamodule=data, ckpt_path=resume)
    except RuntimeError as error:
        assert "killed" in str(error)  # noqa: PT017
    return Fit(task, trainer, watch, folder / "last.ckpt")
