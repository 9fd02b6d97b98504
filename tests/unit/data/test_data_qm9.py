"""QM9 from `qm9pack`: against what was published, and as a source of a run."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.db import connect
from ase.units import Hartree
from modules import ready

from schnetpack_tpainn.data import QM9
from schnetpack_tpainn.data.check import check_database
from schnetpack_tpainn.data.qm9 import ATOMS_HARTREE, FILES, N_MOLECULES, _frame, _rows
from schnetpack_tpainn.data.split import SeededSplit
from schnetpack_tpainn.errors import DataError

# U0 in Hartree, and without the atoms in kcal/mol, as MoleculeNet computed it: the first rows of
# its qm9.csv (DeepChem, molnet/load_function/tests).
PUBLISHED = {
    1: ("CH4", "C", -40.47893, -395.999594594),
    2: ("NH3", "N", -56.525887, -276.861363363),
    3: ("OH2", "O", -76.404702, -213.087623693),
    4: ("C2H2", "C#C", -77.308427, -385.501996533),
    5: ("CNH", "C#N", -93.411888, -301.820533838),
    6: ("COH2", "C=O", -114.483613, -358.756935444),
    7: ("C2H6", "CC", -79.764152, -670.78829573),
    8: ("COH4", "CO", -115.679136, -481.106757737),
    9: ("C3H4", "CC#C", -116.609549, -670.268090769),
    10: ("C2NH3", "CC#N", -132.71815, -589.812024334),
}
WATER = [  # dsgdb9nsd_000003.xyz
    [-0.0343604951, 0.9775395708, 0.0076015923],
    [0.0647664923, 0.0205721989, 0.0015346341],
    [0.8717903737, 1.3007924048, 0.0006931336],
]
U0 = "InternalEnergy_0K_au"


def folder() -> Path:
    return Path(find_spec("qm9pack").submodule_search_locations[0], "data")


def atoms_energy(counts: np.ndarray) -> np.ndarray:
    return counts @ np.array([ATOMS_HARTREE["U0"][symbol] for symbol in "HCNOF"])


def test_the_data_are_those_that_were_published() -> None:
    index, counts, energies, smallest = [], [], [], []
    for row in _rows(folder()):
        index.append(int(row["Index"]))
        counts.append([row["Elements"].count(f"'{symbol}'") for symbol in "HCNOF"])
        energies.append(float(row[U0]))
        if index[-1] in PUBLISHED:
            smallest.append(_frame(row, U0))
    counts, energies = np.array(counts), np.array(energies)
    assert len(index) == len(set(index)) == N_MOLECULES == 133_885 - 3_054
    assert index == sorted(index)
    assert (index[0], index[-1]) == (1, 133_885)
    sizes = counts.sum(1)
    assert (sizes.min(), sizes.max(), counts[:, 1:].sum(1).max()) == (3, 29, 9)
    assert 6_090 < (counts == [10, 7, 0, 2, 0]).all(1).sum() <= 6_095  # C7H10O2
    # means and deviations of PyTorch Geometric's targets 7 and 12, float32, in eV
    total, binding = energies * Hartree, (energies - atoms_energy(counts)) * Hartree
    assert [total.mean(), total.std(ddof=1)] == pytest.approx([-11178.967, 1085.5787], abs=2e-3)
    assert [binding.mean(), binding.std(ddof=1)] == pytest.approx([-76.1160, 10.32375], abs=1e-4)
    assert energies[-1] == -400.633052
    assert energies[index.index(15_149)] == -309.418301  # CC#CC#CC1CC1
    for atoms, (formula, smiles, energy, without_atoms) in zip(
        smallest, PUBLISHED.values(), strict=True
    ):
        assert atoms.get_chemical_formula("reduce") == formula
        assert atoms.info["smiles"] == smiles
        assert atoms.get_potential_energy() == energy * Hartree
        composition = np.array([atoms.symbols.count(symbol) for symbol in "HCNOF"])
        found = (energy - atoms_energy(composition)) * 627.509  # MoleculeNet's factor
        assert found == pytest.approx(without_atoms, abs=1e-6)
    np.testing.assert_array_equal(smallest[2].positions, WATER)
    assert smallest[2].info["zpve_ev"] == 0.021375 * Hartree


@pytest.fixture(scope="module")
def subset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return QM9(60, seed=2).make(tmp_path_factory.mktemp("qm9") / "qm9.db")


def test_a_subset(subset: Path) -> None:
    with connect(subset, use_lock_file=False) as db:
        rows, metadata = list(db.select()), db.metadata
    numbers = np.array([row.qm9_index for row in rows])
    assert len(rows) == 60
    assert (np.diff(numbers) > 0).all()
    assert [list(row.data) for row in rows] == [["energy"]] * 60
    assert all(row.smiles and 0.5 < row.zpve_ev < 8 for row in rows)
    assert metadata["_property_unit_dict"] == {"energy": "eV"}
    assert metadata["_distance_unit"] == "Ang"
    assert metadata["level_of_theory"] == "B3LYP/6-31G(2df,p)"
    assert (metadata["doi"], metadata["n_molecules"]) == ("10.1038/sdata.2014.22", 60)
    table = check_database(subset, "energy", None)
    binding = table.energies - table.counts @ np.array(metadata["atomrefs"]["energy"])
    assert binding.mean() == pytest.approx(-76.1, abs=5)  # 10.3 / sqrt(60) = 1.3
    assert -130 < binding.min() < binding.max() < -10


def test_subsets_nest_and_follow_their_seed() -> None:
    small, large, other = (QM9(n, seed=s)._chosen() for n, s in ((100, 0), (1000, 0), (100, 1)))
    assert [small.sum(), large.sum(), other.sum()] == [100, 1000, 100]
    assert (large[small]).all()
    assert (small != other).any()
    assert QM9()._chosen().all()
    assert QM9(seed=1).settings == QM9(N_MOLECULES).settings  # both are everything
    assert QM9(9, seed=1).settings != QM9(9).settings != QM9(10).settings


def test_a_run_on_energies_alone(subset: Path) -> None:
    datamodule = ready(
        subset,
        source=QM9(60, seed=2),
        forces_key=None,
        property_units={"energy": "eV", "forces": "eV/Ang"},  # as the configs have it
        splitting=SeededSplit(1, test_seed=0),
        num_test=20,
        num_train=30,
    )
    batch = next(iter(datamodule.train_dataloader()))
    assert "forces" not in batch
    assert batch["energy"].dtype == torch.float32
    assert batch["energy"].abs().max() < 100  # without the elements' offsets
    assert set(datamodule.elements()) <= {1, 6, 7, 8, 9}
    offsets = datamodule.get_atomrefs("energy", True)["energy"]
    assert offsets[6] == pytest.approx(ATOMS_HARTREE["U0"]["C"] * Hartree, rel=0.01)


@pytest.mark.parametrize("n", [0, -1, N_MOLECULES + 1, 0.5, "many"])
def test_numbers_of_molecules_that_there_are_not(n: Any) -> None:
    with pytest.raises(DataError, match=rf"n_molecules from 1 to 130831, .* got {n}"):
        QM9(n)


def test_an_unknown_property() -> None:
    with pytest.raises(DataError, match="property to be U0, got 'gap'"):
        QM9(property="gap")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qm9pack", None)  # what Python takes for not installed
    with pytest.raises(DataError, match=r"pip install 'schnetpack-tpainn\[qm9\]'"):
        QM9(10).make(tmp_path / "x.db")


@pytest.mark.parametrize("damage", ["absent", "cut", "other columns"])
def test_a_package_that_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    data = tmp_path / "qm9pack" / "data"
    data.mkdir(parents=True)
    (tmp_path / "qm9pack" / "__init__.py").touch()
    with (folder() / FILES[0]).open() as file:
        head = "".join(next(file) for _ in range(11))
    for name in [] if damage == "absent" else FILES:
        (data / name).write_text(head.replace("XYZ_Ang", "R") if damage[0] == "o" else head)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"expected 130831 molecules in .*; reinstall qm9pack"):
        QM9(N_MOLECULES).make(tmp_path / "x.db")
    assert not (tmp_path / "x.db").exists()
