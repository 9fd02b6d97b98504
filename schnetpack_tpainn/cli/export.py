"""``tpainn-export``: a trained model as one portable file, which opens without running code."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from schnetpack_tpainn.cli.command import run_command
from schnetpack_tpainn.errors import CheckpointError
from schnetpack_tpainn.files import write_json

__all__ = ["main"]

OWN = Path("runs")
SHOWN = ("stage", "level_of_theory", "units", "data")

EPILOG = """\
examples:
  tpainn-export runs/pretrain -o water_mmff94.safetensors
  tpainn-export runs/autotuned/checkpoints/last.ckpt -o water_pbe0.safetensors
  spktrain experiment=tpainn_autotune transfer.checkpoint=water_mmff94.safetensors
  tpainn-md model=water_pbe0.safetensors structure=water.xyz
  tpainn-export runs/ensemble_tpainn_autotune -o water_ensemble.safetensors

Low-rank adapters are merged into the weights, energy offsets go along. OUTPUT.json is a readable
copy of the card. Pickles (a best_model, or a .ckpt of SchNetPack's own task) run code when they are
opened: those below ./runs that belong to you are opened, others with --trust-pickle.

exit status: 0 written; 2 nothing was written.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tpainn-export",
        description="Write a trained SchNetPack model in the portable form: weights, energy "
        "offsets and a card (how it is built, units, elements, data, versions) in one "
        "safetensors file, for transfer.checkpoint, tpainn-md and TPaiNNCalculator.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        type=Path,
        help="run directory, .ckpt, best_model, .safetensors; directory of tpainn-ensemble",
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, help="file to write (.safetensors)"
    )
    parser.add_argument(
        "--trust-pickle", action="store_true", help="open a pickle from elsewhere: it runs code"
    )
    parser.add_argument("--force", action="store_true", help="write over OUTPUT and OUTPUT.json")
    return parser


def _export(arguments: argparse.Namespace, console: Console) -> None:
    output: Path = arguments.output
    if output.suffix != ".safetensors":
        raise CheckpointError(f"expected an output that ends in .safetensors, got {output}")
    readable = output.with_suffix(".json")
    for path in (output, readable):
        if path.exists() and not arguments.force:
            raise CheckpointError(
                f"{path} exists and is not written over; choose another name, or add --force"
            )
    from schnetpack_tpainn.transfer.ensemble import find_ensemble
    from schnetpack_tpainn.transfer.portable import build_model, save_portable
    from schnetpack_tpainn.transfer.pretrained import load_pretrained

    ensemble = find_ensemble(arguments.source)
    if ensemble is not None:
        _export_ensemble(ensemble, output, console)
        return
    pretrained = load_pretrained(arguments.source, arguments.trust_pickle, OWN)
    card = pretrained.card
    if card.get("model_config") is not None:
        build_model(pretrained)  # what does not build is not written
    output.parent.mkdir(parents=True, exist_ok=True)
    save_portable(output, pretrained.state, card, pretrained.offsets)
    write_json(readable, card)
    n = sum(tensor.numel() for tensor in pretrained.state.values())
    console.print(_table(card, sorted(pretrained.offsets), n, str(output)))
    if card.get("model_config") is None:
        console.print(
            f"{arguments.source} does not say how its model is built: {output} serves as "
            "transfer.checkpoint, not for simulation; export its run directory if there is one",
            soft_wrap=True,
        )


def _export_ensemble(source: Path, output: Path, console: Console) -> None:
    """Write the members and their calibration, after a look at each."""
    from schnetpack_tpainn.transfer.ensemble import read_ensemble, save_ensemble
    from schnetpack_tpainn.transfer.portable import build_model

    ensemble = read_ensemble(source)
    for member in ensemble.members:
        build_model(member)  # what does not build is not written
    output.parent.mkdir(parents=True, exist_ok=True)
    save_ensemble(output, ensemble.members, ensemble.calibration)
    calibration = None if ensemble.calibration is None else asdict(ensemble.calibration)
    cards = [dict(member.card) for member in ensemble.members]
    write_json(output.with_suffix(".json"), {"members": cards, "calibration": calibration})
    first = ensemble.members[0]
    n = sum(tensor.numel() for member in ensemble.members for tensor in member.state.values())
    title = f"{output}: ensemble of {len(cards)}"
    console.print(_table(first.card, sorted(first.offsets), n, title))


def _table(card: Mapping[str, Any], offsets: Sequence[str], n: int, title: str) -> Table:
    from ase.data import chemical_symbols

    elements = card.get("elements")
    rows = {
        **{k: v for k, v in card["architecture"].items() if v is not None},
        "weights": n,
        "elements": elements and ", ".join(chemical_symbols[z] for z in elements),
        "offsets": ", ".join(offsets),
        "labels": ", ".join(card.get("labels") or ()),
        **{key: card.get(key) for key in SHOWN},
    }
    rows["data"] = (rows["data"] or {}).get("path")
    table = Table(title=title, show_header=False)
    for name, value in rows.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key.strip('_')}: {part}" for key, part in value.items())
        table.add_row(name, str(value or "not known"))
    return table


def main(words: Sequence[str] | None = None) -> int:
    """Export a model from the command line.

    Args:
        words: the command line; that of the process when None.

    Returns:
        0 when it is written, 2 on an error of use.
    """
    return run_command(_parser(), _export, words)
