"""Two processes that halve every batch do what one does."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from schnetpack_tpainn.transfer.pretrained import load_pretrained
from tests.conftest import Spktrain
from tests.fits import CUTOFF, N_TEST, N_TRAIN, N_VAL

pytestmark = pytest.mark.slow


def test_two_processes_do_what_one_does(
    place: Path, labels: Path, pretrained: Callable[[str], Path], spktrain: Spktrain
) -> None:
    """With freezing and gradual unfreezing; a step is a pass over all training frames in both."""
    settings = [
        "experiment=tpainn_autotune",
        *("data/source=tpainn_database", f"data.datapath={labels}"),
        *(f"data.num_train={N_TRAIN}", f"data.num_val={N_VAL}", f"data.num_test={N_TEST}"),
        *("model.representation.n_atom_basis=8", "model.representation.n_interactions=2"),
        *("model.representation.radial_basis.n_rbf=6", f"globals.cutoff={CUTOFF}"),
        *("transfer=gradual", "transfer.freeze=[filter]", "transfer.layer_decay=0.5"),
        f"transfer.checkpoint={pretrained('tpainn')}",
        *("trainer.max_steps=8", "trainer.val_check_interval=2", "globals.lr=1e-2"),
    ]
    ddp = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.strategy=ddp"]
    spktrain(place, *settings, f"data.batch_size={N_TRAIN}", "run.id=one")
    spktrain(place, *settings, f"data.batch_size={N_TRAIN // 2}", *ddp, "run.id=two")
    runs = [place / "runs" / name for name in ("one", "two")]

    one, two = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in runs)
    assert one["global_step"] == two["global_step"] == 8
    start = load_pretrained(pretrained("tpainn")).state
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], tensor, rtol=1e-4, atol=2e-6, msg=name)
        if name.startswith("model.representation") and name.endswith(("weight", "bias")):
            same = torch.equal(tensor, start[name.removeprefix("model.")])
            assert same == ("filter" in name), name
    assert two["state_dict"]["parts.0._extra_state"][0] == 4
    # every process unfreezes, and sees the validation loss of all frames
    (second,) = runs[1].glob("train_ddp_process_1.log")
    assert "4 of 4 levels are tuned" in second.read_text()
    losses = [validation_losses(run) for run in runs]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    reports = [json.loads((run / "report.json").read_text()) for run in runs]
    for key, value in reports[0]["test"].items():
        if isinstance(value, float):
            assert reports[1]["test"][key] == pytest.approx(value, rel=1e-4), key


def validation_losses(run: Path) -> list[float]:
    """The column `val_loss` of the metrics."""
    (path,) = run.glob("csv/*/metrics.csv")
    table = np.genfromtxt(path, delimiter=",", names=True)
    return table["val_loss"][~np.isnan(table["val_loss"])].tolist()
