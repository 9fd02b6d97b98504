"""Sample a liquid with OpenMM: temperatures, densities and pressures side by side."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.cell import Cell

from schnetpack_tpainn.data.liquid import water_box
from schnetpack_tpainn.data.openmm import OpenMMForceField
from schnetpack_tpainn.data.openmm_dynamics import sample_liquid
from schnetpack_tpainn.data.openmm_system import MODELS, fitting_cutoff, model_files
from schnetpack_tpainn.data.openmm_topology import read_pdb
from schnetpack_tpainn.data.parallel import map_items, workers
from schnetpack_tpainn.data.store import FrameStore
from schnetpack_tpainn.data.structures import absolute_files, identity
from schnetpack_tpainn.data.versions import software_versions
from schnetpack_tpainn.errors import DataError

__all__ = ["OpenMMSampler"]

log = logging.getLogger(__name__)

START_DENSITY = 1.0  # g/cm³, of water under a pressure, where no density is named
SHRINKAGE = 0.95  # of the edges of a box under a pressure, for which the cutoff leaves room
DYNAMICS = ("interval_fs", "timestep_fs", "friction_per_fs", "equilibration_fs", "melting_fs")


class OpenMMSampler:
    """Makes a data set of a classical liquid.

    Every temperature is run at every density at constant volume, and at every pressure, in
    ``n_trajectories`` independent trajectories, in parallel. A trajectory's frames depend on
    ``seed`` and on the trajectory alone, so a killed and resumed run gives the frames of an
    unbroken one. The dynamics runs in OpenMM; the labels are those of
    :class:`~schnetpack_tpainn.data.openmm.OpenMMForceField` with one cutoff for all boxes.

    .. code-block:: yaml

        source:
          _target_: schnetpack_tpainn.data.OpenMMSampler
          _convert_: all
          model: iamoeba
          n_frames: 2000
          temperatures_k: [280, 330, 400]
          densities_g_per_cm3: [0.85, 1.0, 1.15]

    Args:
        model: flexible water ``iamoeba``, ``spcfw`` or ``tip3p``, or OpenMM XML files.
        topology: PDB file of one's own liquid, with CRYST1, residues and bonds; its molecules are
            moved to each density. None: water, atoms ordered O, H, H.
        n_molecules: water molecules in the box; unused with a topology.
        n_frames: frames in the data set, shared out evenly over the trajectories.
        temperatures_k: temperatures in K.
        densities_g_per_cm3: densities at constant volume in g/cm³.
        pressures_bar: pressures in bar of trajectories at constant pressure, which start at the
            middle one of the densities, else at 1 g/cm³ or as the topology's file.
        n_trajectories: independent trajectories for each of these.
        interval_fs: time between kept frames in fs; long enough to decorrelate them.
        timestep_fs: time step in fs.
        friction_per_fs: Langevin friction in 1/fs.
        equilibration_fs: time before the first kept frame in fs.
        melting_fs: time with flexible TIP3P before, from a lattice; water alone.
        cutoff_ang: cutoff of pair terms in Å; None: what fits into the densest box, and into
            boxes under a pressure as long as they shrink by no more than 5 % of their edge.
        platform: OpenMM's platform: ``CPU``, ``CUDA``, ``OpenCL`` or ``Reference``.
        threads: threads of each trajectory on a CPU.
        seed: seed of start structures, velocities and noise.
        n_workers: trajectories at once; one per core when None. One GPU: 1.
        scheduler: address or scheduler file of a Dask cluster to use instead.

    Raises:
        DataError: a number is out of range.
        LabelError: OpenMM is not installed.
    """

    def __init__(
        self,
        model: str | Sequence[str] = "iamoeba",
        topology: str | None = None,
        n_molecules: int = 64,
        n_frames: int = 1000,
        temperatures_k: Sequence[float] = (300.0, 350.0, 400.0),
        densities_g_per_cm3: Sequence[float] = (0.85, 1.0, 1.15),
        pressures_bar: Sequence[float] = (),
        n_trajectories: int = 1,
        interval_fs: float = 100.0,
        timestep_fs: float = 0.5,
        friction_per_fs: float = 0.01,
        equilibration_fs: float = 2000.0,
        melting_fs: float = 5000.0,
        cutoff_ang: float | None = None,
        platform: str = "CPU",
        threads: int = 1,
        seed: int = 0,
        n_workers: int | None = None,
        scheduler: str | None = None,
    ) -> None:
        self.n_workers, self.scheduler = n_workers, scheduler
        named = isinstance(model, str) and model in MODELS
        self.model = model if named else model_files(model)
        self.topology = absolute_files({"topology": topology})["topology"]
        self.engine = {"platform": platform, "threads": threads}
        self.settings: dict[str, Any] = {
            "model": [identity(f) for f in model_files(self.model)],
            "topology": None if topology is None else identity(topology),
            "n_molecules": n_molecules if topology is None else None,
            "n_frames": n_frames,
            "temperatures_k": [float(t) for t in temperatures_k],
            "densities_g_per_cm3": [float(d) for d in densities_g_per_cm3],
            "pressures_bar": [float(p) for p in pressures_bar],
            "n_trajectories": n_trajectories,
            "interval_fs": interval_fs,
            "timestep_fs": timestep_fs,
            "friction_per_fs": friction_per_fs,
            "equilibration_fs": equilibration_fs,
            "melting_fs": melting_fs,
            "cutoff_ang": cutoff_ang,
            "platform": platform,
            "seed": seed,
        }
        self._check()

    def _check(self) -> None:
        s = self.settings
        for name in ("n_molecules", "n_frames", "n_trajectories", *DYNAMICS[:3]):
            if s[name] is not None and not s[name] > 0:
                raise DataError(f"expected {name} > 0, got {s[name]}")
        for name in ("temperatures_k", "densities_g_per_cm3", "pressures_bar"):
            if not all(value > 0 for value in s[name]):
                raise DataError(f"expected {name} above 0, got {s[name]}")
        if not s["temperatures_k"] or not s["densities_g_per_cm3"] + s["pressures_bar"]:
            raise DataError(
                "expected a temperature, and a density or a pressure, got temperatures_k "
                f"{s['temperatures_k']}, densities_g_per_cm3 {s['densities_g_per_cm3']} and "
                f"pressures_bar {s['pressures_bar']}"
            )

    def _start(self, density_g_per_cm3: float | None, seed: int) -> Atoms:
        """Start structure at a density (None: as it comes)."""
        if self.topology is None:
            return water_box(self.settings["n_molecules"], density_g_per_cm3 or START_DENSITY, seed)
        atoms = read_pdb(self.topology)[1]
        field = OpenMMForceField(self.model, self.topology)
        return field.molecules(atoms).at_density(atoms, density_g_per_cm3)

    def trajectories(self) -> dict[str, tuple[Any, ...]]:
        """Trajectory name -> arguments of ``sample_liquid``."""
        s = self.settings
        densities, pressures = s["densities_g_per_cm3"], s["pressures_bar"]
        middle = sorted(densities)[len(densities) // 2] if densities else None
        states = [
            *((f"{t:g}K-{d:g}gcm3", t, d, None) for t in s["temperatures_k"] for d in densities),
            *((f"{t:g}K-{p:g}bar", t, middle, p) for t in s["temperatures_k"] for p in pressures),
        ]
        runs = [(f"{n}-{k}", *rest) for k in range(s["n_trajectories"]) for n, *rest in states]
        share, rest = divmod(s["n_frames"], len(runs))
        numbers = [share + (i < rest) for i in range(len(runs))]
        work = {}
        for (name, t, d, p), n in zip(runs, numbers, strict=True):
            if n == 0:
                continue
            digest = hashlib.sha256(f"{s['seed']}:{name}".encode()).digest()
            seed = 1 + int.from_bytes(digest[:4], "little") % (2**31 - 2)  # 0 is random in OpenMM
            work[name] = (self._start(d, seed), t, p, n, seed)
        cells = [start.cell * (1 if p is None else SHRINKAGE) for start, _, p, *_ in work.values()]
        smallest = Cell(min(cells, key=lambda cell: abs(np.linalg.det(cell))))
        cutoff = fitting_cutoff(smallest, s["cutoff_ang"])
        field = {"model": self.model, "topology": self.topology, "cutoff_ang": cutoff}
        dynamics = {name: s[name] for name in DYNAMICS}
        return {k: (a[0], field | self.engine, dynamics, *a[1:]) for k, a in work.items()}

    def make(self, path: str | Path) -> Path:
        """Run what is missing and write the finished data set.

        Refuses with ``DataError`` when ``path`` exists or its partial file has other settings, and
        with ``LabelError`` when the force field does not fit or the dynamics fails.

        Args:
            path: the SchNetPack database to make.

        Returns:
            ``path``.
        """
        work = self.trajectories()
        first = next(iter(work.values()))
        OpenMMForceField(**first[1]).calculate(first[0])  # what does not fit shows before any run
        store = FrameStore(path, self.settings)
        done = store.done()
        if done:
            log.info("resuming: %d of %d trajectories are sampled", len(done), len(work))
        todo = {name: args for name, args in work.items() if name not in done}
        with workers(self.n_workers, self.scheduler) as pool:
            for name, frames in map_items(pool, sample_liquid, todo, "sampling", "trajectory"):
                store.add(name, frames)
        provenance = self.settings | {
            "source": "OpenMMSampler",
            "force_field": first[1] | {k: self.settings[k] for k in ("model", "topology")},
            "versions": software_versions(),
        }
        return store.finish(list(work), provenance)
