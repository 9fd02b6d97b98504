"""Every config composes; every part of the experiments can be built."""

import inspect
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.schnetpack_tpainn.searchpath import config_dir
from schnetpack_tpainn.study.settings import StudySettings
from schnetpack_tpainn.transfer.gradual import Gradual
from schnetpack_tpainn.transfer.parameters import names_of
from schnetpack_tpainn.transfer.task import TransferTask

CONFIGS = config_dir()
# groups that live below SchNetPack's `train` config; `md` belongs to an application of its own
FILES = sorted(
    p.relative_to(CONFIGS)
    for p in CONFIGS.rglob("*.yaml")
    if p.parts[-2:] and "md" not in p.relative_to(CONFIGS).parts
)
MISSING = {
    "tpainn_calculator": ["data.source.structures=[CCO]", "data.source.calculator._target_=x.Y"],
    "tpainn_import": [
        "data.source.files=[a.xyz]",
        "data.source.distance_unit=Ang",
        "data.source.energy_unit=eV",
        "data.source.forces_unit=eV/Ang",
    ],
    "tpainn_database": ["data.datapath=a.db"],
    "tpainn_extxyz": ["data.source.files=[a.xyz]", "data.source.test_files=[b.xyz]"],
    "tpainn_displacement": ["data.source.structures=[CCO]"],
    "tpainn_relabel": ["data.source.frames=a.db"],
    "tpainn_increments": ["data.source.labels=a.db", "data.source.split_file=a.npz"],
    "tpainn_refit": [
        "data.source.frames=a.db",
        "data.source.labels=a.db",
        "data.source.split_file=a.npz",
    ],
}


def composed(*overrides: str) -> DictConfig:
    """SchNetPack's `train` config with overrides, and Hydra's own part set."""
    import schnetpack.cli  # noqa: F401 - registers its resolvers

    with initialize_config_module("schnetpack.configs", version_base="1.2"):
        config = compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


def override(file: Path) -> list[str]:
    """Command line that selects a config file, in an experiment where it makes sense."""
    group, name = file.parent.as_posix(), file.stem
    if group == "experiment":
        return [f"experiment={name}"]
    if group in ("study", "ensemble"):
        return ["experiment=tpainn_autotune", f"+{group}={name}"]
    if group == "callbacks":
        return ["experiment=tpainn_autotune", f"callbacks=[checkpoint,{name}]"]
    pretraining = name == "tpainn_simulation" or group == "transfer/ladder"
    base = "tpainn_pretrain" if pretraining else "tpainn_autotune"
    return [f"experiment={base}", f"{group}={name}", *MISSING.get(name, [])]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_config_composes_and_names_classes_that_exist(file: Path) -> None:
    config = composed(*override(file))
    values = OmegaConf.to_container(config, resolve=False, throw_on_missing=False)

    def targets(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["_target_"]] if "_target_" in node else []
            return own + [t for k, v in node.items() if k != "hydra" for t in targets(v)]
        if isinstance(node, list):
            return [t for v in node for t in targets(v)]
        return []

    found = [t for t in targets(values) if t != "x.Y"]
    assert found
    for target in found:
        assert get_class(target)


@pytest.mark.parametrize("experiment", ["tpainn_pretrain", "tpainn_autotune"])
@pytest.mark.parametrize("irreps", [None, "8x0e+8x1o+4x2e"])
def test_the_experiments_can_be_built(experiment: str, irreps: str | None) -> None:
    small = ["model.representation.n_atom_basis=8"]
    small += [] if irreps is None else [f"model.representation.hidden_irreps='{irreps}'"]
    config = composed(f"experiment={experiment}", *small)
    model = instantiate(config.model)
    task = instantiate(config.task, model=model)
    assert isinstance(task, TransferTask)
    assert task.model is model
    assert instantiate(config.data).source is not None
    callbacks = [instantiate(node) for node in config.callbacks.values()]
    assert {type(c).__name__ for c in callbacks} >= {
        "ModelCheckpoint",
        "WeightAverage",
        "RunReport",
    }
    again = TransferTask(**task.hparams)
    assert again.model.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("study", sorted(p.stem for p in (CONFIGS / "study").glob("*.yaml")))
def test_every_stage_and_strategy_of_a_study_can_be_run(study: str) -> None:
    own = (CONFIGS / "experiment" / f"{study}.yaml").is_file()
    experiment = study if own else "tpainn_autotune"
    whole = composed(f"experiment={experiment}", f"+study={study}")
    assert isinstance(whole.data.num_test, int)  # or `write_splits` refuses
    plain = OmegaConf.to_container(whole.study, resolve=True)
    settings = StudySettings.read(plain)  # type: ignore[arg-type]
    for branch in (*settings.stages.values(), *settings.strategies.values()):
        named = any(o.startswith("experiment=") for o in branch.overrides)
        base = [] if named else [f"experiment={experiment}", *MISSING.get(experiment, [])]
        words = [o.replace("{split}", "a.npz") for o in branch.overrides]
        words = [o.replace("{n_train}", "5").replace("{seed}", "0") for o in words]
        config = composed(*base, *words)
        source = dict(config.data.source)
        accepted = inspect.signature(get_class(source.pop("_target_"))).parameters
        assert {k for k in source if not k.startswith("_")} <= accepted.keys()


def test_labels_in_files_need_test_files() -> None:
    config = composed("experiment=tpainn_autotune", "data/source=tpainn_extxyz")
    assert OmegaConf.missing_keys(config.data.source) == {
        "data.source.files",
        "data.source.test_files",
    }


TUNED = {  # command line -> what is tuned of parameters with these names
    "transfer=full": r"",
    "transfer=head_only": r"^output_modules",
    "transfer=frozen_embedding": r"^(?!representation\.embedding)",
    "transfer=frozen_filters": r"^(?!representation\.filter_net)",
    "transfer=gradual": r"",
    "transfer=lora transfer.lora.rank=2": r"lora_(up|down)$",
    "transfer=full transfer/gradual=plateau transfer.gradual.patience=5": r"",
    "transfer=head_only transfer/lora=adapters": r"^output_modules.*lora_(up|down)$",
    "transfer=lora transfer/gradual=step transfer.layer_decay=0.5 "
    r"transfer.freeze=['representation\.mixing'] transfer.learning_rates={filter_net:0.1} "
    "transfer.lora.tune=[embedding]": r"^(?!.*mixing).*(lora_(up|down)$|embedding)",
    "transfer=scratch": r"",
}


@pytest.mark.parametrize("line", TUNED)
def test_every_strategy_tunes_what_it_says(line: str) -> None:
    small = ["model.representation.n_atom_basis=8", "run.path=.", *line.split()]
    config = composed("experiment=tpainn_autotune", *small)
    model, strategy = instantiate(config.model), instantiate(config.transfer)
    strategy.prepare(model)
    names = names_of(model)
    tuned = {p: n[0] for p, n in names.items() if p.requires_grad}
    assert tuned == {p: n[0] for p, n in names.items() if re.search(TUNED[line], n[0])} != {}
    assert strategy.tuning.factors(model).keys() == tuned.keys()
    assert any(isinstance(part, Gradual) for part in strategy.parts) == ("gradual" in line)
    if "layer_decay" in line:
        rates = {tuned[p]: factor for p, factor in strategy.tuning.factors(model).items()}
        assert rates["representation.filter_net.weight.lora_up"] == 0.1 * 0.5**4
        assert rates["output_modules.0.outnet.0.weight.lora_up"] == 1.0


def test_names_in_schnetpacks_groups_begin_with_ours() -> None:
    for file in FILES:
        if file.parts[0] not in ("transfer", "study", "ensemble", "md"):
            assert file.stem.startswith("tpainn"), file


def test_tpainn_takes_the_place_of_painn_in_schnetpacks_experiments() -> None:
    config = composed("experiment=md17", "model/representation=tpainn", "data.molecule=ethanol")
    model = instantiate(config.model)
    assert type(model.representation).__name__ == "TPaiNN"
