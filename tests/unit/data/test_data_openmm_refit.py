"""An OpenMM force field's own parameters fitted to labels, and what is refused."""

import json
import logging
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

from schnetpack_tpainn.cli.refit import main
from schnetpack_tpainn.data.label import compute_label
from schnetpack_tpainn.data.liquid import water_box
from schnetpack_tpainn.data.openmm import OpenMMForceField
from schnetpack_tpainn.data.openmm_parameters import Parameters
from schnetpack_tpainn.data.openmm_refit import refit_openmm
from schnetpack_tpainn.data.openmm_system import MODELS
from schnetpack_tpainn.data.store import labelled, write_database
from schnetpack_tpainn.errors import DataError, TPaiNNError

pytest.importorskip("openmm")
SPCFW = Path(MODELS["spcfw"]).read_text()
OTHER = SPCFW.replace('length="0.1012"', 'length="0.1050"').replace("-0.82", "-0.902")
OTHER = OTHER.replace('charge="0.41"', 'charge="0.451"').replace("0.3165492", "0.33")


def boxes(n: int, seed: int = 0) -> list[Atoms]:
    """Boxes of eight distorted water molecules."""
    found = [water_box(8, 0.7, seed=seed + k) for k in range(n)]
    for k, atoms in enumerate(found):
        atoms.rattle(0.06, seed=seed + k)
    return found


def labels(model: str | list[str], n: int = 4, noise: float = 0.0, seed: int = 0) -> list[Atoms]:
    engine, rng = OpenMMForceField(model, cutoff_ang=3.0), np.random.default_rng(seed)
    frames = [compute_label(atoms, engine) for atoms in boxes(n, seed)]
    return [
        labelled(a, a.get_potential_energy(), a.get_forces() + noise * rng.normal(size=(24, 3)))
        for a in frames
    ]


@pytest.fixture
def other(tmp_path: Path) -> list[str]:
    """SPC/Fw with longer bonds, charges a tenth larger, and larger oxygens."""
    path = tmp_path / "other.xml"
    path.write_text(OTHER)
    return [str(path)]


def test_finds_the_parameters_that_made_the_labels(other: list[str], tmp_path: Path) -> None:
    refit = refit_openmm(labels(other), "spcfw", cutoff_ang=3.0)
    found = refit.summary["parameters"]
    assert refit.summary["used"]
    assert found["HarmonicBondForce/Bond 1 OW-HW length"] == pytest.approx(
        [0.1012, 0.105], rel=1e-3
    )
    assert found["HarmonicBondForce/Bond 1 OW-HW k"][1] == pytest.approx(443153, rel=5e-3)
    assert found["charges"] == pytest.approx(1.1, rel=5e-3)
    errors = refit.summary["cross_validation_mev"]
    assert errors["after"]["forces_mae"] < 0.02 * errors["before"]["forces_mae"]
    refit.write(tmp_path / "refitted.xml")
    unseen, truth = labels([str(tmp_path / "refitted.xml")], 2, seed=9), labels(other, 2, seed=9)
    for a, b in zip(unseen, truth, strict=True):
        assert np.abs(a.get_forces() - b.get_forces()).max() < 0.02  # of up to 10 eV/Å
    assert json.loads((tmp_path / "refitted.refit.json").read_text()) == refit.summary


def test_left_out_errors_are_those_of_fits_without_a_label(other: list[str], tmp_path) -> None:
    frames = labels(other, 4, noise=0.05)
    expected = refit_openmm(frames, "spcfw", cutoff_ang=3.0, folds=4).summary
    squares = []
    for k in range(4):
        refit_openmm([*frames[:k], *frames[k + 1 :]], "spcfw", cutoff_ang=3.0).write(
            tmp_path / f"{k}.xml"
        )
        engine = OpenMMForceField([str(tmp_path / f"{k}.xml")], cutoff_ang=3.0)
        predicted = compute_label(frames[k], engine).get_forces()
        squares.append((frames[k].get_forces() - predicted) ** 2)
    rms = 1e3 * float(np.sqrt(np.mean(squares)))
    errors = expected["cross_validation_mev"]
    assert errors["after"]["forces_rms"] == pytest.approx(rms, rel=0.03)
    assert errors["before"]["forces_rms"] > 5 * rms


def test_noise_is_not_fitted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        refit = refit_openmm(labels("spcfw", 3, noise=0.3), "spcfw", cutoff_ang=3.0)
    assert not refit.summary["used"]
    assert "they are not used" in caplog.text
    assert all(
        change == 1 if name == "charges" else change[0] == change[1]
        for name, change in refit.summary["parameters"].items()
    )


def test_refitted_iamoeba_stays_directly_polarized(tmp_path: Path) -> None:
    parameters = Parameters("iamoeba")
    path = tmp_path / "same.xml"
    path.write_text(parameters.xml(np.ones(len(parameters.names))))
    (expected,), (got,) = labels("iamoeba", 1), labels([str(path)], 1)
    np.testing.assert_allclose(got.get_forces(), expected.get_forces(), atol=1e-4)


def without_forces() -> list[Atoms]:
    frames = labels("spcfw", 2)
    del frames[1].calc.results["forces"]
    return frames


@pytest.mark.parametrize(
    ("frames", "model", "message"),
    [
        (lambda: labels("spcfw", 1), "spcfw", "give two labels at least"),
        (lambda: [*labels("spcfw", 1), Atoms("H2")], "spcfw", "one composition"),
        (without_forces, "spcfw", "label 1 has none"),
        (lambda: labels("spcfw", 2), ["tip3p.xml", "spcfw.xml"], "in one file"),
        (lambda: labels("spcfw", 2), ["missing.xml"], "cannot read"),
        (lambda: labels("spcfw", 2), ["hydrogens.xml"], "from 1 to 200 parameters"),
        (lambda: labels("spcfw", 2), ["amber14/protein.ff14SB.xml"], "from 1 to 200 parameters"),
    ],
)
def test_bad_input(frames, model: str | list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        refit_openmm(frames(), model, cutoff_ang=3.0)


def test_labels_of_another_liquid_are_refused() -> None:
    frames = [labelled(Atoms("CH4", np.eye(5)[:, :3]), 0.0, np.zeros((5, 3)))] * 2
    with pytest.raises(TPaiNNError, match="expected water"):
        refit_openmm(frames, "spcfw")


def test_command_line_sees_training_labels_alone(other: list[str], tmp_path: Path, capsys) -> None:
    train, rest = labels(other, 3), labels("spcfw", 2, seed=5)
    database = write_database(tmp_path / "labels.db", [rest[0], *train, rest[1]], {})
    np.savez(tmp_path / "split.npz", train_idx=[1, 2, 3], val_idx=[0], test_idx=[4])
    ase.io.write(tmp_path / "train.extxyz", train)
    options = ["--model", "spcfw", "--cutoff", "3.0", "-o"]
    split = ["--split", str(tmp_path / "split.npz")]
    assert main([str(database), *split, *options, str(tmp_path / "a.xml")]) == 0
    assert "unseen labels" in capsys.readouterr().out
    assert main([str(tmp_path / "train.extxyz"), *options, str(tmp_path / "b.xml")]) == 0
    a, b = (json.loads((tmp_path / f"{x}.refit.json").read_text()) for x in "ab")
    assert a["n_labels"] == b["n_labels"] == 3
    for name, change in a["parameters"].items():
        assert change == pytest.approx(b["parameters"][name], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "a.txt"], "a new file that ends with .xml"),
        (["-o", "model.xml"], "a new file that ends with .xml"),
        (["-o", "a.xml", "--split", "split.npz"], "the database that --split is of"),
        (["-o", "a.xml", "-n", "9"], "expected -n from 2 to the 2 labels"),
        (["-o", "a.xml", "--folds", "3"], "expected folds"),
    ],
)
def test_command_line_writes_nothing_on_bad_input(
    words: list[str], message: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.xml").write_text(SPCFW)
    ase.io.write("labels.extxyz", labels("spcfw", 2))
    assert main(["labels.extxyz", "--cutoff", "3.0", "--model", "spcfw", *words]) == 2
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.extxyz", "model.xml"]
    assert Path("model.xml").read_text() == SPCFW
