"""What is installed is what is in the repository."""

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import reflow_lightning

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def test_public_names():
    assert sorted(reflow_lightning.__all__) == [
        "Gradual",
        "Iterative",
        "Masks",
        "OneShot",
        "Pruner",
        "Reflow",
        "SignalMonitor",
        "WithAttentionMask",
        "calibrate",
        "collapse",
        "find_sparsity",
        "measure_signal",
        "prune",
    ]
    assert all(hasattr(reflow_lightning, name) for name in reflow_lightning.__all__)


def test_the_package_is_typed():
    assert (files("reflow_lightning") / "py.typed").is_file()


def test_every_package_and_config_group_is_listed_for_the_build():
    """The build maps conf/ into the package, which rules out automatic discovery."""
    listed = set(re.findall(r'^  "(reflow_lightning[\w.]*)",$', PYPROJECT, flags=re.MULTILINE))
    code = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("reflow_lightning/**/__init__.py")}
    groups = {f"reflow_lightning.conf.{path.parent.name}" for path in ROOT.glob("conf/*/*.yaml")}
    assert listed == code | groups | {"reflow_lightning.conf"}


def test_every_target_of_the_configuration_is_ours_or_a_class_of_torch_or_lightning():
    for path in (ROOT / "conf").glob("**/*.yaml"):
        for target in re.findall(r"^\s*_target_: (\S+)", path.read_text(), flags=re.MULTILINE):
            if target == "???":  # of one's own
                continue
            assert target.split(".")[0] in ("reflow_lightning", "torch", "lightning"), target
            module, _, name = target.rpartition(".")
            found = getattr(__import__(module, fromlist=[name]), name)
            assert isinstance(found, type) or found.__module__.startswith("reflow_lightning."), target


def test_importing_the_package_is_quiet():
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", "from reflow_lightning import *"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
