"""The tables of a run, made from records of real models."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from schnetpack_tpainn.transfer.architecture import compare_architecture, describe
from schnetpack_tpainn.transfer.context import TransferRecord
from schnetpack_tpainn.transfer.copying import count_blocks, network_state, plan_copy
from schnetpack_tpainn.transfer.lora import Lora
from schnetpack_tpainn.transfer.outcome import ADVICE, find_warnings, history, parameter_changes
from schnetpack_tpainn.transfer.summary import caution, headline, tables_before
from schnetpack_tpainn.transfer.tables import Table, markdown
from schnetpack_tpainn.transfer.units import UNITS
from tests.fits import build, strategy

RATES = {"base": 1e-3, "groups": [], "blocks": {"head": [0.5, 1.0]}}


def transferred(**changes: Any) -> dict[str, Any]:
    """Content of `transfer.json`: a tiny model that takes a renamed head from another."""
    source, model = build("tpainn", seed=1), build("tpainn")
    state = {n.replace("output_modules", "heads"): t for n, t in network_state(source).items()}
    plan = plan_copy(state, model, {"^heads": "output_modules"}, ["filter_net"])
    record = TransferRecord("full", "elsewhere/model.safetensors")
    record.blocks = count_blocks(model, plan)
    record.renamed, record.reinitialised = plan.renamed, plan.reinitialised
    card = {"architecture": describe(model), "elements": [1, 8], "units": UNITS}
    record.pretrained = card | {"level_of_theory": {"_target_": "x.Amber", "name": "ff|14"}}
    beside = {"card": card | {"level_of_theory": "CP2K"}, "learning_rates": RATES}
    return {**record.plain(), **beside, **changes}


def table(transfer: dict[str, Any], title: str) -> tuple[Table, dict[str, list[str]]]:
    """A table of the report, and its rows by their first cells."""
    found = next(t for t in tables_before(transfer) if t.title == title)
    return found, {row[0]: list(row[1:]) for row in found.rows}


def test_names_that_were_changed_or_drawn_anew_are_listed() -> None:
    found, rows = table(transferred(), "Parameters")
    assert "`heads.0.outnet.0.weight → output_modules.0.outnet.0.weight`" in found.note
    assert "Reinitialised as asked: `representation.filter_net.bias`" in found.note
    assert rows["filter_net"][0] == "–"
    assert int(rows["filter_net"][1]) > 0
    assert rows["head"][-1] == "0.5 to 1"
    many = transferred(reinitialised=[f"p{k}" for k in range(20)])
    assert "`p7` and 12 more (see transfer.json)" in table(many, "Parameters")[0].note


def test_adapters_have_a_column_of_their_own() -> None:
    model = build("tpainn")
    Lora(rank=2).attach(model)
    found, rows = table(transferred(blocks=count_blocks(model)), "Parameters")
    k = list(found.columns[1:]).index("adapter")
    assert rows["head"][k] == str(2 * (8 + 4) + 2 * (4 + 1))
    assert rows["embedding"][k] == "–"


def test_what_differs_from_the_pretraining_stands_beside_what_agrees() -> None:
    then, now = describe(build("tpainn")), describe(build("tpainn"))
    then["cutoff_ang"] = 5.0
    transfer = transferred(
        differences=compare_architecture(then, now, accept=["cutoff_ang"]),
        pretrained={"architecture": then, "elements": [1], "units": UNITS},
        new_elements={"O": "embedding of N"},
    )
    _, rows = table(transfer, "Pretraining and this run")
    assert rows["cutoff (Å)"] == ["5.0", "4.0", "differs (accepted)"]
    assert rows["cutoff function"] == ["CosineCutoff", "CosineCutoff", "agrees"]
    assert rows["units"] == ["eV, eV/Ang, Ang", "eV, eV/Ang, Ang", "agrees"]
    assert rows["elements"] == ["H", "H, O", "new O: embedding of N"]
    assert rows["labels from"] == ["–", "CP2K", ""]
    assert table(transferred(), "Pretraining and this run")[1]["labels from"][0] == "Amber, ff|14"


def test_a_checkpoint_that_says_little_is_not_said_to_agree() -> None:
    transfer = transferred(pretrained={"architecture": describe(build("tpainn"))})
    _, rows = table(transfer, "Pretraining and this run")
    assert rows["units"] == ["–", "eV, eV/Ang, Ang", "not known"]
    assert rows["elements"] == ["–", "H, O", "not known"]


def test_markdown_keeps_its_columns_and_the_terminal_its_brackets() -> None:
    made = Table("T", ["a", "b"], [["[red]x|y", "1"]], "see [bold]")
    assert "| [red]x\\|y | 1 |" in made.markdown()
    console = Console(width=60, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(made.rich())
    shown = console.export_text()
    assert "[red]x|y" in shown
    assert "see [bold]" in shown
    text = markdown("Title", ["lead"], [made], {"T": ["a.png", "b.png"]})
    assert text.startswith("# Title\n\nlead\n\n## T\n\n| a | b |")
    assert text.endswith("![a.png](a.png)\n\n![b.png](b.png)\n")


def outcome(forces: float, energy: float) -> dict[str, float]:
    return {"forces_mae_mev_per_ang": forces, "energy_mae_mev": energy}


VALIDATIONS = {
    "step": np.array([10, 20]),
    "forces": np.array([90.0, 120.0]),
    "energy": np.array([60.0, 55.0]),
}


def test_warnings_name_what_got_worse_and_whether_the_run_was_ever_better() -> None:
    forces, energy = find_warnings(outcome(100, 50), outcome(120, 55), VALIDATIONS)
    assert "forces worse: validation MAE 120.0 meV/Å" in forces
    assert "better on the way (90.0 meV/Å at step 10)" in forces
    assert "no validation of the run was better (55.0 meV at best)" in energy
    assert find_warnings(outcome(100, 50), outcome(100, 50), VALIDATIONS) == []
    assert find_warnings(None, outcome(120, 55), VALIDATIONS) == []
    none = {name: np.array([]) for name in VALIDATIONS}
    (lost,) = find_warnings(outcome(100, 50), outcome(float("nan"), 40), none)
    assert lost.endswith("100.0 before any step.")
    scratch = {"test": outcome(80, 40), "ratio": outcome(0.8, 1.25)}
    (beaten,) = find_warnings(outcome(100, 50), outcome(90, 40), VALIDATIONS, scratch)
    assert "from scratch has the better forces: test MAE 80.0 meV/Å, 1.25 times lower" in beaten


def test_the_advice_names_settings_that_exist() -> None:
    overrides = re.findall(r"[\w/.]+=[\w]+", ADVICE)
    assert len(overrides) == 4
    for override in overrides:
        if override.startswith("transfer="):
            assert strategy(override.partition("=")[2], Path("x"))["freeze"]
        else:
            assert strategy("full", Path("x"), override)


def report(**changes: Any) -> dict[str, Any]:
    start = {"aligned": outcome(200, 90), "validation": outcome(200, 90)}
    made = {"zero_shot": start, "test": outcome(100, 50), "warnings": [], "transfer": {}}
    return made | {"transfer": {"diagnosis": {}}} | changes


def test_the_headline_praises_what_deserves_it() -> None:
    numbers = (
        "Test MAE before any step → after: forces 200.0 → 100.0 meV/Å, energy 90.0 → 50.0 meV."
    )
    assert headline(report()) == f"Tuning helped. {numbers}"
    assert headline(report(warnings=["no"])) == numbers
    assert headline(report(test=outcome(100, 95))).startswith("Test MAE")
    beside = {"diagnosis": {}, "scratch": {"ratio": outcome(3.0, 2.5)}}
    assert headline(report(transfer=beside)) == (
        f"The transfer paid off. {numbers} From scratch, the errors are 3.00 (forces) and 2.50 "
        "(energy) times these."
    )
    assert headline(report(zero_shot={})) == "Test MAE: forces 100.0 meV/Å, energy 50.0 meV."


def test_a_teacher_that_is_likely_to_hurt_is_no_reason_for_praise() -> None:
    transfer = {"diagnosis": {"verdict": "likely to hurt", "reasons": ["signs are flipped"]}}
    expected = ["> **Warning.** The transfer is likely to hurt: signs are flipped."]
    assert caution(transfer) == expected
    assert headline(report(transfer=transfer)).startswith("Test MAE")
    useful = {"diagnosis": {"verdict": "useful", "reasons": ["forces agree"]}}
    assert caution(useful) == []


def test_histories_of_eleven_parts_are_read_in_their_order(tmp_path: Path) -> None:
    for version in range(11):
        folder = tmp_path / "csv" / f"version_{version}"
        folder.mkdir(parents=True)
        row = f"9,{version}.0,{version}.5\n"
        (folder / "metrics.csv").write_text("step,val_e_mae,val_f_mae\n" + row)
    last = history(tmp_path, "e", "f")
    assert last["forces"] == pytest.approx([10500.0])
    assert history(tmp_path)["step"].tolist() == []


def test_changes_of_adapted_weights_count() -> None:
    model = build("tpainn")
    start = network_state(model)
    Lora(rank=2).attach(model)
    assert set(parameter_changes(start, model).values()) == {0.0}
    head: Any = model.output_modules[0].outnet[0]
    before = head.weight.detach().clone()
    with torch.no_grad():
        head.parametrizations.weight[0].up += 0.3
    change = (head.weight - before).norm().item()
    norm = torch.cat([t.flatten() for n, t in start.items() if "outnet" in n]).norm().item()
    assert parameter_changes(start, model)["head"] == pytest.approx(change / norm, rel=1e-5)
