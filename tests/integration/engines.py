"""Calculators that behave like engines: slow, or deadly."""

import os
import signal
import time
from pathlib import Path

from ase.calculators.lj import LennardJones


class SlowLJ(LennardJones):
    """Takes its time, as DFT does."""

    def __init__(self, seconds: float, **kwargs):
        super().__init__(**kwargs)
        self.seconds = seconds

    def calculate(self, *args, **kwargs):
        time.sleep(self.seconds)
        super().calculate(*args, **kwargs)


class DeadlyLJ(LennardJones):
    """Kills its process, as the kernel does when memory runs out, once for each frame of CO."""

    def __init__(self, tally: str, **kwargs):
        super().__init__(**kwargs)
        self.tally = Path(tally)

    def calculate(self, atoms=None, *args, **kwargs):
        if atoms.get_chemical_formula() == "CO" and not self.tally.exists():
            self.tally.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super().calculate(atoms, *args, **kwargs)
