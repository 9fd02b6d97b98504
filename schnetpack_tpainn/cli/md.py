"""``tpainn-md``: molecular dynamics with a SchNetPack model, from the command line."""

import dataclasses
import sys
from typing import Any, cast

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from hydra_plugins.schnetpack_tpainn.searchpath import config_dir
from schnetpack_tpainn.errors import MDError, TPaiNNError

__all__ = ["main"]

MODEL_KEYS = ("device", "dtype", "energy_key", "force_key", "energy_unit", "skin_ang", "repulsion")


@hydra.main(version_base="1.3", config_path=str(config_dir() / "md"), config_name="tpainn_md")
def main(config: DictConfig) -> None:
    """Run, report, and compare with a reference where one is given.

    Args:
        config: ``configs/md/tpainn_md.yaml`` and the overrides.
    """
    try:
        _run(cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)))
    except TPaiNNError as error:
        sys.exit(f"tpainn-md: {error}")


def _run(config: dict[str, Any]) -> None:
    _check(config)
    from schnetpack_tpainn.files import write_json
    from schnetpack_tpainn.md import compare_with_reference, read_structure, run_md

    settings = _settings(config)
    calculator, provenance = _calculator(config, settings.ensemble.needs_stress)
    atoms = read_structure(config["structure"], config["structure_index"], config["seed"])
    result = run_md(settings, atoms, calculator, config["output"], provenance)
    rows = {
        "simulated (ps)": result.survival_ps,
        "steps per second": result.steps_per_s,
        "mean temperature (K)": result.mean_temperature_k,
    }
    if result.n_uncertain is not None:
        rows["uncertain frames"] = result.n_uncertain
    if result.drift is not None:
        rows["energy drift (meV/atom/ps)"] = result.drift.slope_mev_per_atom_per_ps
        rows["energy fluctuation (meV/atom)"] = result.drift.rms_mev_per_atom
    compare = config["compare"]
    if compare["calculator"] is not None:
        comparison = compare_with_reference(
            result.trajectory, compare["calculator"], compare["n_frames"], compare["n_workers"]
        )
        write_json(result.folder / "comparison.json", dataclasses.asdict(comparison))
        rows["energy MAE (meV)"] = comparison.energy_mae_mev
        rows["energy MAE, centred (meV)"] = comparison.energy_mae_centred_mev
        rows["force MAE (meV/Å)"] = comparison.force_mae_mev_per_ang
        rows["force RMSE (meV/Å)"] = comparison.force_rmse_mev_per_ang
    _show(rows, str(result.folder))


def _check(config: dict[str, Any]) -> None:
    """Find what is missing before torch and SchNetPack are imported, which takes seconds."""
    if config["structure"] is None:
        raise MDError("expected structure=<file, database or SMILES>, got none")
    if (config["model"] is None) == (config["calculator"] is None):
        raise MDError(
            "expected either model=<best_model> or calculator=<node of an ASE calculator>, got "
            + ("neither" if config["model"] is None else "both")
        )


def _calculator(config: dict[str, Any], stress: bool) -> tuple[Any, dict[str, Any]]:
    """ASE calculator and, for one from a node, the node for the record."""
    from schnetpack_tpainn.data.label import make_calculator
    from schnetpack_tpainn.md import open_calculator

    model, node = config["model"], config["calculator"]
    if model is not None:
        arguments = {key: config[key] for key in MODEL_KEYS}
        return open_calculator(model, stress=stress, **arguments), {}
    return make_calculator(node), {"calculator_node": node}


def _settings(config: dict[str, Any]) -> Any:
    from schnetpack_tpainn.md import Limits, MDSettings, Uncertainty

    names = {field.name for field in dataclasses.fields(MDSettings)} - {
        "ensemble",
        "limits",
        "uncertainty",
    }
    return MDSettings(
        ensemble=_instantiate(config["ensemble"]),
        limits=Limits(**config["limits"]),
        uncertainty=Uncertainty(**config["uncertainty"]),
        **{name: config[name] for name in names},
    )


def _instantiate(node: dict[str, Any]) -> Any:
    """Object of a node; what its constructor refuses is said as it says it."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node)
    except InstantiationException as error:
        if isinstance(error.__cause__, TPaiNNError):
            raise error.__cause__ from None
        raise


def _show(rows: dict[str, float | None], title: str) -> None:
    table = Table(title=title, show_header=False)
    for name, value in rows.items():
        table.add_row(name, "" if value is None else f"{value:.4g}")
    Console().print(table)
