"""T-PaiNN for SchNetPack: pretrain on a classical force field, autotune on a few DFT labels.

The import is light: nothing here loads torch.
"""

__version__ = "0.1.0"
