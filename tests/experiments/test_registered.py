import subprocess
import sys

import pytest

from reflow_lightning.calibration.calibrate import REPAIRS
from reflow_lightning.experiments.registered import KINDS, registered
from reflow_lightning.pruning.allocations.registry import ALLOCATIONS
from reflow_lightning.pruning.criteria.registry import CRITERIA

AFRESH = """
import re, sys
from importlib.resources import files
from reflow_lightning.experiments.registered import KINDS, registered
read = {kind: registered(kind) for kind in KINDS}
assert "torch" not in sys.modules
from reflow_lightning.calibration.calibrate import REPAIRS
from reflow_lightning.pruning.allocations.registry import ALLOCATIONS
from reflow_lightning.pruning.criteria.registry import CRITERIA
registries = {"criterion": CRITERIA, "allocation": ALLOCATIONS, "repair": REPAIRS}
assert read == {kind: sorted(registry) for kind, registry in registries.items()}, read
assert all(read.values())
lines = files("reflow_lightning.conf").joinpath("config.yaml").read_text().splitlines()
for kind, names in read.items():
    [line] = [line for line in lines if line.startswith(f"{kind}:")]
    assert set(names) <= set(re.findall("[a-z]+", line)), line
"""


def test_what_is_read_from_the_files_is_what_importing_them_registers_and_the_configuration_names():
    done = subprocess.run([sys.executable, "-c", AFRESH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("kind", "registry"), [*zip(KINDS, (CRITERIA, ALLOCATIONS, REPAIRS), strict=True)])
def test_names_of_ones_own_are_known_where_the_registry_was_imported(kind, registry, monkeypatch):
    monkeypatch.setitem(registry._found, "of_mine", lambda *arguments: None)
    assert registered(kind) == sorted(registry)
