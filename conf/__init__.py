"""Hydra configuration of the experiments; a package, so that it is found wherever this project is installed."""
