import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import TrajectoryWriter

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.errors import LabelError, MDError
from schnetpack_tpainn.md import compare_with_reference, energy_drift, read_log

MMFF94 = {"_target_": "schnetpack_tpainn.data.rdkit.RDKitForceField"}


def test_drift_of_a_known_line():
    time_fs = np.arange(0, 1000, 2.5)
    noise = np.tile([1.0, -1.0, -1.0, 1.0], 100)  # orthogonal to the line
    etot_ev = -4215.123 + 9 * (0.7e-3 * time_fs / 1000 + 0.05e-3 * noise)
    drift = energy_drift(time_fs, etot_ev, n_atoms=9)
    assert drift.slope_mev_per_atom_per_ps == pytest.approx(0.7, rel=1e-6)
    assert drift.rms_mev_per_atom == pytest.approx(0.05, rel=1e-6)
    with pytest.raises(MDError, match="at least 3 times"):
        energy_drift(time_fs[:2], etot_ev[:2], 9)


def test_log_that_is_none(tmp_path):
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    for name in ("log.csv", "missing.csv"):
        with pytest.raises(MDError, match=r"expected the log\.csv of a tpainn-md run"):
            read_log(tmp_path / name)


def write(path, atoms, shifts, force_shift=0.0):
    """A trajectory whose labels are MMFF94's plus known errors."""
    calculator, rng = RDKitForceField(), np.random.default_rng(0)
    with TrajectoryWriter(path) as trajectory:
        for shift in shifts:
            frame = atoms.copy()
            frame.positions += rng.normal(scale=0.03, size=frame.positions.shape)
            frame.calc = SinglePointCalculator(
                frame,
                energy=calculator.get_potential_energy(frame) + shift,
                forces=calculator.get_forces(frame) + force_shift,
            )
            trajectory.write(frame)


def test_comparison_finds_known_errors(ethanol, tmp_path):
    path = tmp_path / "trajectory.traj"
    write(path, ethanol, [0.12, 9.0, 0.08, 9.0, 0.12, 9.0, 0.08], force_shift=-0.03)
    result = compare_with_reference(path, MMFF94, n_frames=4, n_workers=1)
    assert result.n_frames == 4
    assert result.n_failed == 0
    assert result.energy_offset_mev == pytest.approx(100)
    assert result.energy_mae_mev == pytest.approx(100)
    assert result.energy_mae_centred_mev == pytest.approx(20)
    assert result.force_mae_mev_per_ang == pytest.approx(30)
    assert result.force_rmse_mev_per_ang == pytest.approx(30)
    (database,) = tmp_path.glob("reference-*.db")
    labelled_at = database.stat().st_mtime_ns
    assert compare_with_reference(path, MMFF94, n_frames=4) == result
    assert database.stat().st_mtime_ns == labelled_at


def test_comparisons_that_cannot_be_made(ethanol, tmp_path):
    path = tmp_path / "trajectory.traj"
    with pytest.raises(MDError, match="expected an ASE trajectory with frames"):
        compare_with_reference(path, MMFF94)
    boxed = ethanol.copy()
    boxed.set_cell([9.0, 9.0, 9.0])
    boxed.pbc = True
    with TrajectoryWriter(path) as trajectory:
        boxed.calc = SinglePointCalculator(boxed, energy=0.0, forces=np.zeros((9, 3)))
        trajectory.write(boxed)
    with pytest.raises(MDError, match="n_frames >= 1, got 0"):
        compare_with_reference(path, MMFF94, n_frames=0)
    with pytest.raises(LabelError, match="cannot build"):
        compare_with_reference(path, {"_target_": "no.such.Calculator"})
    with pytest.raises(MDError, match="failed on all of 1 frames"):
        compare_with_reference(path, MMFF94, n_workers=1)
