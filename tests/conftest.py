"""Settings of the whole run, before anything imports torch."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # side by side, more threads than cores are slower
    os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ.setdefault("REFLOW_STRICT", "1")  # an error in the analysis of a collapse is raised, not only told
