"""Settings of the whole run, before anything imports torch."""

import functools
import os

if "PYTEST_XDIST_WORKER" in os.environ:  # side by side, more threads than cores are slower
    os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ.setdefault("REFLOW_STRICT", "1")  # an error in the analysis of a collapse is raised, not only told

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``--dist loadscope``, files whose tests share processes go to one worker, so that these start once."""
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return file if shares_processes(config.rootpath / file) else nodeid

    return Scheduling(config, log)


@functools.cache
def shares_processes(path):
    """Whether a file has a fixture of its own that starts several processes."""
    text = path.read_text()
    return "from scenarios.processes import" in text and 'scope="module"' in text


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
