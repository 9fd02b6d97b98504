"""Ensembles of tuned networks: train the members, calibrate their spread, report it."""
