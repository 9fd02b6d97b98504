"""``spktrain --help`` with our Hydra plugin and without it."""

import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.timing import Settings, Work, clocked, time_sound
from hydra_plugins.schnetpack_tpainn.searchpath import config_dir

__all__ = ["WITH", "WITHOUT", "check", "run"]

WITHOUT, WITH = "without plugin", "with plugin"
HIDE = f"import sys; sys.path.remove({str(config_dir().parent)!r}); "
HELP = "sys.argv = ['spktrain', '--help']; from schnetpack.cli import train; train()"
CODE = {WITHOUT: HIDE + HELP, WITH: "import sys; " + HELP}


def show_help(name: str) -> str:
    """Run the command in a fresh process, in a folder that holds nothing of ours.

    Args:
        name: ``WITH`` or ``WITHOUT``.

    Returns:
        What it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CODE[name]]
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True
        ).stdout


def check(name: str) -> dict[str, Any]:
    """See whether the plugin was there: our configs are in the help, or are not.

    Args:
        name: ``WITH`` or ``WITHOUT``.

    Returns:
        ``correct``.
    """
    return {"correct": ("tpainn_potential" in show_help(name)) == (name == WITH)}


def run(settings: Settings) -> dict[str, Any]:
    """Check, then time.

    Args:
        settings: how to measure.

    Returns:
        ``models``: with and without the plugin.
    """

    def works(names: list[str]) -> dict[str, Work]:
        return {name: clocked(lambda name=name: show_help(name)) for name in names}

    return time_sound({name: check(name) for name in CODE}, works, settings, WITHOUT)
