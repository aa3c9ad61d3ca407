import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data():
    """The folder with real data sets and weights."""
    if not (folder := os.environ.get("REFLOW_DATA")):
        pytest.skip("REFLOW_DATA names no folder")
    return Path(folder)
