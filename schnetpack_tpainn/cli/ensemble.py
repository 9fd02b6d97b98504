"""``tpainn-ensemble``: several tuned networks, with calibrated uncertainty."""

from collections.abc import Sequence

from schnetpack_tpainn.cli.study import launch
from schnetpack_tpainn.errors import EnsembleError

__all__ = ["main"]

HELP = """\
tpainn-ensemble experiment=EXPERIMENT [ensemble.KEY=VALUE ...] [KEY=VALUE ...]

Tunes several networks from one pretrained model, or from several (ensemble.checkpoints), on the
same labels or on draws from them, and calibrates their spread on the validation labels. What is
finished is not repeated; a larger ensemble.members adds some. For example:

  tpainn-ensemble experiment=tpainn_autotune ensemble.members=4
  tpainn-ensemble experiment=tpainn_autotune ensemble.resampling=null data.batch_size=5
  tpainn-ensemble experiment=tpainn_autotune hydra/launcher=submitit_slurm

The keys of `ensemble` are described in configs/ensemble/default.yaml. Keys outside of it are those
of spktrain, and hold for every member. In ensemble.directory: ensemble.safetensors (for tpainn-md
and EnsembleCalculator), ensemble.json, ensemble.md, reliability.png and .pdf, members/.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make an ensemble; exits with a message if something failed.

    Args:
        argv: command line; the process's own when None.
    """
    launch(argv, "ensemble", HELP, EnsembleError)
