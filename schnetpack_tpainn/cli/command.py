"""What the commands have in common."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from schnetpack_tpainn.errors import TPaiNNError

__all__ = ["run_command"]


def run_command(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace, Console], int | None],
    words: Sequence[str] | None,
) -> int:
    """Parse a command line and do its work; an error of use is one line on stderr.

    Args:
        parser: of the command.
        work: what it does, from its arguments; gives the exit status, None for 0.
        words: the command line; that of the process when None.

    Returns:
        Exit status, 2 on an error of use.
    """
    arguments = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return work(arguments, Console()) or 0
    except TPaiNNError as error:
        print(f"{parser.prog}:", *str(error).split(), file=sys.stderr)
        return 2
