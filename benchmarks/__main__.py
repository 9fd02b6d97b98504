"""Measure TPaiNN beside stock SchNetPack.

    python -m benchmarks            # every row, 1 and 2 threads, glibc's malloc default and tuned
    python -m benchmarks --rows energy,md-192 --seconds 5 --threads 1 --malloc default
    python -m benchmarks profile energy-1536 --model TPaiNN
    python -m benchmarks render benchmarks/results/speed.json

Every row, with one allocator and number of threads, is a process of its own, in which the models
take turns. Rows that the file of results holds from before, from the same machine and commit, stay
in it. The status is 1 if a model does not compute what the stock one does.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.report import failed, markdown, one_line
from schnetpack_tpainn.files import write_json

MALLOC = {
    "default": {},
    "tuned": {  # glibc keeps pages rather than giving them back
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TRIM_THRESHOLD_": "17179869184",
        "MALLOC_TOP_PAD_": "268435456",
    },
}
KINDS = ("energy", "train", "epoch", "md", "help", "peers")


def names(text: str) -> list[str]:
    """Split at commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parser() -> argparse.ArgumentParser:
    """Command line: ``run``, the default, ``profile``, ``render``, and ``row``, used by ``run``."""
    text = __doc__ or ""
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=text.splitlines()[0])
    commands = top.add_subparsers(dest="command", required=True)
    measured = argparse.ArgumentParser(add_help=False)
    measured.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--seconds", type=float, default=20.0, help="least time for a row")
    shared.add_argument(
        "--variants", default="TPaiNN,TPaiNN compiled,TPaiNN torch", help="models beside stock"
    )
    shared.add_argument("--peers", type=Path, help="folder for MACE and NequIP")
    run = commands.add_parser("run", parents=[measured, shared], help="measure rows")
    run.add_argument("--rows", default=",".join(KINDS), help="kinds such as energy, or energy-192")
    run.add_argument("--threads", default="1,2")
    run.add_argument("--malloc", default="default,tuned")
    run.add_argument("--out", type=Path, default=Path("benchmarks/results/speed.json"))
    run.add_argument("--markdown", action="store_true", help="print the tables at the end")
    row = commands.add_parser("row", parents=[measured, shared], help="one row, in this process")
    row.add_argument("row")
    row.add_argument("--threads", type=int, default=1)
    row.add_argument("--out", type=Path, required=True)
    profile = commands.add_parser("profile", parents=[measured], help="where a row's time goes")
    profile.add_argument("row")
    profile.add_argument("--model", default="TPaiNN")
    profile.add_argument("--threads", type=int, default=1)
    render = commands.add_parser("render", help="print the tables of a JSON file")
    render.add_argument("file", type=Path)
    return top


def selected(wanted: list[str], known: list[str]) -> list[str]:
    """Rows by name or by kind.

    Args:
        wanted: kinds such as ``energy``, or names such as ``energy-192``.
        known: all names.

    Returns:
        Names, in the order of ``known``.

    Raises:
        SystemExit: one matches nothing.
    """
    for name in wanted:
        if not any(name in (row, row.split("-")[0]) for row in known):
            raise SystemExit(f"--rows: expected some of {', '.join(known)}, got {name!r}")
    return [row for row in known if row in wanted or row.split("-")[0] in wanted]


def measure(row: str, threads: int, malloc: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run one row in a process with its own allocator.

    Args:
        row: name.
        threads: of torch, and of the processes that the row starts.
        malloc: out of ``MALLOC``.
        given: the command line.

    Returns:
        The row's result; ``error`` if its process failed.
    """
    env = os.environ | MALLOC[malloc] | {"OMP_NUM_THREADS": str(threads)}
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, "-m", "benchmarks", "row", row, "--out", out]
        for option in ("seconds", "device", "variants"):
            command += [f"--{option}", str(getattr(given, option))]
        command += ["--threads", str(threads)]
        if given.peers is not None:
            command += ["--peers", given.peers]
        done = subprocess.run(command, env=env, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0:
            found = json.loads(out.read_text())
        else:
            last = done.stderr.strip().splitlines()[-1:] or [""]
            found = {"error": f"status {done.returncode}: {last[0]}"}
            print(done.stderr, file=sys.stderr)
    place = {"row": row, "device": given.device, "threads": threads, "malloc": malloc}
    return place | found


def run(given: argparse.Namespace) -> int:
    """Measure rows, one process after the other; the file is whole after each.

    Args:
        given: the command line.

    Returns:
        1 if a row failed, otherwise 0.
    """
    from benchmarks.rows import ROWS

    rows = selected(names(given.rows), list(ROWS))
    jobs = [
        (row, int(threads), malloc)
        for threads in names(given.threads)
        for malloc in names(given.malloc)
        for row in rows
    ]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"command": f"python -m benchmarks {shlex.join(sys.argv[1:])}", "machine": describe()}
    results: dict[tuple, dict[str, Any]] = {}
    if given.out.exists():
        before = json.loads(given.out.read_text())
        if before["machine"] == report["machine"]:
            results = {key(result): result for result in before["results"]}
    status = 0
    for number, job in enumerate(jobs, 1):
        row, threads, malloc = job
        print(f"[{number}/{len(jobs)}] {row}, {threads} threads, {malloc} malloc", flush=True)
        result = measure(*job, given)
        print(one_line(result), flush=True)
        results[key(result)] = result
        status |= failed(result)
        write_json(given.out, {**report, "results": list(results.values())})
    if given.markdown:
        print(markdown(json.loads(given.out.read_text())))
    return status


def key(result: dict[str, Any]) -> tuple:
    """What tells a result from others."""
    return tuple(result[name] for name in ("device", "threads", "malloc", "row"))


def run_row(given: argparse.Namespace) -> int:
    """Measure one row in this process.

    Args:
        given: the command line.

    Returns:
        0; what is wrong is in the result.
    """
    import torch

    from benchmarks.rows import ROWS
    from benchmarks.timing import Settings

    torch.set_num_threads(given.threads)
    settings = Settings(
        seconds=given.seconds,
        device=given.device,
        variants=tuple(names(given.variants)),
        threads=given.threads,
        peers=given.peers,
    )
    found = ROWS[given.row](settings)
    if given.device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    write_json(given.out, found)
    return 0


def profile(given: argparse.Namespace) -> int:
    """Print where a row's time goes.

    Args:
        given: the command line.

    Returns:
        0.
    """
    from benchmarks.profiling import table

    print(table(given.row, given.model, given.device, given.threads))
    return 0


def render(given: argparse.Namespace) -> int:
    """Print the tables of a file.

    Args:
        given: the command line.

    Returns:
        0.
    """
    print(markdown(json.loads(given.file.read_text())))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; without a command it is that of ``run``.

    Args:
        arguments: of the command line.

    Returns:
        Command and options.
    """
    if not arguments or arguments[0] not in (*COMMANDS, "-h", "--help"):
        arguments = ["run", *arguments]
    return parser().parse_args(arguments)


COMMANDS = {"run": run, "row": run_row, "profile": profile, "render": render}


if __name__ == "__main__":
    given = parse(sys.argv[1:])
    sys.exit(COMMANDS[given.command](given))
