"""The console scripts."""

import os

# Before torch is there: between its matrix products, OpenMP's threads would otherwise wait in busy
# loops on the cores that the threads of our kernels need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
