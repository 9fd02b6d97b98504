"""Sampling: temperature, independence of the trajectories, blow-ups, settings."""

from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import Calculator, all_changes
from ase.db import connect

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.sampling import MDSampler, sample_trajectory
from schnetpack_tpainn.data.structures import embed_smiles
from schnetpack_tpainn.errors import DataError, LabelError

MMFF = {"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField"}
LENGTH = {"interval_fs": 10.0, "timestep_fs": 0.5, "friction_per_fs": 0.02}


class Springs(Calculator):
    """Every atom on a spring to the origin: equipartition is known."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    k = 2.0  # eV/Å²

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        r = self.atoms.positions
        self.results = {"energy": 0.5 * self.k * float((r**2).sum()), "forces": -self.k * r}


class Explosion(Calculator):
    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": 50.0 * self.atoms.positions}


class Unconverged(Springs):
    converged = False


def node(cls: type) -> dict[str, str]:
    return {"_target_": f"{__name__}.{cls.__name__}"}


def run(calculator, n_frames=20, seed=0, equilibration_fs=50.0, **settings):
    atoms = embed_smiles("CCO")
    arguments = LENGTH | {"temperature_k": 300.0, "equilibration_fs": equilibration_fs} | settings
    return sample_trajectory(atoms, calculator, n_frames=n_frames, seed=seed, **arguments)


def test_labels_are_those_of_the_calculator() -> None:
    for frame in run(MMFF, 5):
        energy, forces = frame.get_potential_energy(), frame.get_forces()
        frame.info["smiles"] = "CCO"
        frame.calc = RDKitForceField()
        assert frame.get_potential_energy() == pytest.approx(energy, abs=1e-9)
        np.testing.assert_allclose(frame.get_forces(), forces, atol=1e-9)
        assert frame.info["temperature_k"] == 300.0


def test_unconverged_frames_are_not_kept() -> None:
    with pytest.raises(LabelError, match="300 K, frame 0: expected a converged calculation"):
        run(node(Unconverged), 1, equilibration_fs=1.0)


def test_the_temperature_is_the_one_asked_for() -> None:
    frames = run(node(Springs), 500, temperature_k=450.0, friction_per_fs=0.05, interval_fs=4.0)
    energies = [frame.get_potential_energy() for frame in frames[50:]]
    expected = 0.5 * 27 * units.kB * 450.0  # half kT per degree of freedom
    assert np.mean(energies) == pytest.approx(expected, rel=0.1)


def test_seeds() -> None:
    first, again, other = run(MMFF, 3), run(MMFF, 3), run(MMFF, 3, seed=1)
    np.testing.assert_array_equal(first[2].positions, again[2].positions)
    assert not np.allclose(first[2].positions, other[2].positions)
    np.testing.assert_array_equal(run(MMFF, 2)[1].positions, first[1].positions)


def test_the_first_frame_comes_after_equilibration() -> None:
    late = run(MMFF, 1, equilibration_fs=40.0)[0]
    fourth = run(MMFF, 4, equilibration_fs=10.0)[3]
    np.testing.assert_allclose(late.positions, fourth.positions, atol=1e-9)


def test_blow_up() -> None:
    with pytest.raises(LabelError, match=r"blew up.*shorten timestep_fs"):
        run(node(Explosion), 200)


def test_failing_engines_say_where() -> None:
    calculator = {**MMFF, "smiles": "CC"}
    with pytest.raises(
        LabelError, match=r"dynamics of C2H6O at 300 K, frame 0: .*order must agree"
    ):
        run(calculator)


def sampler(**settings) -> MDSampler:
    defaults = {
        "structures": ["CCO", "CO"],
        "calculator": MMFF,
        "n_frames": 10,
        "temperatures_k": [300, 600],
        "n_trajectories": 2,
        "interval_fs": 5.0,
        "equilibration_fs": 5.0,
        "n_workers": 1,
    }
    return MDSampler(**defaults | settings)


def test_data_set(tmp_path: Path) -> None:
    path = sampler().make(tmp_path / "x.db")
    with connect(path) as db:
        rows, metadata = list(db.select()), db.metadata
    assert len(rows) == 10
    assert {row.formula for row in rows} == {"C2H6O", "CH4O"}
    assert {row.temperature_k for row in rows} == {300.0, 600.0}
    assert metadata["seed"] == 0
    assert metadata["calculator"] == MMFF
    assert metadata["versions"]["schnetpack"].startswith("2.")


def test_trajectories_are_independent_and_do_not_depend_on_each_other() -> None:
    work = sampler().trajectories()
    assert [args[3] for args in work.values()] == [2, 2, 1, 1, 1, 1, 1, 1]
    assert len({args[-1] for args in work.values()}) == 8
    more = sampler(n_frames=80).trajectories()
    assert [w[-1] for w in work.values()] == [w[-1] for w in more.values()]
    assert len(sampler(n_frames=3).trajectories()) == 3


@pytest.mark.parametrize(
    "wrong", [{"n_frames": 0}, {"timestep_fs": -1}, {"temperatures_k": []}, {"temperatures_k": [0]}]
)
def test_numbers_out_of_range(wrong) -> None:
    with pytest.raises(DataError, match="expected"):
        sampler(**wrong)


def test_an_instantiated_calculator_is_refused() -> None:
    with pytest.raises(DataError, match="_recursive_: false"):
        sampler(calculator=RDKitForceField())


def test_a_calculator_that_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="cannot build"):
        sampler(calculator={**MMFF, "force_field": "AMBER"}).make(tmp_path / "x.db")


def test_workers_get_absolute_paths(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.json").touch()
    own = sampler(calculator={**MMFF, "file": "a.json"})
    assert {a[1]["file"] for a in own.trajectories().values()} == {str(tmp_path / "a.json")}
    assert own.settings["calculator"]["file"] == "a.json"
