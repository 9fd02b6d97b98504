"""Sample structures by Langevin dynamics with any ASE calculator."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation

from schnetpack_tpainn.data.label import check_converged, check_node, make_calculator
from schnetpack_tpainn.data.parallel import map_items, workers
from schnetpack_tpainn.data.store import FrameStore, labelled
from schnetpack_tpainn.data.structures import absolute_files, identity, read_structures
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import DataError, LabelError

__all__ = ["MDSampler", "sample_trajectory"]

log = logging.getLogger(__name__)


def sample_trajectory(
    atoms: Atoms,
    calculator: Mapping[str, Any],
    temperature_k: float,
    n_frames: int,
    interval_fs: float,
    timestep_fs: float,
    friction_per_fs: float,
    equilibration_fs: float,
    seed: int,
) -> list[Atoms]:
    """Frames of one Langevin trajectory, with the calculator's labels.

    Args:
        atoms: start structure (Å).
        calculator: Hydra node of an ASE calculator.
        temperature_k: temperature in K.
        n_frames: frames to keep.
        interval_fs: time between kept frames in fs.
        timestep_fs: time step in fs.
        friction_per_fs: Langevin friction in 1/fs.
        equilibration_fs: time before the first kept frame in fs.
        seed: seed of velocities and noise.

    Returns:
        Labelled frames (eV, eV/Å) with ``temperature_k``, and the start's ``total_charge`` if it
        has one, in their ``info``.

    Raises:
        LabelError: the calculator failed or did not converge, or the dynamics blew up: forces not
            finite or above 1000 eV/Å.
    """
    rng = np.random.default_rng(seed)
    work = _at_temperature(atoms, temperature_k, rng)
    work.calc = make_calculator(calculator)
    dynamics = Langevin(
        work,
        timestep=timestep_fs * units.fs,
        temperature_K=temperature_k,
        friction=friction_per_fs / units.fs,
        fixcm=False,
        rng=rng,
    )
    stride = max(1, round(interval_fs / timestep_fs))
    first = max(stride, round(equilibration_fs / timestep_fs))
    frames: list[Atoms] = []
    for n_steps in [first, *[stride] * (n_frames - 1)]:
        try:
            dynamics.run(n_steps)
            energy = work.get_potential_energy()
            forces = work.get_forces(apply_constraint=False)
            check_converged(work.calc)
        except Exception as error:  # whatever a third-party engine raises
            raise LabelError(
                f"{type(error).__name__} in the dynamics of {work.get_chemical_formula()} at "
                f"{temperature_k:g} K, frame {len(frames)}: {error}"
            ) from error
        frames.append(_sound_frame(work, energy, forces, temperature_k))
    return frames


def _at_temperature(atoms: Atoms, temperature_k: float, rng: np.random.Generator) -> Atoms:
    """Copy with velocities of a temperature; a molecule neither drifts nor spins."""
    work = atoms.copy()
    width = np.sqrt(units.kB * temperature_k * work.get_masses())  # (N,)
    work.set_momenta(rng.standard_normal((len(work), 3)) * width[:, None])
    if not work.pbc.any():
        Stationary(work)
        if len(work) > 2:
            ZeroRotation(work)
    return work


def _sound_frame(work: Atoms, energy: float, forces: np.ndarray, temperature_k: float) -> Atoms:
    """The current structure with its label, if the dynamics has not blown up."""
    if not np.isfinite(forces).all() or np.abs(forces).max() > 1e3:
        raise LabelError(
            f"dynamics of {work.get_chemical_formula()} at {temperature_k:g} K blew up "
            f"(largest force {np.abs(forces).max():.3g} eV/Å); expected below 1000 eV/Å: "
            "shorten timestep_fs or lower the temperature"
        )
    charge = {k: v for k, v in work.info.items() if k == "total_charge"}
    return labelled(work, energy, forces, temperature_k=float(temperature_k), **charge)


class MDSampler:
    """Makes a data set by Langevin dynamics of one or more structures.

    Every structure is run at every temperature in ``n_trajectories`` independent trajectories,
    in parallel. A trajectory's frames depend on ``seed`` and on the trajectory alone, so a killed
    and resumed run gives the frames of an unbroken one.

    .. code-block:: yaml

        source:
          _target_: schnetpack_tpainn.data.MDSampler
          _recursive_: false
          _convert_: all
          structures: [CCO]
          calculator:
            _target_: schnetpack_tpainn.data.rdkit.RDKitForceField
            force_field: MMFF94
          n_frames: 4000
          temperatures_k: [300, 450, 600]

    Args:
        structures: SMILES strings, or paths of files that ASE reads (every frame is a start).
        calculator: Hydra node of an ASE calculator with energy and forces.
        n_frames: frames in the data set, shared out evenly over the trajectories.
        temperatures_k: temperatures in K.
        n_trajectories: independent trajectories per structure and temperature.
        interval_fs: time between kept frames in fs; long enough to decorrelate them.
        timestep_fs: time step in fs.
        friction_per_fs: Langevin friction in 1/fs.
        equilibration_fs: time before the first kept frame in fs.
        seed: seed of conformers, velocities and noise.
        n_workers: worker processes; all cores when None.
        scheduler: address or scheduler file of a Dask cluster to use instead.

    Raises:
        DataError: the calculator is no node, or a number is out of range.
    """

    def __init__(
        self,
        structures: Sequence[str],
        calculator: Mapping[str, Any],
        n_frames: int = 4000,
        temperatures_k: Sequence[float] = (300.0, 450.0, 600.0),
        n_trajectories: int = 4,
        interval_fs: float = 20.0,
        timestep_fs: float = 0.5,
        friction_per_fs: float = 0.02,
        equilibration_fs: float = 500.0,
        seed: int = 0,
        n_workers: int | None = None,
        scheduler: str | None = None,
    ) -> None:
        check_node(calculator)
        self.n_workers = n_workers
        self.scheduler = scheduler
        self.structures = [structures] if isinstance(structures, str) else list(structures)
        self.settings: dict[str, Any] = {
            "structures": [identity(s) for s in self.structures],
            "calculator": dict(calculator),
            "n_frames": n_frames,
            "temperatures_k": [float(t) for t in temperatures_k],
            "n_trajectories": n_trajectories,
            "interval_fs": interval_fs,
            "timestep_fs": timestep_fs,
            "friction_per_fs": friction_per_fs,
            "equilibration_fs": equilibration_fs,
            "seed": seed,
        }
        s = self.settings
        positive = ("n_frames", "n_trajectories", "interval_fs", "timestep_fs", "friction_per_fs")
        for name in positive:
            if s[name] <= 0:
                raise DataError(f"expected {name} > 0, got {s[name]}")
        if not s["temperatures_k"] or min(s["temperatures_k"]) <= 0:
            raise DataError(f"expected temperatures_k above 0 K, got {s['temperatures_k']}")

    def trajectories(self) -> dict[str, tuple[Any, ...]]:
        """Trajectory name -> arguments of :func:`sample_trajectory`."""
        s = self.settings
        starts = [
            (atoms, t, k)
            for atoms in read_structures(self.structures, s["seed"])
            for t in s["temperatures_k"]
            for k in range(s["n_trajectories"])
        ]
        calculator = absolute_files(s["calculator"])
        share, rest = divmod(s["n_frames"], len(starts))
        work = {}
        for i, (atoms, t, k) in enumerate(starts):
            n = share + (i < rest)
            if n == 0:
                continue
            name = f"{i:05d}-{atoms.get_chemical_formula()}-{t:g}K-{k}"
            digest = hashlib.sha256(f"{s['seed']}:{name}".encode()).digest()
            seed = int.from_bytes(digest[:4], "little")
            work[name] = (
                *(atoms, calculator, t, n, s["interval_fs"], s["timestep_fs"]),
                *(s["friction_per_fs"], s["equilibration_fs"], seed),
            )
        return work

    def make(self, path: str | Path) -> Path:
        """Run what is missing and write the finished data set.

        Refuses with ``DataError`` when ``path`` exists, its partial file has other settings or a
        structure cannot be read, and with ``LabelError`` when the calculator fails.

        Args:
            path: the SchNetPack database to make.

        Returns:
            ``path``.
        """
        make_calculator(self.settings["calculator"])
        work = self.trajectories()
        store = FrameStore(path, self.settings)
        done = store.done()
        if done:
            log.info("resuming: %d of %d trajectories are sampled", len(done), len(work))
        todo = {name: args for name, args in work.items() if name not in done}
        with workers(self.n_workers, self.scheduler) as pool:
            for name, frames in map_items(pool, sample_trajectory, todo, "sampling", "trajectory"):
                store.add(name, frames)
        provenance = {"source": "MDSampler", "versions": software_versions(), **self.settings}
        return store.finish(list(work), provenance)
