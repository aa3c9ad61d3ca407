"""Settings of the whole run, before anything imports torch."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # side by side, more threads than cores are slower
    os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ.setdefault("REFLOW_STRICT", "1")  # an error in the analysis of a collapse is raised, not only told

import pytest


@pytest.fixture(autouse=True)
def seeded():
    """Each test draws the same numbers in every run, whatever ran before it."""
    import random

    import numpy as np
    import torch

    random.seed(0), np.random.seed(0), torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def names_as_before():
    """What a test file registers is known to no other file."""
    from reflow_lightning.calibration.calibrate import REPAIRS
    from reflow_lightning.pruning.allocations.registry import ALLOCATIONS
    from reflow_lightning.pruning.criteria.registry import CRITERIA

    before = [(registry, dict(registry._found)) for registry in (REPAIRS, ALLOCATIONS, CRITERIA)]
    yield
    for registry, found in before:
        registry._found = found
