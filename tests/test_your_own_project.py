"""The foreign project of docs/your_own_project.md, in an empty folder, with this package installed from its wheel."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "your_own_project.md").read_text()
FILES = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = re.findall(r"^```bash\n(.*?)\n```$", PAGE, re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.slow


def command(*arguments, cwd, **environment):
    done = subprocess.run(arguments, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package as a wheel brings it, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("reflow_lightning", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    command(*pip, "wheel", "-q", "--no-deps", "-w", str(folder), str(source), cwd=folder)
    (wheel,) = folder.glob("*.whl")
    command(*pip, "install", "-q", "--no-deps", "--target", str(folder / "site"), str(wheel), cwd=folder)
    return folder / "site"


@pytest.fixture
def project(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_page_has_the_files_and_commands():
    assert set(FILES) == {
        "mine.py",
        "conf/experiment/mine.yaml",
        "configs/train.yaml",
        "train.py",
        "cli.py",
        "cli.yaml",
    }
    assert len(COMMANDS) == 5


@pytest.mark.parametrize("text", COMMANDS, ids=lambda text: text[:60])
def test_each_command_of_the_page_prunes_the_network(text, project, installed):
    program, *arguments = text.split()
    program = {"reflow-lightning": ("-m", "reflow_lightning"), "python": ()}[program]
    place = os.pathsep.join([str(installed), str(project)])
    said = command(sys.executable, *program, *arguments, cwd=project, PYTHONPATH=place, COLUMNS="200")
    if program:
        assert "Net on Data" in said
        assert "repaired" in said
        assert " mse " in said
    elif "train.py" in text:
        assert "sparsity 0.5" in said
    else:
        assert re.search(r"Reflow at step \d+: sparsity 0\.5", said)


def test_the_package_is_the_installed_one(project, installed):
    place = os.pathsep.join([str(installed), str(project)])
    said = command(
        sys.executable, "-c", "import reflow_lightning as r; print(r.__file__)", cwd=project, PYTHONPATH=place
    )
    assert said.startswith(str(installed))
