"""Reports of real runs of tiny models: before the first step, after the last, and in between."""

import json
import logging
from pathlib import Path

import ase.db
import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from reports import FREEZE, read, run
from safetensors.torch import load_file

from schnetpack_tpainn.errors import TransferError
from schnetpack_tpainn.transfer.pretrained import load_pretrained
from tests.fits import make_labels, save_pretrained, strategy


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def labels(place: Path) -> Path:
    return make_labels(place)


@pytest.fixture(scope="module")
def pretrained(place: Path) -> Path:
    return save_pretrained(place, "tpainn")


@pytest.fixture(scope="module")
def scratch(place: Path, labels: Path) -> Path:
    return run(place / "scratch", labels, strategy("scratch"))


@pytest.fixture(scope="module")
def tuned(place: Path, labels: Path, pretrained: Path, scratch: Path) -> Path:
    transfer = strategy("full", pretrained, *FREEZE)
    return run(place / "tuned", labels, transfer, {"scratch": str(scratch)})


def rows(folder: Path, title: str) -> dict[str, list[str]]:
    """First cell -> other cells of a table in `report.md`, its headings among them."""
    section = (folder / "report.md").read_text().split(f"## {title}\n\n")[1].split("\n\n")[0]
    cells = [[c.strip() for c in line[2:-2].split(" | ")] for line in section.splitlines()]
    return {line[0]: line[1:] for line in cells}


def test_the_parameter_table_says_what_happened_to_every_block(tuned: Path) -> None:
    table = rows(tuned, "Parameters")
    assert table["block"] == ["copied", "reinitialised", "frozen", "trained", "factor"]
    assert table["embedding"] == ["800", "–", "800", "–", "–"]
    assert table["interaction 0"][3:] == [table["interaction 0"][0], "1"]
    assert table["filter_net"][-1] == "0.5"
    fresh = 8 * 4 + 4
    assert table["head"] == ["5", str(fresh), "–", str(fresh + 5), "1"]
    blocks = read(tuned, "transfer.json")["blocks"]
    for k, kind in enumerate(table["block"][:-1]):
        assert table["all"][k] == f"{sum(b[kind] for b in blocks.values()):,}"
    text = (tuned / "report.md").read_text()
    assert "Reinitialised as asked: `output_modules.0.outnet.0.bias`" in text


def test_a_run_that_was_killed_leaves_what_was_known_before_the_first_step(
    place: Path, labels: Path, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place / "early"
    with pytest.raises(InterruptedError):
        run(folder, labels, strategy("full", pretrained, *FREEZE), kill=0)
    assert not (folder / "report.json").exists()
    transfer = read(folder, "transfer.json")
    assert transfer["zero_shot"]["validation"]["n_frames"] == 4
    assert transfer["learning_rates"]["base"] == 1e-3
    assert {g["factor"] for g in transfer["learning_rates"]["groups"]} == {0.5, 1.0}
    shown = capsys.readouterr().out
    assert "\n\nTraining has not finished." in (folder / "report.md").read_text()
    for title in ("Parameters", "Pretraining and this run", "Zero-shot: before any step"):
        assert rows(folder, title)
        assert title in shown
    assert rows(folder, "Pretraining and this run")["cutoff (Å)"] == ["4.0", "4.0", "agrees"]
    start = load_pretrained(folder / "start.safetensors")
    source = load_pretrained(pretrained).state
    for name, tensor in start.state.items():
        expected = tensor if "outnet.0" in name else source[name]
        factor = transfer["alignment"]["scale"] if "outnet.1" in name else 1.0
        assert torch.allclose(tensor, expected * factor), name


def test_the_report_holds_errors_on_every_part_and_by_element(tuned: Path, labels: Path) -> None:
    report = read(tuned)
    assert report["schema"] == 2
    assert [report[k]["n_frames"] for k in ("train", "validation", "test")] == [8, 4, 4]
    stored, split = np.load(tuned / "test_predictions.npz"), np.load(tuned / "split.npz")
    error = np.abs(stored["forces"] - stored["forces_label"]).mean(axis=1) * 1e3
    with ase.db.connect(labels) as db:
        frames = [db.get(int(i) + 1).toatoms() for i in split["test_idx"]]
    numbers = np.concatenate([frame.numbers for frame in frames])
    for z, symbol in ((1, "H"), (6, "C"), (8, "O")):
        entry = report["by_element"][symbol]
        assert entry["n_atoms"] == (numbers == z).sum()
        assert entry["forces_mae_mev_per_ang"] == pytest.approx(error[numbers == z].mean(), 1e-5)
        assert (
            rows(tuned, "Forces by element, test frames")[symbol][1]
            == f"{error[numbers == z].mean():.1f}"
        )
    energy = np.abs(stored["energy"] - stored["energy_label"]).mean() * 1e3
    assert report["test"]["energy_mae_mev"] == pytest.approx(energy)
    history = read_history(tuned)
    assert report["validation"]["forces_mae_mev_per_ang"] == pytest.approx(history[-1], rel=1e-4)


def read_history(folder: Path) -> list[float]:
    """Forces' MAE (meV/Å) of every validation, as Lightning wrote it."""
    table = np.genfromtxt(folder / "csv/version_0/metrics.csv", delimiter=",", names=True)
    values = table["val_forces_mae"]
    return list(values[np.isfinite(values)] * 1e3)


def test_a_run_from_scratch_stands_beside_the_transfer(tuned: Path, scratch: Path) -> None:
    ours, theirs = read(tuned), read(scratch)
    compared = ours["transfer"]["scratch"]
    assert compared["test"] == theirs["test"]
    assert (compared["n_train"], compared["same_labels"]) == (8, True)
    for key in ("energy_mae_mev", "forces_mae_mev_per_ang"):
        assert compared["ratio"][key] == pytest.approx(theirs["test"][key] / ours["test"][key])
    expected = f"{theirs['test']['forces_mae_mev_per_ang']:.1f}"
    assert rows(tuned, "Result, test frames")["from scratch"][-1] == expected
    by_element = rows(tuned, "Forces by element, test frames")["H"]
    assert by_element[2] == f"{theirs['by_element']['H']['forces_mae_mev_per_ang']:.1f}"
    assert rows(scratch, "Result, test frames").keys() == {"", "---", "after training"}


@pytest.mark.parametrize("what", ["unfinished", "transfer", "frames", "data", "no split", "itself"])
def test_runs_from_scratch_that_do_not_compare_are_refused_before_the_first_step(
    what: str, tmp_path: Path, labels: Path, pretrained: Path, scratch: Path, tuned: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    report, data, transfer = read(scratch), {}, strategy("full", pretrained)
    split = dict(np.load(scratch / "split.npz"))
    message = {
        "unfinished": "no readable .*report.json",
        "transfer": "expected a run with transfer=scratch, got .* with transfer=full",
        "frames": "expected a run with this one's 4 test frames",
        "data": r"a run on the data of this one \(path .*labels.db\), got .* with path /elsewhere",
        "no split": "split.npz, which tells that run's test frames",
        "itself": "got transfer=scratch",
    }[what]
    if what == "transfer":
        report = read(tuned)
    if what == "data":
        report["data"]["path"] = "/elsewhere"
    if what == "frames":
        split["test_idx"] = split["test_idx"] + 1
    if what == "itself":
        transfer = strategy("scratch")
    if what != "unfinished":
        (other / "report.json").write_text(json.dumps(report))
    if what != "no split":
        np.savez(other / "split.npz", **split)
    with pytest.raises(TransferError, match=message):
        run(tmp_path / "run", labels, transfer, {"scratch": str(other)}, **data)
    assert not (tmp_path / "run" / "transfer.json").exists()


def test_nobody_overlooks_tuning_that_made_the_model_worse(
    place: Path,
    labels: Path,
    scratch: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # the run from scratch makes a teacher that is hard to better
    transfer, settings = strategy("full", scratch), {"scratch": str(scratch)}
    folder = run(place / "absurd", labels, transfer, settings, lr=0.1)
    report = read(folder)
    before = report["zero_shot"]["validation"]["forces_mae_mev_per_ang"]
    after = report["validation"]["forces_mae_mev_per_ang"]
    assert after > before
    warning = (
        f"Tuning made the forces worse: validation MAE {after:.1f} meV/Å with the weights that "
        f"were kept, {before:.1f} before any step"
    )
    assert report["warnings"][0].startswith(warning)
    assert any("run from scratch has the better forces" in w for w in report["warnings"])
    lead = (folder / "report.md").read_text().split("\n\n")
    assert lead[1].startswith(f"> **Warning.** {warning}")
    assert "lower the learning rate" in lead[1 + len(report["warnings"])]
    assert "paid off" not in "".join(lead)
    assert any(warning in r.message for r in caplog.records if r.levelno == logging.WARNING)
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert warning in shown
    assert "WARNING" in shown


def test_tuning_that_helped_raises_no_alarm(tuned: Path, scratch: Path) -> None:
    report = read(tuned)
    for key in ("forces_mae_mev_per_ang", "energy_mae_mev"):
        assert report["validation"][key] < report["zero_shot"]["validation"][key]
    assert not [w for w in report["warnings"] if "Tuning" in w]
    assert read(scratch)["warnings"] == []


def test_a_resumed_run_keeps_the_tables_from_before_the_first_step(
    place: Path, labels: Path, pretrained: Path
) -> None:
    transfer = strategy("full", pretrained)
    with pytest.raises(InterruptedError):
        run(place / "cut", labels, transfer, kill=15)
    lead = (place / "cut" / "report.md").read_text().split("\n\n")[1]
    assert lead.startswith("> **Warning.** The transfer is likely to hurt: ")  # a random teacher
    before = {n: (place / "cut" / n).read_bytes() for n in ("transfer.json", "start.safetensors")}
    folder = run(place / "cut", labels, transfer)
    for name, content in before.items():
        assert (folder / name).read_bytes() == content
    report = read(folder)
    assert report["optimiser_steps"] == 40
    for key, value in json.loads(before["transfer.json"]).items():
        if key != "alignment":  # which takes the refit after training
            assert report["transfer"][key] == value, key
    assert rows(folder, "Zero-shot: before any step")
    assert "- teacher: likely to hurt" in (folder / "report.md").read_text()
    assert rows(folder, "Teacher's forces by element").keys() >= {"H", "C", "O"}
    assert report["figures"] == ["learning.png", "parity.png", "changes.png"]


def test_changes_are_measured_from_the_start(tuned: Path) -> None:
    moved = read(tuned)["transfer"]["changes"]
    start, end = (load_file(tuned / f"{n}.safetensors") for n in ("start", "model"))
    assert moved["embedding"] == 0.0
    head = [n for n in end if n.startswith("output_modules")]
    change = torch.cat([(end[n] - start[n]).flatten() for n in head]).norm()
    norm = torch.cat([start[n].flatten() for n in head]).norm()
    assert moved["head"] == pytest.approx((change / norm).item(), rel=1e-4)
    assert moved["head"] > 0


def test_figures_are_linked_where_there_are_any(tuned: Path, scratch: Path) -> None:
    for folder, names in (
        (tuned, ["learning.png", "parity.png", "changes.png"]),
        (scratch, ["learning.png", "parity.png"]),
    ):
        assert read(folder)["figures"] == names
        text = (folder / "report.md").read_text()
        for name in names:
            assert text.count(f"]({name})") == 1
            assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert text.count(".png)") == len(names)


def test_pretraining_has_a_short_report(place: Path, labels: Path) -> None:
    folder = run(place / "pre", labels, None, {"stage": "pretrain"})
    text = (folder / "report.md").read_text()
    assert text.startswith("# Pretraining: pre\n\n**Test MAE: forces ")
    assert "Zero-shot" not in text
    assert "Pretraining and this run" not in text
    report = read(folder)
    assert (report["strategy"], report["zero_shot"], report["warnings"]) == ("scratch", {}, [])
    assert not (folder / "start.safetensors").exists()


class Second(Trainer):
    """What the second of two processes has."""

    @property
    def is_global_zero(self) -> bool:
        return False


def test_only_the_first_process_writes(place: Path, labels: Path, pretrained: Path) -> None:
    folder = run(place / "second", labels, strategy("full", pretrained), trainer_cls=Second)
    assert not {p.suffix for p in folder.iterdir()} & {".json", ".md", ".png", ".safetensors"}
    assert not (folder / "test_predictions.npz").exists()


def test_training_errors_are_of_so_many_frames_at_most(
    place: Path, labels: Path, monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    monkeypatch.setattr("schnetpack_tpainn.transfer.report.MAX_TRAIN", 3)
    folder = run(place / "capped", labels, strategy("scratch"))
    assert read(folder)["train"]["n_frames"] == 3
    assert read(folder)["test"] == read(scratch)["test"]
