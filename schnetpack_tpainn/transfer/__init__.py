"""Carry a model trained on a force field over to DFT labels."""
