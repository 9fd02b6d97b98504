"""The selection benchmark's own splits and its table."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from ase.db import connect

from benchmarks.selection import FILE_3BPA, database, split, table

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data" / FILE_3BPA


def test_tests_stay_and_first_labels_come_from_the_pool(tmp_path: Path) -> None:
    s = Namespace(set="ethanol", data=tmp_path, directory=tmp_path, start=10)
    path = database(s)
    assert database(s) == path
    with connect(path) as db:
        parts = [row.part for row in db.select(include_data=False)]
    found = []
    for seed in (0, 1):
        with np.load(split(s, path, seed)) as file:
            found.append({name: file[name].tolist() for name in file.files})
    for part in found:
        assert {parts[i] for i in part["test_idx"]} == {"test"}
        assert {parts[i] for i in (*part["train_idx"], *part["val_idx"])} == {"pool"}
        assert [len(part[k]) for k in ("train_idx", "val_idx", "test_idx")] == [10, 50, 500]
        assert not set(part["train_idx"]) & set(part["val_idx"])
    assert found[0]["test_idx"] == found[1]["test_idx"]
    assert found[0]["train_idx"] != found[1]["train_idx"]


def test_ratios_are_paired_by_seed() -> None:
    def errors(energy: float, forces: float) -> dict[str, float]:
        return {"energy_mae_mev": energy, "forces_mae_mev_per_ang": forces}

    test = {
        "farthest": {"0": errors(10.0, 40.0), "1": errors(10.0, 10.0)},
        "random": {"0": errors(20.0, 40.0), "1": errors(5.0, 40.0)},
    }
    rows = table(test).splitlines()
    assert rows[2] == (
        "| farthest | 10.0 ± 0.0 | 1.00 (0.50 to 2.00) | 25.0 ± 21.2 | 2.00 (1.00 to 4.00) |"
    )
    assert "random / this" in rows[0]
    assert table({"farthest": test["farthest"]}).splitlines()[2].endswith("| 25.0 ± 21.2 |  |")


@pytest.mark.data
@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published data are not at hand")
def test_the_published_set_is_split_by_seed_alone(tmp_path: Path) -> None:
    s = Namespace(
        set="3bpa", data=tmp_path, directory=tmp_path, start=10, published=PUBLISHED.parent
    )
    with np.load(split(s, database(s), 0)) as file:
        parts = [file[k].tolist() for k in ("train_idx", "val_idx", "test_idx")]
    assert [len(part) for part in parts] == [10, 20, 200]
    assert len({i for part in parts for i in part}) == 230
