"""Lightning data modules of the experiments."""
