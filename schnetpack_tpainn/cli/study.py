"""``tpainn-study``: strategies side by side over numbers of labels and seeds."""

import sys
from collections.abc import Sequence

from schnetpack_tpainn.errors import StudyError, TPaiNNError

__all__ = ["arguments", "launch", "main"]

HELP = """\
tpainn-study experiment=EXPERIMENT [study=STUDY] [study.KEY=VALUE ...] [KEY=VALUE ...]

Error against number of labels for each strategy, from the same budget and on the same test frames.
What is finished is not repeated. For example:

  tpainn-study experiment=tpainn_autotune study.n_train=[10,25,50] study.seeds=[0,1,2]
  tpainn-study experiment=tpainn_qm9 study.compare=[scratch,full,lora]
  tpainn-study experiment=tpainn_qm9 hydra/launcher=submitit_slurm hydra.launcher.partition=gpu

STUDY is a file of the config group `study`: the experiment's name where there is one of that name,
else `default`, which describes every key. Keys outside of `study` are those of spktrain, and hold
for every run. Results: study.json, study.md, study.png and study.pdf in study.directory.
"""


def arguments(
    argv: Sequence[str], group: str = "study", error: type[TPaiNNError] = StudyError
) -> list[str]:
    """Arguments of SchNetPack's command line that run the study.

    Args:
        argv: arguments of this one.
        group: config group that has what is to be run.
        error: class of the error.

    Returns:
        They, with multirun and the study's config.

    Raises:
        TPaiNNError: no experiment is named.
    """
    from hydra_plugins.schnetpack_tpainn.searchpath import config_dir

    named = [a.partition("=")[2] for a in argv if a.startswith("experiment=")]
    if not named:
        raise error(
            f"expected experiment=..., got none; for example `tpainn-{group} "
            "experiment=tpainn_autotune`"
        )
    chosen = [a for a in argv if a.startswith((f"{group}=", f"+{group}="))]
    rest = [a for a in argv if a not in chosen]
    name = chosen[-1].partition("=")[2] if chosen else named[-1]
    if not chosen and not (config_dir() / group / f"{name}.yaml").is_file():
        name = "default"
    return ["--multirun", f"+{group}={name}", *rest]


def launch(argv: Sequence[str] | None, group: str, text: str, error: type[TPaiNNError]) -> None:
    """Run what a config group describes.

    Args:
        argv: command line; the process's own when None.
        group: the config group, and the command's name without ``tpainn-``.
        text: its help.
        error: class of the error.

    Raises:
        SystemExit: something failed; its text says what to do.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        print(text, end="")
        return
    try:
        sys.argv = [f"tpainn-{group}", *arguments(words, group, error)]
    except TPaiNNError as problem:
        raise SystemExit(f"{type(problem).__name__}: {problem}") from problem
    from schnetpack.cli import train

    train()


def main(argv: Sequence[str] | None = None) -> None:
    """Run a study; exits with a message if something failed.

    Args:
        argv: command line; the process's own when None.
    """
    launch(argv, "study", HELP, StudyError)
