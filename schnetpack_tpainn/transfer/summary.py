"""A run in tables and sentences: what was done before the first step, and what came of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ase.data import chemical_symbols

from schnetpack_tpainn.transfer import diagnose
from schnetpack_tpainn.transfer.architecture import differences
from schnetpack_tpainn.transfer.outcome import ADVICE, targets
from schnetpack_tpainn.transfer.tables import Table
from schnetpack_tpainn.transfer.verdict import VERDICTS

__all__ = ["caution", "headline", "lead", "tables_after", "tables_before"]

KINDS = ("copied", "reinitialised", "adapter", "frozen", "trained")
COLUMNS = {
    "energy_mae_mev": "energy MAE (meV)",
    "energy_mae_mev_per_atom": "per atom (meV)",
    "forces_mae_mev_per_ang": "forces MAE (meV/Å)",
}
ARCHITECTURE = {
    "representation": "representation",
    "cutoff_ang": "cutoff (Å)",
    "cutoff_fn": "cutoff function",
    "radial_basis": "radial basis",
    "n_rbf": "radial functions",
    "n_interactions": "interactions",
    "n_atom_basis": "features",
    "lmax": "l max",
    "irreps": "irreps",
}
ZERO_SHOT = {
    "copied": "copied, offsets fitted",
    "aligned": "copied and aligned",
}
BEFORE_AFTER = ("before", "after")
NONE = "–"


def _number(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(" + ".join(map(str, v)) if isinstance(v, list) else str(v) for v in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _listed(values: Sequence[str], most: int = 8) -> str:
    more = len(values) - most
    text = ", ".join(f"`{v}`" for v in values[:most])
    return text + (f" and {more} more (see transfer.json)" if more > 0 else "")


def _blocks(transfer: Mapping[str, Any]) -> Table:
    """Parameters of each block by what happened to them, and how fast they are tuned."""
    blocks, rates = transfer["blocks"], transfer["learning_rates"]["blocks"]
    kinds = [k for k in KINDS if any(block[k] for block in blocks.values())]
    rows = []
    for name, block in blocks.items():
        low, high = rates.get(name, (0.0, 0.0))
        factor = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        counts = [_number(block[k]) if block[k] else NONE for k in kinds]
        rows.append([name, *counts, factor if name in rates else NONE])
    totals = [sum(block[k] for block in blocks.values()) for k in kinds]
    rows.append(["all", *map(_number, totals), ""])
    notes = [f"The factor is one on the learning rate {transfer['learning_rates']['base']:g}."]
    renamed = [f"{old} → {new}" for old, new in transfer["renamed"].items()]
    if renamed:
        notes.append(f"Renamed: {_listed(renamed)}.")
    if transfer["reinitialised"]:
        notes.append(f"Reinitialised as asked: {_listed(transfer['reinitialised'])}.")
    return Table("Parameters", ["block", *kinds, "factor"], rows, " ".join(notes))


def _symbols(numbers: Sequence[int] | None) -> str:
    return NONE if numbers is None else ", ".join(chemical_symbols[z] for z in numbers)


def _teacher(card: Mapping[str, Any]) -> str:
    """What made the labels, by name and plain settings."""
    theory = card.get("level_of_theory") or NONE
    if not isinstance(theory, Mapping):
        return str(theory)
    values = [str(v) for k, v in theory.items() if k != "_target_" and isinstance(v, str)]
    name = str(theory.get("_target_", "")).rpartition(".")[2]
    return ", ".join(filter(None, [name, *values]))


def _agreement(transfer: Mapping[str, Any]) -> Table:
    """The pretrained model and data beside this run's."""
    then, now = transfer["pretrained"], transfer["card"]
    old, new = then.get("architecture", {}), now["architecture"]
    differ = differences(old, new)
    rows = [
        [text, str(old.get(k)), str(new[k]), "differs (accepted)" if k in differ else "agrees"]
        for k, text in ARCHITECTURE.items()
        if old.get(k) is not None or new.get(k) is not None
    ]
    units = [", ".join((c.get("units") or {}).values()) or NONE for c in (then, now)]
    rows.append(["units", *units, "agrees" if units[0] == units[1] else "not known"])
    seen, fresh = then.get("elements"), transfer["new_elements"]
    missing = [f"{symbol}: {source}" for symbol, source in fresh.items()]
    verdict = "new " + "; ".join(missing) if missing else "agrees"
    if seen is None:
        verdict = "not known"
    rows.append(["elements", _symbols(seen), _symbols(now["elements"]), verdict])
    trained = [", ".join(c.get("labels") or ()) or NONE for c in (then, now)]
    rows.append(["trained on", *trained, ""])
    rows.append(["labels from", _teacher(then), _teacher(now), ""])
    note = f"Weights from `{transfer['checkpoint']}`."
    return Table("Pretraining and this run", ["", "pretrained", "here", ""], rows, note)


def _errors(title: str, entries: Mapping[str, Mapping[str, float]], note: str = "") -> Table:
    columns = {k: text for k, text in COLUMNS.items() if all(k in e for e in entries.values())}
    rows = [
        [name, _number(int(e["n_frames"])), *(f"{e[key]:.1f}" for key in columns)]
        for name, e in entries.items()
    ]
    return Table(title, ["", "frames", *columns.values()], rows, note)


def _alignment(fit: Mapping[str, Any]) -> Table:
    """What the closed-form fits found and gained."""
    refit = fit.get("final_bias_refit", {})
    entries = {
        **{f"{when} the fit": fit[when] for when in BEFORE_AFTER if when in fit},
        **{f"{when} the last refit": refit[when] for when in BEFORE_AFTER if when in refit},
    }
    plain = {
        k: v
        for k, v in fit.items()
        if isinstance(v, float | str) and not (k == "fitted_scale" and v == fit["scale"])
    }
    found = [f"{k.replace('_', ' ')} {_number(v)}" for k, v in plain.items()]
    rank = f"Compositions of rank {fit['rank']} for {fit['n_elements']} elements"
    return _errors("Alignment, training labels", entries, "; ".join([rank, *found]) + ".")


def _diagnosis(diagnosis: Mapping[str, Any]) -> list[Table]:
    """Whether the pretrained model is a useful teacher; the terminal has the text already."""
    text = "\n".join(f"- {line.strip()}" for line in diagnose.lines(diagnosis))
    tables = [Table(*table) for table in diagnose.tables(diagnosis)]
    return [Table("Diagnosis, training labels", [], [], text), *tables]


def caution(transfer: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the teacher, before and after training.

    Args:
        transfer: content of ``transfer.json``.

    Returns:
        A paragraph of Markdown where the transfer is likely to hurt, else none.
    """
    diagnosis = transfer["diagnosis"]
    if not diagnosis or diagnosis["verdict"] != VERDICTS[-1]:
        return []
    return [f"> **Warning.** The transfer is {VERDICTS[-1]}: {diagnosis['reasons'][0]}."]


def _parts(parts: Mapping[str, Any]) -> Table:
    rows = []
    for name, part in parts.items():
        values = part.items() if isinstance(part, Mapping) else [("", part)]
        rows.append([name, "; ".join(f"{k.replace('_', ' ')} {_number(v)}" for k, v in values)])
    return Table("Anchor, replay, gradual unfreezing", ["", "settings"], rows)


def tables_before(transfer: Mapping[str, Any]) -> list[Table]:
    """What was done before the first step.

    Args:
        transfer: content of ``transfer.json``.

    Returns:
        The tables that apply; fewer for a run from scratch.
    """
    tables = []
    if transfer["blocks"]:
        tables.append(_blocks(transfer))
    if transfer["checkpoint"] is not None:
        tables.append(_agreement(transfer))
    if transfer["alignment"]:
        tables.append(_alignment(transfer["alignment"]))
    if transfer["diagnosis"]:
        tables += _diagnosis(transfer["diagnosis"])
    zero_shot = transfer["zero_shot"]
    names = {**{k: f"{v}, test" for k, v in ZERO_SHOT.items()}, "validation": "aligned, validation"}
    if zero_shot:
        entries = {text: zero_shot[k] for k, text in names.items() if k in zero_shot}
        tables.append(_errors("Zero-shot: before any step", entries))
    if transfer["parts"]:
        tables.append(_parts(transfer["parts"]))
    return tables


def _result(report: Mapping[str, Any]) -> Table:
    """Test errors from the start to the end, and from scratch."""
    zero_shot, scratch = report["zero_shot"], report["transfer"].get("scratch")
    entries = {text: zero_shot[k] for k, text in ZERO_SHOT.items() if k in zero_shot}
    entries["after training"] = report["test"]
    note = ""
    if scratch:
        entries["from scratch"] = scratch["test"]
        same = "the same" if scratch["same_labels"] else "other"
        note = (
            f"From scratch: {same} training labels ({scratch['n_train']}), "
            f"{scratch['optimiser_steps']:,} steps (here {report['n_train']} and "
            f"{report['optimiser_steps']:,}); `{scratch['path']}`."
        )
    return _errors("Result, test frames", entries, note)


def _by_element(report: Mapping[str, Any]) -> Table:
    scratch = (report["transfer"].get("scratch") or {}).get("by_element", {})
    key, columns = "forces_mae_mev_per_ang", ["", "atoms", "forces MAE (meV/Å)"]
    rows = []
    for element, e in report["by_element"].items():
        row = [element, _number(e["n_atoms"]), f"{e[key]:.1f}"]
        rows.append([*row, *([f"{scratch[element][key]:.1f}"] if scratch else [])])
    columns += ["from scratch"] if scratch else []
    return Table("Forces by element, test frames", columns, rows)


def tables_after(report: Mapping[str, Any]) -> list[Table]:
    """What came of a run.

    Args:
        report: content of ``report.json``.

    Returns:
        The tables; the first is the result.
    """
    kept = {name: report[name] for name in ("train", "validation", "test")}
    tables = [_result(report), _errors("Errors after training", kept)]
    return [*tables, *([_by_element(report)] if "by_element" in report else [])]


def headline(report: Mapping[str, Any]) -> str:
    """The result in one sentence.

    Args:
        report: content of ``report.json``.

    Returns:
        The sentence.
    """
    test, start = report["test"], report["zero_shot"].get("aligned")
    parts = []
    for what, (key, unit) in targets(test).items():
        before = f"{start[key]:.1f} → " if start else ""
        parts.append(f"{what} {before}{test[key]:.1f} {unit}")
    scratch = report["transfer"].get("scratch")
    praise = ""
    better = start and all(test[key] < start[key] for key, _ in targets(test).values())
    if better and not report["warnings"] and (scratch or not caution(report["transfer"])):
        praise = "The transfer paid off. " if scratch else "Tuning helped. "
    text = f"{praise}Test MAE{' before any step → after' if start else ''}: {', '.join(parts)}."
    if scratch:
        ratio = scratch["ratio"]
        times = [f"{ratio[key]:.2f} ({what})" for what, (key, _) in targets(ratio).items()]
        text += f" From scratch, the errors are {' and '.join(times)} times these."
    return text


def lead(report: Mapping[str, Any]) -> list[str]:
    """What a reader must see first.

    Args:
        report: content of ``report.json``.

    Returns:
        Paragraphs of Markdown: warnings and what to do, the result, what it was made from.
    """
    warnings = report["warnings"]
    return [
        *(f"> **Warning.** {text}" for text in warnings),
        *([f"> {ADVICE}"] if warnings else []),
        *caution(report["transfer"]),
        f"**{headline(report)}**",
        f"{report['n_train']:,} training, {report['n_val']:,} validation and "
        f"{report['n_test']:,} test frames of `{report['data']['path']}`; "
        f"{report['optimiser_steps']:,} steps in {report['wall_time_s']['training']:.0f} s; "
        f"seed {', '.join(map(str, report['seeds']))}.",
    ]
