"""Structures with atoms too close or bonds too long, made from others: where a wall must stand."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import vdw_radii
from ase.db import connect
from scipy.sparse.csgraph import shortest_path
from tqdm import tqdm

from schnetpack_tpainn.data.label import compute_label, label_frames, make_calculator
from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.store import fingerprint, labelled, write_database
from schnetpack_tpainn.data.structures import to_angstrom
from schnetpack_tpainn.data.topology import bonds, known_smiles, n_written, with_smiles
from schnetpack_tpainn.data.units import unit_factor
from schnetpack_tpainn.errors import DataError, LabelError

__all__ = ["KINDS", "make_short_range", "short_range_frames"]

log = logging.getLogger(__name__)

SQUEEZED = 0.55, 0.95  # of a bond's length
STRETCHED = 1.05, 1.8
STRETCHED_SHARE = 1 / 3
CLOSE = 0.45, 0.95  # of the sum of van der Waals radii
APPROACH = 0.35, 1.2
REACH_ANG = 1.0  # pairs farther than this beyond their radii are not pushed together
LARGEST_FORCE_EV_PER_ANG = 300.0
RISE_EV = -1.0, 15.0  # above the structures that a frame was made of; below, it has collapsed
FAR = 1e6  # bonds between molecules

Maker = Callable[[Sequence[Atoms], np.random.Generator], Atoms | None]


def _hops(atoms: Atoms) -> np.ndarray:
    """Number of bonds between every two atoms, shape (N, N); FAR between molecules."""
    return np.minimum(shortest_path(bonds(atoms), unweighted=True), FAR)


def _radii(atoms: Atoms) -> np.ndarray:
    return np.nan_to_num(vdw_radii[atoms.numbers], nan=2.0)  # Å, (N,)


def _moved(atoms: Atoms, hops: np.ndarray, i: int, j: int, distance: float) -> Atoms:
    """Bring two atoms to a distance (Å); what is bound to either moves along, by its bonds.

    Atoms nearer to i than to j move as i does, those beyond j as j; what lies between them moves
    in proportion, so that the strain is spread over the bonds from i to j.
    """
    vector = atoms.get_distance(i, j, mic=True, vector=True)
    length = np.linalg.norm(vector)
    share = np.clip((hops[:, j] - hops[:, i]) / hops[i, j], -1.0, 1.0)  # (N,)
    moved = atoms.copy()
    moved.positions += share[:, None] * (length - distance) / 2 * vector / length
    return moved


def _bond(sources: Sequence[Atoms], rng: np.random.Generator) -> Atoms | None:
    """A bond squeezed or stretched."""
    atoms = sources[int(rng.integers(len(sources)))]
    hops = _hops(atoms)
    pairs = np.argwhere(np.triu(hops == 1))
    if not len(pairs):
        return None
    i, j = pairs[rng.integers(len(pairs))]
    factor = rng.uniform(*(STRETCHED if rng.random() < STRETCHED_SHARE else SQUEEZED))
    return _moved(atoms, hops, i, j, factor * atoms.get_distance(i, j, mic=True))


def _contact(sources: Sequence[Atoms], rng: np.random.Generator) -> Atoms | None:
    """Two atoms that are not bonded, pushed together."""
    atoms = sources[int(rng.integers(len(sources)))]
    hops, radii = _hops(atoms), _radii(atoms)
    touching = radii + radii[:, None]  # (N, N)
    distances = atoms.get_all_distances(mic=True)
    pairs = np.argwhere(np.triu((hops > 1) & (distances < touching + REACH_ANG)))
    if not len(pairs):
        return None
    i, j = pairs[rng.integers(len(pairs))]
    distance = rng.uniform(*CLOSE) * min(distances[i, j], touching[i, j])
    return _moved(atoms, hops, i, j, distance)


def _approach(sources: Sequence[Atoms], rng: np.random.Generator) -> Atoms | None:
    """Two structures turned at random, as near as their closest atoms shall be."""
    a, b = (sources[int(k)].copy() for k in rng.integers(len(sources), size=2))
    if a.pbc.any() or b.pbc.any():
        return None
    b.rotate(360 * rng.random(), rng.standard_normal(3))
    b.positions -= b.positions.mean(0)
    a.positions -= a.positions.mean(0)
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    wanted = rng.uniform(*APPROACH) * (_radii(a)[:, None] + _radii(b))  # (A, B)
    vectors = b.positions - a.positions[:, None]  # (A, B, 3)
    along = vectors @ direction
    # |vector + t direction| = wanted, a quadratic equation in t: the last pair to touch counts
    square = along**2 - (vectors**2).sum(-1) + wanted**2
    touch = np.sqrt(square, where=square >= 0, out=np.full_like(square, -np.inf)) - along
    if not np.isfinite(touch.max()):
        return None
    b.positions += touch.max() * direction
    return _joined(a, b)


def _joined(a: Atoms, b: Atoms) -> Atoms:
    """Both structures as one, in RDKit's order if they have a SMILES: added hydrogens last."""
    order = np.arange(len(a) + len(b))
    joined = a + b
    info = {}
    if "smiles" in a.info and "smiles" in b.info:
        heavy_a, heavy_b = (n_written(x.info["smiles"]) for x in (a, b))
        order_a, order_b = order[: len(a)], order[len(a) :]
        order = np.concatenate(
            [order_a[:heavy_a], order_b[:heavy_b], order_a[heavy_a:], order_b[heavy_b:]]
        )
        info["smiles"] = f"{a.info['smiles']}.{b.info['smiles']}"
    joined = joined[order]
    joined.info = {**info, "parents_ev": a.info["parents_ev"] + b.info["parents_ev"]}
    return joined


KINDS: dict[str, Maker] = {"bonds": _bond, "contacts": _contact, "approaches": _approach}


def short_range_frames(
    sources: Sequence[Atoms], n_frames: Mapping[str, int], seed: int = 0
) -> list[Atoms]:
    """Distorted copies of structures.

    ``bonds``: a bond squeezed to 0.55-0.95 or stretched to 1.05-1.8 of its length. ``contacts``:
    two atoms that are not bonded, at 0.45-0.95 of their distance or of the sum of their van der
    Waals radii, whichever is less. ``approaches``: two molecules whose closest atoms are at
    0.35-1.2 of the sum of their radii (not for periodic structures).

    Args:
        sources: structures (Å), ``parents_ev`` and where known ``smiles`` in their ``info``.
        n_frames: kind -> number of frames.
        seed: seed of all that is drawn.

    Returns:
        Structures with their ``kind`` in ``info``, fewer where the sources allow none of a kind.

    Raises:
        DataError: an unknown kind.
    """
    made = []
    for k, (kind, n) in enumerate(n_frames.items()):
        if kind not in KINDS:
            raise DataError(f"expected kinds of frames out of {', '.join(KINDS)}, got {kind!r}")
        rng = np.random.default_rng([seed, k])
        frames = [f for _ in range(n) if (f := KINDS[kind](sources, rng)) is not None]
        if len(frames) < n:
            log.warning("%d of %d frames of kind %s cannot be made", n - len(frames), n, kind)
        for frame in frames:
            frame.info["kind"] = kind
        made += frames
    return made


def read_sources(path: str | Path, n_frames: int, seed: int, energy_key: str) -> list[Atoms]:
    """Structures of a labelled database, drawn at random.

    Args:
        path: SchNetPack database.
        n_frames: number of structures; all if there are not as many.
        seed: seed of the draw.
        energy_key: property that holds the energy.

    Returns:
        Structures (Å) with their energy in ``info["parents_ev"]``.
    """
    with connect(str(path), use_lock_file=False) as db:
        metadata = db.metadata
        factor = unit_factor(metadata["_property_unit_dict"][energy_key], "energy")
        n = db.count()
        drawn = np.random.default_rng(seed).permutation(n)[:n_frames]
        sources = []
        for row in (db.get(int(i) + 1) for i in np.sort(drawn)):
            atoms = row.toatoms()
            to_angstrom(atoms, metadata)
            smiles = row.key_value_pairs.get("smiles")
            atoms.info = {} if smiles is None else {"smiles": smiles}
            atoms.info["parents_ev"] = float(np.ravel(row.data[energy_key])[0]) * factor
            sources.append(atoms)
    return sources


def make_short_range(
    path: str | Path,
    source: str | Path,
    calculator: Mapping[str, Any],
    n_frames: Mapping[str, int],
    seed: int = 0,
    energy_key: str = "energy",
    n_workers: int | None = None,
) -> Path:
    """Distort structures of a database and label them with its force field.

    Left out are frames on which the engine fails, with forces above 300 eV/Å, and energies more
    than 15 eV above those of the structures that they were made of or 1 eV below (where a point
    charge has fallen into another).

    Args:
        path: the database to make; kept if it was made with the same arguments, resumed from its
            partial file if it was begun.
        source: SchNetPack database with structures and their energies.
        calculator: Hydra node of the force field. RDKit's takes bonds from the structures before
            they are distorted.
        n_frames: kind -> number of frames, see :func:`short_range_frames`.
        seed: seed of all that is drawn.
        energy_key: property of ``source`` that holds the energy.
        n_workers: worker processes; all cores when None.

    Returns:
        ``path``.

    Raises:
        DataError: ``path`` was made with other arguments, or the structures allow no such frames.
        LabelError: no frame was labelled.
    """
    path = Path(path)
    settings = {
        "source": str(source),
        "calculator": dict(calculator),
        "n_frames": dict(n_frames),
        "seed": seed,
    }
    if path.exists():
        _refuse_other(path, settings)
        return path
    n = sum(n_frames.values())
    sources, calculator = _prepared(read_sources(source, n, seed, energy_key), source, calculator)
    frames = short_range_frames(sources, n_frames, seed)
    if not frames:
        raise DataError(
            f"expected molecules, or atoms within reach of each other, in {source} to make "
            f"{' and '.join(n_frames)} of; got none"
        )
    raw = path.with_name(f"{path.stem}.raw.db")
    kept = filter(_is_sound, _labels(frames, calculator, raw, n_workers))
    write_database(path, kept, {**settings, "fingerprint": fingerprint(settings)})
    raw.unlink(missing_ok=True)
    return path


def _labels(
    frames: Sequence[Atoms], calculator: Mapping[str, Any], raw: Path, n_workers: int | None
) -> Iterator[Atoms]:
    """Frames with their labels: RDKit's here, as worker processes would start for longer."""
    if isinstance(engine := make_calculator(calculator), RDKitForceField):
        for frame in tqdm(frames, "labelling", unit="frame"):
            with suppress(LabelError):
                yield compute_label(frame, engine)
        return
    if not raw.exists() and label_frames(frames, calculator, raw, n_workers=n_workers).path is None:
        raise LabelError(
            f"{calculator.get('_target_')} labelled none of {len(frames)} distorted frames; check "
            "that it runs on the structures of the database"
        )
    with connect(str(raw), use_lock_file=False) as db:
        for row in db.select():
            yield labelled(row, row.data["energy"][0], row.data["forces"], **row.key_value_pairs)


def _refuse_other(path: Path, settings: Mapping[str, Any]) -> None:
    with connect(str(path), use_lock_file=False) as db:
        found = db.metadata.get("fingerprint")
    if found != (wanted := fingerprint(settings)):
        raise DataError(
            f"{path} was made with other settings (expected fingerprint {wanted}, got {found}); "
            "delete it, or restore the settings"
        )


def _prepared(
    sources: list[Atoms], path: str | Path, calculator: Mapping[str, Any]
) -> tuple[list[Atoms], dict[str, Any]]:
    """Fix the bonds of RDKit's force fields, which it would perceive from distorted structures."""
    config = dict(calculator)
    engine = make_calculator(config)
    if not isinstance(engine, RDKitForceField):
        return sources, config
    own = config.pop("smiles", None)
    known = [*([own] if own else []), *known_smiles(path)]
    return [with_smiles(atoms, known, engine) for atoms in sources], config


def _is_sound(atoms: Atoms) -> bool:
    largest = np.linalg.norm(atoms.get_forces(), axis=1).max()
    rise = atoms.get_potential_energy() - atoms.info["parents_ev"]
    return bool(largest < LARGEST_FORCE_EV_PER_ANG and RISE_EV[0] < rise < RISE_EV[1])
