"""What the README says can be run, runs; what it links to exists."""

import re
from pathlib import Path

import pytest
from scenarios.commands import program

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
SWEEPS = [line for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL) for line in block.splitlines()]


def test_there_are_examples():
    assert len(BLOCKS) == 6


@pytest.mark.parametrize("block", BLOCKS)
def test_examples_run(block, tmp_path):
    done = program(block, tmp_path)
    assert done.status == 0, done.text


@pytest.mark.parametrize("line", [line for line in SWEEPS if line.startswith("reflow-lightning")])
def test_overrides_exist(line):
    from reflow_lightning.experiments.overrides import complaints

    if "launcher=joblib" in line:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    _, *arguments = line.split()
    search = arguments[0] == "search"
    assert complaints(arguments[search:], "search" if search else "config") == []


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_links_lead_somewhere(path):
    titles = re.findall(r"^#+ (.*)$", README, flags=re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert path in anchors or (ROOT / path).exists()


def test_the_arguments_of_the_callback_are_explained():
    import inspect

    from reflow_lightning import Reflow

    for name in set(inspect.signature(Reflow.__init__).parameters) - {"self", "sparsity"}:
        assert f"`{name}`" in README, name


def test_there_are_two_commands_each_on_one_line():
    for mark in ("run", "test"):
        [command] = re.findall(rf"<!-- {mark} -->\n```bash\n(.*)\n```", README)
        assert command.startswith("python -m pip install")
