"""The demo from one command, small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from schnetpack_tpainn.cli.demo import main

pytestmark = pytest.mark.slow

SMALL = [
    *(
        "--pretrain-frames",
        "240",
        "--pretrain-steps",
        "240",
        "--xtb-steps",
        "240",
        "--tune-steps",
        "40",
    ),
    *("--seeds", "0", "--md-ps", "0.02", "--md-reference", "1"),
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("demo")
    command = [Path(sys.executable).with_name("tpainn-demo"), *SMALL]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "from scratch / autotuned" in done.stdout
    return place / "runs" / "demo"


def test_the_report_has_what_is_promised(demo: Path) -> None:
    report = json.loads((demo / "report.json").read_text())
    assert report["n_train"] == 10
    assert report["seeds"] == [0]
    test = report["test"]
    for name in ("force_field", "scratch", "autotune", "recipe"):
        assert test[name]["energy_mae_mev"] > 0
        assert test[name]["forces_mae_mev_per_ang"] > 0
    # even so small, what was learned from the force field is worth more than a random start
    assert test["ratio"]["autotune"]["forces_mae_mev_per_ang"]["of_means"] > 1.1
    # and what was learned from a better teacher, brought nearer by the labels, more
    plain, recipe = (
        test["ratio"][name]["forces_mae_mev_per_ang"]["per_seed"] for name in ("autotune", "recipe")
    )
    assert all(b > a for a, b in zip(plain, recipe, strict=True))
    assert (
        test["autotune"]["forces_mae_mev_per_ang"] < test["force_field"]["forces_mae_mev_per_ang"]
    )
    assert report["md"]["duration_ps"] == pytest.approx(0.02)
    assert report["md"]["against_dft"]["n_frames"] == 1
    assert report["data"]["level_of_theory"]["xc"] == "wb97x-d3bj"
    own = json.loads((demo / "autotune_0" / "report.json").read_text())["test"]["energy_mae_mev"]
    assert test["autotune"]["energy_mae_mev"] == pytest.approx(own)


def test_the_folder_holds_report_and_plots(demo: Path) -> None:
    text = (demo / "report.md").read_text()
    assert "| autotuned |" in text
    assert "| autotuned via xTB |" in text
    for name in ("errors.png", "parity.png", "learning.png", "md_energy.png"):
        assert (demo / name).stat().st_size > 10_000
        assert name in text
    assert (demo / "md" / "trajectory.traj").stat().st_size > 0


def test_a_second_call_repeats_nothing_and_other_settings_are_refused(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo.parents[1])
    trained = (demo / "autotune_0" / "report.json").stat().st_mtime_ns
    main(SMALL)
    assert (demo / "autotune_0" / "report.json").stat().st_mtime_ns == trained
    with pytest.raises(SystemExit, match="demo with other settings"):
        main([*SMALL, "--n-train", "20"])


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit, match="with other files; choose another --directory"):
        main([*SMALL, "--directory", str(tmp_path)])
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
