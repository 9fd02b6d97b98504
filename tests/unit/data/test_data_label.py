"""Labelling one structure and a set: what an engine does wrong is said and kept apart."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.db import connect

from schnetpack_tpainn.data.label import (
    _structures,
    compute_label,
    label_frames,
    make_calculator,
)
from schnetpack_tpainn.errors import DataError, LabelError

LJ = {"_target_": "ase.calculators.lj.LennardJones"}
PYSCF = {
    "_target_": "schnetpack_tpainn.data.pyscf.PySCF",
    "xc": "pbe",
    "basis": "sto-3g",
    "grid_level": 0,
    "max_cycle": 9,
}


def test_label_of_one_structure() -> None:
    atoms = molecule("H2O")
    atoms.info["temperature"] = 300
    atoms.set_constraint(FixAtoms([0]))
    label = compute_label(atoms, LennardJones())
    atoms.calc = LennardJones()
    assert label.get_potential_energy() == atoms.get_potential_energy()
    forces = atoms.get_forces(apply_constraint=False)
    np.testing.assert_array_equal(label.get_forces(), forces)
    assert np.abs(forces[0]).max() > 0
    assert label.info == {"temperature": 300}


def test_labels_that_are_not_finite() -> None:
    atoms = molecule("H2O")
    atoms.positions[1] = atoms.positions[0]
    with pytest.raises(LabelError, match="not finite"), np.errstate(all="ignore"):
        compute_label(atoms, LennardJones())


class Quiet(LennardJones):
    """Behaves like engines that fail without raising."""

    def calculate(self, atoms=None, *args, **kwargs):
        Calculator.calculate(self, atoms)
        match atoms.get_chemical_formula():
            case "CO":
                self.results = {"energy": 1.0, "dipole": np.zeros(3)}
            case "CH4":
                return  # as if there had been no output to read
            case _:
                super().calculate(atoms, *args, **kwargs)
                self.converged = np.bool_(False) if "N" in atoms.symbols else True


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NH3", "expected a converged calculation, Quiet says that it did not"),
        ("CO", r"gave no forces \(it gave energy, dipole\)"),
        ("CH4", r"gave no energy \(it gave nothing\)"),
    ],
)
def test_engines_that_fail_without_raising(name: str, message: str) -> None:
    calculator = Quiet()
    compute_label(molecule("SiH4"), calculator)  # its results must not become those of CH4
    with pytest.raises(LabelError, match=message):
        compute_label(molecule(name), calculator)


def test_calculators_are_built_once_and_refused_clearly() -> None:
    assert make_calculator(LJ) is make_calculator(dict(LJ))
    assert make_calculator(LJ) is not make_calculator({**LJ, "sigma": 2.0})
    with pytest.raises(LabelError, match=r"cannot build the ASE calculator ase\.nothing"):
        make_calculator({"_target_": "ase.nothing.Nothing"})


def test_file_based_calculators_get_folders_of_their_own(tmp_path: Path) -> None:
    node = {
        "_target_": "ase.calculators.espresso.Espresso",
        "directory": str(tmp_path / "qe"),
        "profile": {
            "_target_": "ase.calculators.espresso.EspressoProfile",
            "command": "pw.x",
            "pseudo_dir": str(tmp_path),
        },
    }
    assert make_calculator(node).directory.parent == tmp_path / "qe"


def test_frames_that_fail_are_kept_apart(tmp_path: Path) -> None:
    frames = [molecule(name) for name in ("H2O", "CO", "CH4")]
    frames[1].positions[1] += 3.0  # stretched: does not converge in nine cycles
    frames[1].info["origin"] = "test"
    result = label_frames(frames, PYSCF, tmp_path / "x.db", n_workers=1)
    assert result.n_labelled == 2
    assert list(result.failed) == [1]
    assert "CO not converged" in result.failed[1]
    [kept] = ase.io.read(result.failed_path, ":")
    assert kept.info["index"] == 1
    assert "CO not converged" in kept.info["error"]
    np.testing.assert_allclose(kept.positions, frames[1].positions, atol=1e-7)
    with connect(tmp_path / "x.db") as db:
        assert [row.formula for row in db.select()] == ["H2O", "CH4"]
        assert db.metadata["n_failed"] == 1
        assert db.metadata["level_of_theory"]["xc"] == "pbe"


def test_when_every_frame_fails_there_is_no_data_set(tmp_path: Path) -> None:
    atoms = molecule("H2O", vacuum=3.0, pbc=True)
    result = label_frames([atoms], PYSCF, tmp_path / "x.db", n_workers=1)
    assert result.path is None
    assert not (tmp_path / "x.db").exists()
    assert list(result.failed) == [0]


def test_no_frames(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got none"):
        label_frames([], LJ, tmp_path / "x.db")


def test_large_structures_are_told_apart() -> None:
    """NumPy prints long arrays with their middle left out."""
    atoms = molecule("CH3CH2OH", vacuum=3.0).repeat(4)
    other = atoms.copy()
    other.positions[270, 1] += 0.01
    assert _structures([atoms]) != _structures([other])
